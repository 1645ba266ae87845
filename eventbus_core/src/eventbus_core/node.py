"""This node on the bus: the layers put together, and what it knows of itself."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from time import monotonic
from typing import Any, Final, TypeAlias

import anyio
import attrs
from anyio.abc import TaskGroup

from eventbus_core._version import __version__
from eventbus_core.asking import AskingDirectory
from eventbus_core.delivery import Delivery
from eventbus_core.errands import Errands
from eventbus_core.errors import ConfigurationError, TransportUnavailable
from eventbus_core.event import Event
from eventbus_core.exchange import STATS, Exchange
from eventbus_core.explanation import Explanation
from eventbus_core.handlers import Handler, HandlerContext
from eventbus_core.hearing import Hearing
from eventbus_core.holdings import Holdings
from eventbus_core.hooks import Hook, HookRunner
from eventbus_core.lease import Lease
from eventbus_core.link import Link
from eventbus_core.losses import Dropped, Gap, Undeliverable
from eventbus_core.mailbox import EXPIRED
from eventbus_core.mailboxes import Mailboxes
from eventbus_core.names import node_address
from eventbus_core.options import BusOptions
from eventbus_core.outbox import Outbox
from eventbus_core.ownership import Ownership
from eventbus_core.presence import Presence
from eventbus_core.queue import Queue
from eventbus_core.refusals import Refusals
from eventbus_core.requests import Requests
from eventbus_core.routing import Router
from eventbus_core.sender import Sender
from eventbus_core.sessions import Sessions
from eventbus_core.stats import Stats
from eventbus_core.subscriptions import Subscriptions
from eventbus_core.transport import ALL_NODES, Directory, Partition, Transport, node_partition
from eventbus_core.waits import Waits
from eventbus_core.wire import LARGEST_ENVELOPE

SETTLE_TIMEOUT: Final = 4.0


Service: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


class LocalNode:
    """
    One node: made by :func:`connect`, open within :class:`Life`; what :class:`Bus` and :class:`Client` stand on.

    Attributes:
        id: of the node.
        handlers: the functions that applications registered here.
        waits: what applications wait for.
        on_error, on_undeliverable, on_gap, on_dropped, on_lease_lost, on_disconnected, on_reconnected: see
            :class:`Bus`.
    """

    def __init__(self, transport: Transport, options: BusOptions) -> None:
        largest = transport.capabilities.max_frame_size - LARGEST_ENVELOPE
        if options.max_event_size > largest and options.max_event_size == BusOptions().max_event_size:
            options = attrs.evolve(options, max_event_size=largest)
        if options.max_event_size > largest:
            raise ConfigurationError(
                f"max_event_size is {options.max_event_size:,}; frames of {transport.uri} hold events of at most "
                f"{largest:,} bytes"
            )
        self.id = transport.node
        self.options = options
        self.transport = transport
        self.asking = asking = AskingDirectory(options.namespace, self.id) if transport.directory is None else None
        self.directory: Directory = transport.directory or asking  # type: ignore[assignment]
        self.hooks = HookRunner(transport.node)
        self.on_error: Hook[Event, Exception] = Hook("on_error", self.hooks)
        self.on_undeliverable: Hook[Undeliverable] = Hook("on_undeliverable", self.hooks)
        self.on_gap: Hook[Gap] = Hook("on_gap", self.hooks)
        self.on_dropped: Hook[str, Dropped] = Hook("on_dropped", self.hooks)
        self.on_lease_lost: Hook[[]] = Hook("on_lease_lost", self.hooks)
        self.on_disconnected: Hook[str] = Hook("on_disconnected", self.hooks)
        self.on_reconnected: Hook[[]] = Hook("on_reconnected", self.hooks)
        self.link = Link(self.id, self.on_disconnected.emit, self.on_reconnected.emit)
        self.waits = Waits()
        self.mailboxes = Mailboxes(options, monotonic(), self._dropped)
        self.handler_context = HandlerContext(
            self.id, self.mailboxes, self._start, self._handler_failed, self.lost, lambda: self.sender.open
        )
        self.handlers: dict[Handler, None] = {}
        self.refusals = Refusals(self.id)
        self.requests = Requests(options.max_requests)
        self.ownership = Ownership(
            self.directory,
            options,
            self.id,
            lambda: self.lease.hurry(),
            lambda holding: self.exchange.took_over(holding),
            lambda holding, reason: self.holdings.end(holding, reason),
        )
        self.lease = Lease(self.directory, options.lease, self.id, self.link, self.ownership, self._verified)
        self.sessions = Sessions(options, self.id, 0, ordered=transport.capabilities.ordered)
        self.sessions.on_answer = self._answered
        self.subscriptions = Subscriptions(transport, options, self.arrived, self.sessions.left)
        self.outbox = Outbox(
            options,
            self.sessions,
            transport,
            self.link,
            self._has_joined,
            lambda queue: self.errands.suspect(queue),
            self._unreached,
        )
        self.router = Router(
            options,
            self.id,
            self.outbox,
            self.ownership,
            self.lease,
            self.subscriptions,
            self.directory,
            self.waits,
            lambda event: self.exchange.take(event),
        )
        self.sender = Sender(self.router, self.requests, self.waits)
        self.hearing = Hearing(self.router, self.refusals)
        self.exchange = Exchange(
            self.router,
            self.ownership,
            self.requests,
            self.hearing,
            self.on_undeliverable.emit,
            self.stats,
            asking,
            self.refusals,
        )
        namesake = asking.namesake if asking else lambda _incarnation: None
        self.errands = Errands(self.router, self.sessions, self.refusals)
        self.delivery = Delivery(
            self.router,
            self.errands,
            self.handler_context,
            self.sessions,
            transport,
            self.on_gap.emit,
            namesake,
            self._doubt,
            self.refusals,
        )
        if asking is not None:
            asking.tell_all, asking.tell_node = self.router.tell_all, self.router.tell_node
            asking.superseded, asking.claimed = self.ownership.supersede, self.router.routes.correct
            asking.told, asking.unsure = self.router.told, self._unsure
        self.presence = Presence(self.router, self.link)
        self.holdings = Holdings(
            self.router, self.sender, self.mailboxes, self.exchange, self.errands, self.presence, self.on_dropped.emit
        )
        self._handler_failures = 0
        self._answer = anyio.Event()
        self.tasks: TaskGroup | None = None
        self.early: list[Service] = []
        self.opened = False

    async def joined(self, pattern: str | None = None) -> None:
        """Return once what matches *pattern*, or every pattern so far, arrives from other nodes."""
        self.sender.check_open()
        if not self.ownership.entered:
            return  # there are no others, and this node waits for every lane before it joins them
        with self.waits.within(None):
            if pattern is None:
                await self.subscriptions.lanes.joined()
            else:
                await self.subscriptions.joined(pattern)

    async def arrived(self, partitions: Sequence[Partition]) -> None:
        """Find out where the sessions to *partitions*, which we have just joined, are."""
        self.ownership.check_entered()
        if self.asking is not None:
            await self.asking.met.wait()
        nodes = await self.directory.nodes()
        for partition in partitions:
            self.sessions.joined(partition, nodes)
        with anyio.move_on_after(SETTLE_TIMEOUT):  # a node that hangs is asked for so long
            while not all(map(self.sessions.settled, partitions)):
                await self._answer.wait()

    def _doubt(self) -> None:
        """Hand nothing out until the directory has confirmed our clients: for a while we did not hear of others."""
        self.mailboxes.doubt()
        self.lease.hurry()

    def _unreached(self, queue: Queue) -> None:
        """Find out what became of the node of *queue*, which does not listen, and wait for no word of it."""
        self.errands.suspect(queue)
        if queue.node is not None:
            self.exchange.unreached(queue.node)

    def _unsure(self) -> None:
        """Ask again who holds our clients if nothing is handed out before that is known."""
        if self.mailboxes.doubtful():
            self.lease.hurry()

    def _verified(self) -> None:
        """By the directory's word our lease holds, and the clients that we hold are ours."""
        self.mailboxes.verified()
        self.presence.renewed()

    def _answered(self) -> None:
        self._answer.set()
        self._answer = anyio.Event()

    def _has_joined(self, partition: Partition) -> bool:
        return partition == ALL_NODES or partition in self.subscriptions.lanes.accepted

    def add_handler(self, handler: Handler) -> None:
        """Let *handler* have the events that match its name."""
        self.subscriptions.add_handler(handler.name, handler.mailbox, local=handler.local)
        self.handlers[handler] = None

    def remove_handler(self, handler: Handler) -> None:
        """Undo :meth:`add_handler`, whatever waits in its mailbox; does nothing on successive calls."""
        if handler in self.handlers:
            for event, sender in self.take_off(handler):
                self.router.unhandled(event, event.accepted_by(sender or self.id))

    async def flush(self) -> None:
        """Wait until the broker has taken all that was accepted before."""
        self.sender.check_open()
        timeout = self.options.send_timeout
        with self.waits.within(
            timeout,
            lambda: TransportUnavailable(
                f"within {timeout:g} s the broker has not taken {self.outbox.unpublished():,} accepted events; "
                f"they are kept, and sent once it takes them"
            ),
        ):
            await self.outbox.flush()

    async def explain(self, client: str) -> Explanation:
        """Return what the directory and this node know of *client*."""
        owner = await self.router.locate(client)
        nodes = {node.id: node.lease_left for node in await self.directory.nodes()}
        local = client in self.ownership.clients
        return Explanation(
            client,
            local,
            owner,
            None if owner is None else nodes.get(owner.node),
            None if owner is None or local else node_partition(owner.node),
            self.router.routes.cached(client),
        )

    async def node_stats(self, node: str, timeout: float) -> Stats:
        """Return what *node* has counted."""
        if node == self.id:
            return self.stats()
        return (await self.sender.ask(self.router.address, node_address(node), STATS, None, timeout, None)).decode(
            Stats
        )

    def stats(self) -> Stats:
        """Return the counters as they are now."""
        sessions, outbox, delivery = self.sessions, self.outbox, self.delivery
        return Stats(
            node=self.id,
            incarnation=self.ownership.incarnation,
            clients=len(self.ownership.clients),
            accepted=self.router.accepted,
            local=self.router.local,
            sent_events=outbox.events,
            sent_frames=outbox.frames,
            received_events=delivery.events,
            received_frames=delivery.frames,
            forwarded=self.errands.forwarded,
            undeliverable=self.router.undeliverable.total(),
            duplicates=sessions.duplicates,
            repaired=sessions.repaired,
            missed=sessions.missed,
            dropped=self.mailboxes.dropped,
            stale=sessions.stale,
            refused=dict(self.refusals.counts),
            handler_failures=self._handler_failures,
            write_failures=outbox.failures,
            waits=outbox.waits,
            waiting_events=outbox.unpublished(),
            pending_requests=len(self.requests),
            disconnects=self.link.losses,
            undeliverable_by_reason=dict(self.router.undeliverable),
            version=__version__,
            delivered=self.router.local + delivery.deliveries + self.errands.deliveries,
            mailbox_events=self.mailboxes.waiting(),
            outage_seconds=self.link.seconds_down(),
            interruptions=delivery.interruptions,
            leases_lost=self.lease.losses,
            hooks_skipped=self.hooks.skipped,
            frame_events=outbox.sizes.histogram(),
            send_seconds=outbox.seconds.histogram(),
            handle_seconds=delivery.seconds.histogram(),
        )

    @property
    def state(self) -> str:
        """See :attr:`Bus.state`."""
        if self.sender.open:
            return "alone" if self.link.alone else "open" if self.link.up else "disconnected"
        return "closed" if self.opened else "new"

    def lost(self, name: str, loss: object) -> None:
        """Tell the application of what the client or handler *name* has just learnt that it lost."""
        if isinstance(loss, Dropped):  # of gaps everybody is told at once
            self.on_dropped.emit(name, loss)

    def _start(self, task: Service) -> None:
        if self.tasks is None:
            self.early.append(task)
        else:
            self.tasks.start_soon(task)

    def take_off(self, handler: Handler) -> list[tuple[Event, str | None]]:
        """Let *handler* have no more, and return what it had not taken."""
        del self.handlers[handler]
        self.subscriptions.remove_handler(handler.name, handler.mailbox, local=handler.local)
        return handler.mailbox.close()

    def _handler_failed(self, event: Event, error: Exception) -> None:
        self._handler_failures += 1
        self.on_error.emit(event, error)
        self.exchange.fail(event, f"its handler raised {type(error).__name__}")

    def _dropped(self, events: list[Event], sender: str | None, reason: str) -> None:
        """Report those of *events*, dropped from a mailbox, that were for one receiver alone."""
        for event in events:
            if event.target[:1] not in "#*" and (event.target != self.router.address or reason == EXPIRED):
                self.router.report(event, event.accepted_by(sender or self.id), reason)
