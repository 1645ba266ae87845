"""The composition root: makes every component of a node, and connects those that do not connect themselves."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from time import monotonic
from typing import Final

from eventbus_core.backend import Directory, Transport
from eventbus_core.concurrency.deadlines import Deadlines
from eventbus_core.concurrency.loop_entry import LoopEntry
from eventbus_core.concurrency.pace import Pace, longest_rest
from eventbus_core.concurrency.service_group import ServiceGroup
from eventbus_core.errors import EventBusError, TopicNotRetained, TransportUnavailable
from eventbus_core.history.appender import Appender
from eventbus_core.history.feeds import Feeds
from eventbus_core.history.history_parts import HistoryParts
from eventbus_core.history.history_reader import HistoryReader
from eventbus_core.history.queue_streams import QueueStreams
from eventbus_core.history.retaining_sender import ClientRetainingSender, RetainingSender
from eventbus_core.history.share_relay import ShareRelay
from eventbus_core.history.topic_history import TopicHistory
from eventbus_core.mailbox.handler import Handler
from eventbus_core.mailbox.handler_scheduler import HandlerScheduler
from eventbus_core.mailbox.pool import MailboxPool
from eventbus_core.mailbox.slow_consumers import SlowConsumers
from eventbus_core.membership.barrier import Barrier
from eventbus_core.membership.channel import ControlChannel
from eventbus_core.membership.confirmation import Confirmation
from eventbus_core.membership.failure_detector import FailureDetector
from eventbus_core.membership.held_client import HeldClient
from eventbus_core.membership.lease import Lease
from eventbus_core.membership.ownership import Ownership
from eventbus_core.membership.peer_directory.peer_directory import PeerDirectory
from eventbus_core.membership.presence import Presence
from eventbus_core.model.event import Event
from eventbus_core.model.event_ids import EventIds
from eventbus_core.model.names import check_topic
from eventbus_core.model.reports import Dropped, Gap
from eventbus_core.model.state import NodeState
from eventbus_core.model.topics import SHARES
from eventbus_core.node.adoption import Adoption
from eventbus_core.node.client_lifecycle import ClientLifecycle
from eventbus_core.node.client_subscriptions import ClientSubscriptions
from eventbus_core.node.delivery import Delivery
from eventbus_core.node.draining import Draining
from eventbus_core.node.frame_limits import fit_options
from eventbus_core.node.hooks import Hooks
from eventbus_core.node.joining import Joining
from eventbus_core.node.queue_consumers import QueueConsumers
from eventbus_core.node.queue_dispatchers import QueueDispatchers
from eventbus_core.node.receiver import Receiver
from eventbus_core.observability.log import get_logger
from eventbus_core.observability.rejections import Rejections
from eventbus_core.options import BusOptions
from eventbus_core.outbox.broker_status import Ability, BrokerStatus
from eventbus_core.outbox.outbox import Outbox
from eventbus_core.routing.fanout import FanOut
from eventbus_core.routing.forwarding import Forwarder
from eventbus_core.routing.handler_registry import HandlerRegistry
from eventbus_core.routing.lanes import Lanes
from eventbus_core.routing.locator import Locator
from eventbus_core.routing.lost_nodes import LostNodes
from eventbus_core.routing.queues import Queues
from eventbus_core.routing.requests import Requests
from eventbus_core.routing.router import Router
from eventbus_core.routing.sender import Sender
from eventbus_core.routing.subscriptions import Subscriptions
from eventbus_core.routing.table import RoutingTable
from eventbus_core.routing.takeover import Takeover
from eventbus_core.routing.undeliverable import UndeliverableReports
from eventbus_core.session.registry import Sessions
from eventbus_core.wrappers.seal import Seals
from eventbus_core.wrappers.sealed import SealedTransport

logger = get_logger("eventbus")


class LocalNode:
    """
    One node: made by :func:`connect`, run by :class:`Lifecycle`, used by :class:`Bus` and :class:`Client`.

    Components are made from the lowest layer to the highest; each gets those that it uses as arguments. A lower one
    that reports what happened has a :class:`Signal`; the higher one connects to it in its constructor, or
    :meth:`_connect` does. The attributes are the components.
    """

    def __init__(self, transport: Transport, options: BusOptions) -> None:
        self.id: Final = transport.node
        self.rejections: Final = Rejections(self.id)
        self.transport: Final = self._sealed(transport, options)
        self.options: Final = fit_options(options, self.transport)
        self.state: Final = NodeState()
        self.services: Final = ServiceGroup()
        self.entry: Final = LoopEntry(self.state, self.services)
        self.hooks: Final = Hooks(self.id, self.services)
        self.deadlines: Final = Deadlines(self.state, options.send_timeout)
        self.ids: Final = EventIds()
        self.pace: Final = Pace(longest_rest(options.lease))
        self._make_transport_layers()
        self._make_membership()
        self._make_routing()
        self._make_receiving()
        self.history: Final = self._make_history()
        self.dispatchers: Final = None if self.history is None else self._make_dispatchers(self.history.queues)
        self._connect()

    def _sealed(self, transport: Transport, options: BusOptions) -> Transport:
        """Return *transport*, sealed if there is a secret: without one, nothing is spent on seals."""
        if not options.secret:
            return transport
        seals = Seals(options.secret, options.namespace, encrypt=options.encrypt)
        return SealedTransport(transport, seals, self.rejections)

    def _make_transport_layers(self) -> None:
        options, transport, state, hooks = self.options, self.transport, self.state, self.hooks
        self.sessions = Sessions(options, self.id, 0, ordered=transport.capabilities.ordered)
        self.lanes = Lanes(transport, self.sessions, self.services)
        self.status = BrokerStatus(self.id, self.state, hooks.on_disconnected.emit, hooks.on_reconnected.emit)
        self.outbox = Outbox(
            options, self.sessions, transport, self.status, state, self.lanes.accepted, self.services, self.pace.hurry
        )

    def _make_membership(self) -> None:
        options, transport, state = self.options, self.transport, self.state
        self.channel = ControlChannel(self.id, self.outbox, self.ids, self.rejections)
        self.peers = (
            PeerDirectory(options.namespace, self.channel, transport.capabilities.max_frame_size)
            if transport.directory is None
            else None
        )
        directory: Directory = transport.directory or self.peers  # type: ignore[assignment]  # one of the two is there
        self.directory = directory
        self.ownership = Ownership(directory, options, self.id, self.services)
        self.confirmation = Confirmation(directory, self.ownership, options.lease)
        self.lease = Lease(
            directory, options.lease, self.id, state, self.status, self.ownership, self.confirmation, self.services
        )
        self.detector = FailureDetector(
            self.id, options.lease, directory, self.sessions, self.lease, self.status, self.rejections, self.services
        )
        self.barrier = Barrier(self.channel, directory, self.services)

    def _make_routing(self) -> None:
        options, channel, ownership, outbox = self.options, self.channel, self.ownership, self.outbox
        self.subscriptions = Subscriptions(options, self.lanes)
        self.table = RoutingTable(outbox, options.owner_cache)
        self.requests = Requests(channel, self.deadlines, options.max_requests)
        self.reports = UndeliverableReports(
            channel, self.table, self.requests, self.subscriptions, self.hooks.on_undeliverable.emit
        )
        self.takeover = Takeover(channel, ownership, self.table, self.barrier, self.reports)
        self.forwarder = Forwarder(
            channel, self.directory, ownership, self.lease, self.table, self.takeover, self.reports, self.services
        )
        self.lost_nodes = LostNodes(
            outbox,
            self.sessions,
            self.table,
            self.takeover,
            self.forwarder,
            self.reports,
            self.requests,
            self.detector,
        )
        self.fanout = FanOut(options, outbox, self.sessions, self.subscriptions, self.deadlines, self.reports)
        self.locator = Locator(self.id, self.directory, ownership, self.lease, self.table, self.services)
        self.router = Router(channel, outbox, ownership, self.table, self.locator, self.fanout, self.deadlines)
        self.sender = self._sender_class()(
            self.router,
            self.fanout,
            self.table,
            ownership,
            self.requests,
            self.state,
            self.ids,
            options.max_event_size,
        )
        self.queues = Queues(
            options, channel, self.ids, ownership, self.requests, self.sender, self.deadlines, self.reports
        )

    def _make_receiving(self) -> None:
        options, hooks, ownership = self.options, self.hooks, self.ownership
        self.presence = Presence(self.channel, self.fanout.announce, enabled=options.presence)
        self.pool = MailboxPool(options, monotonic(), self.reports.dropped, self.pace.hurry)
        self.slow_consumers = SlowConsumers(self.pool.limits)
        self.handlers = HandlerRegistry(self.id, self.subscriptions, self.reports)
        self.scheduler = HandlerScheduler(
            self.id,
            self.pool.limits,
            self.services,
            self._handler_failed,
            self.lost,
            self.requests.taken.add,
            self.reports.interrupted,
        )
        self.consumers = QueueConsumers(self.queues, self.requests, self.scheduler)
        self.client_lifecycle = ClientLifecycle(
            self.state,
            ownership,
            self.takeover,
            self.subscriptions,
            self.pool.limits,
            self.forwarder,
            self.presence,
            hooks.on_dropped.emit,
        )
        self.adoption = Adoption(self.channel, self.directory, ownership, self.client_lifecycle, self.services)
        self.draining = Draining(
            self.channel, self.state, self.client_lifecycle, self.consumers, self.services, options.close_timeout
        )
        self.delivery = Delivery(
            self.channel,
            ownership,
            self.subscriptions,
            self.forwarder,
            self.reports,
            self.rejections,
            hooks.on_gap.emit,
        )
        self.receiver = Receiver(
            options.namespace,
            self.transport,
            self.sessions,
            self.scheduler,
            self.delivery,
            self.outbox,
            self.lanes.accepted,
            self.rejections,
        )
        self.joining = Joining(self.state, self.directory, ownership, self.sessions, self.subscriptions, self.deadlines)
        self.client_subscriptions = ClientSubscriptions(
            options.max_subscriptions,
            self.channel,
            ownership,
            self.subscriptions,
            self.locator,
            self.sender,
            self.joining,
            self.services,
        )

    def _sender_class(self) -> type[Sender]:
        """Return a class that spends nothing on what this bus does not retain."""
        if self.options.retain_clients:
            return ClientRetainingSender
        return RetainingSender if self.options.retained else Sender

    def _make_history(self) -> HistoryParts | None:
        """Return the components for retained topics; ``None`` if there are none: then nothing is spent on them."""
        options, history, sender, on_gap = self.options, self.transport.history, self.sender, self.hooks.on_gap.emit
        if history is None or not isinstance(sender, RetainingSender):
            return None
        relay = ShareRelay(self.fanout, self.ids, self.channel.address, self.transport.capabilities.max_frame_size)
        appender = Appender(self.id, history, options, self.state, relay.send)
        sender.retain(options, appender, self.deadlines)
        reader = HistoryReader(history, self.services)
        queues = QueueStreams(options, self.channel, sender, history, reader, self.queues, self.requests, on_gap)
        appender.queue_appended.connect(queues.appended)
        feeds = Feeds(options, self.subscriptions, reader, self.rejections, on_gap)
        shares = Handler(self.scheduler, f"{SHARES}>", feeds.on_share)
        self.subscriptions.topics.add(shares.name, shares.mailbox)  # the lanes come with what others subscribe to
        topics = TopicHistory(options, reader, feeds, self.subscriptions, self.deadlines)
        appender.refused.connect(self.reports.refused)
        self.receiver.interrupted.connect(feeds.distrust)
        self.delivery.missing.connect(feeds.distrust)
        self.delivery.trust(feeds.has_all)
        return HistoryParts(appender, reader, feeds, topics, queues, shares.mailbox)

    def _make_dispatchers(self, streams: QueueStreams) -> QueueDispatchers:
        return QueueDispatchers(streams, self.client_lifecycle, self.pool.limits, self.services, self.consumers)

    def _connect(self) -> None:
        self.outbox.refused.connect(self.reports.refused)
        self.sessions.when_due(self.pace.hurry)
        self.lanes.when_joined(self.joining.joined)
        self.ownership.doubted.connect(self.lease.hasten)
        self.confirmation.regained.connect(self._finish_takeovers)
        if self.dispatchers is not None:
            self.confirmation.regained.connect(self.dispatchers.regained)
        self.lease.secured.connect(self.pool.limits.secure)
        self.lease.lapsed.connect(self.pool.limits.freeze)
        self.receiver.disconnected.connect(partial(self.status.failed, Ability.READ))
        self.receiver.connected.connect(partial(self.status.succeeded, Ability.READ))
        self.receiver.interrupted.connect(self.lanes.retry)
        self.receiver.missed.connect(self.pool.limits.freeze)
        self.receiver.missed.connect(self.lease.hurry)
        self.lease.confirmed.connect(self.pool.thaw)
        self.client_lifecycle.ended.connect(self.consumers.ended)
        self.lost_nodes.unreached.connect(self.consumers.turn_lost)
        self.client_lifecycle.ended.connect(self.requests.receiver_ended)
        self.takeover.moved.connect(self.requests.moved)
        if self.options.presence:
            self.lease.confirmed.connect(self.detector.look_for_deaths)
            self.detector.announced.connect(self.presence.died)
        if self.peers is not None:
            self.receiver.namesake.connect(self.peers.namesake)
            self.peers.superseded.connect(self.ownership.supersede)
            self.peers.claimed.connect(self.table.correct)
            self.peers.unsure.connect(self._confirm_again)

    def has_due(self) -> bool:
        """Return whether there is anything that :meth:`Lifecycle._tick` must look after soon."""
        return (
            self.slow_consumers.has_due()
            or self.sessions.has_due()
            or self.outbox.has_due()
            or self.detector.has_due()
            or len(self.requests) > 0
            or self.queues.waiting > 0
            or self.client_lifecycle.lingering_count > 0
        )

    def shown_state(self) -> str:
        """Return the state of the bus as applications see it: see :attr:`Bus.state`."""
        state = self.state
        if state.draining:
            return "drained" if self.draining.done else "draining"
        if state.accepting:
            return "alone" if state.alone else "open" if self.status.up else "disconnected"
        return "closed" if state.was_open else "new"

    def begin(self) -> None:
        """Send to other nodes from now on, with ids of events that carry our incarnation."""
        self.table.clear()  # the queues may be others now
        self.fanout.begin()
        self.ids.begin(self.ownership.incarnation)
        self.queues.announce()

    def lost(self, name: str, loss: Dropped | Gap) -> None:
        """Tell the application that the client or handler *name* has just learned of a loss."""
        if isinstance(loss, Dropped):  # gaps are reported once for the whole node
            self.hooks.on_dropped.emit(name, loss)

    async def flush(self) -> None:
        """Wait until the broker has taken every event that was accepted before."""
        self.state.check_waiting()
        timeout = self.options.send_timeout
        with self.deadlines.within(
            timeout,
            lambda: TransportUnavailable(
                f"within {timeout:g} s the broker has not taken {self.unpublished():,} accepted events; "
                f"they are kept, and sent once it takes them"
            ),
        ):
            await self.taken()

    def topics(self, topic: str) -> TopicHistory:
        """
        Return the retained topics.

        Raises:
            TopicNotRetained: there are none, so *topic* is none.
        """
        if self.history is None:
            raise TopicNotRetained(check_topic(topic))
        return self.history.topics

    async def taken(self) -> None:
        """Wait until the broker has taken every event that was accepted before."""
        if self.history is not None:
            await self.history.appender.flush()
        await self.outbox.flush()

    def unpublished(self) -> int:
        """Return how many accepted events the broker has not taken yet."""
        return self.outbox.unpublished() + (0 if self.history is None else self.history.appender.waiting())

    def finish(self) -> list[Event]:
        """Return the events that still wait for the broker, without what this node tells others: that is published."""
        return self.outbox.finish() + ([] if self.history is None else self.history.appender.give_up())

    def give_up(self) -> list[Event]:
        """Return all events that the broker has not taken; they are never published."""
        return self.outbox.give_up() + ([] if self.history is None else self.history.appender.give_up())

    def _handler_failed(self, event: Event, error: Exception) -> None:
        self.hooks.on_error.emit(event, error)
        self.requests.fail(event, f"its handler raised {type(error).__name__}")

    def _finish_takeovers(self, clients: Sequence[HeldClient]) -> None:
        """Tell the former owners of *clients*, which this node has claimed again by itself, in a task of its own."""

        async def finish() -> None:
            try:
                await self.takeover.finished(*clients)
            except EventBusError as error:
                logger.debug("node %s: former owners of clients are not told: %s", self.id, error)
            finally:
                for held in clients:
                    self.takeover.end(held)

        self.services.start(finish)

    def _confirm_again(self) -> None:
        """Confirm our clients with the directory again, if mailboxes have been frozen for less than a lease."""
        if self.pool.limits.frozen_lately():
            self.lease.hurry()
