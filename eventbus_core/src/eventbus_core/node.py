"""This node on the bus: the layers put together, and what applications send."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from time import monotonic, time
from typing import Any, Final, TypeAlias

import anyio
import attrs
from anyio.abc import TaskGroup
from msgspec import Raw
from msgspec.structs import replace

from eventbus_core._version import __version__
from eventbus_core.asking import AskingDirectory
from eventbus_core.delivery import Delivery
from eventbus_core.errands import Errands
from eventbus_core.errors import (
    BusClosed,
    ConfigurationError,
    EventBusError,
    EventTooLarge,
    LimitExceeded,
    RequestTimeout,
    TransportUnavailable,
)
from eventbus_core.event import Event, check_headers, encode_data
from eventbus_core.exchange import STATS, Exchange
from eventbus_core.explanation import Explanation
from eventbus_core.handlers import Handler, HandlerContext
from eventbus_core.hearing import Hearing
from eventbus_core.holding import Holding
from eventbus_core.hooks import Hook, HookRunner
from eventbus_core.lease import Lease
from eventbus_core.link import Link
from eventbus_core.losses import Dropped, Gap, Undeliverable
from eventbus_core.mailbox import EXPIRED, MAILBOX_FULL, Mailbox, Mailboxes
from eventbus_core.names import EVERYONE, check_address, check_topic, node_address, topic_address
from eventbus_core.options import BusOptions
from eventbus_core.outbox import Outbox
from eventbus_core.ownership import Ownership
from eventbus_core.presence import CLIENT_CLAIMED, CLIENT_RELEASED, CLIENT_TAKEN_OVER, Presence
from eventbus_core.queue import Queue
from eventbus_core.refusals import Refusals
from eventbus_core.requests import Requests
from eventbus_core.routing import NO_HANDLER, Route, Router, Wait
from eventbus_core.sessions import Sessions
from eventbus_core.stats import Stats
from eventbus_core.subscriptions import Subscriptions
from eventbus_core.transport import ALL_NODES, Directory, Partition, Transport, node_partition
from eventbus_core.waits import Waits, not_open
from eventbus_core.wire import LARGEST_ENVELOPE

SETTLE_TIMEOUT: Final = 4.0


Headers: TypeAlias = Mapping[str, str]
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
        self._largest = options.max_event_size
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
            self.id, self.mailboxes, self._start, self._handler_failed, self.lost, lambda: self.open
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
            self.end,
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
            asking.superseded, asking.claimed = self.ownership.supersede, self.router.correct
            asking.told, asking.unsure = self.router.told, self._unsure
        self.presence = Presence(self.router, self.link)
        self._handler_failures = 0
        self.lingering: dict[Holding, float] = {}
        self._answer = anyio.Event()
        self.tasks: TaskGroup | None = None
        self.early: list[Service] = []
        self.open = self.opened = False

    async def joined(self, pattern: str | None = None) -> None:
        """Return once what matches *pattern*, or every pattern so far, arrives from other nodes."""
        self.check_open()
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
        """Find out what became of the node of *queue*, which does not listen, or does not answer."""
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

    def send(
        self,
        source: str,
        target: str,
        type: str,
        data: object,
        headers: Headers | None,
        expires: float | None = None,
    ) -> Wait:
        """Send to a client or a node, in the name of *source*."""
        # Nearly every event goes this way: through _event, Router.send, and Mailbox.add or Outbox.add. So there is
        # one look-up for the client and one for the route, and nothing is awaited that need not wait.
        if target.__class__ is not str:
            target = check_address(target)
        route = self.router.remembered.get(target)
        until = None if expires is None else time() + expires
        event, size = self._event(source, target, check_topic(type), data, headers, route, until)
        return self.router.send(event, size, route)

    def publish(self, source: str, topic: str, data: object, headers: Headers | None) -> Wait:
        """Publish to a topic, in the name of *source*."""
        topic = check_topic(topic)
        return self.router.publish(topic, *self._event(source, topic_address(topic), topic, data, headers))

    def broadcast(self, source: str, type: str, data: object, headers: Headers | None, *, include_self: bool) -> Wait:
        """Send to every node, in the name of *source*."""
        event, size = self._event(source, EVERYONE, check_topic(type), data, headers)
        return self.router.broadcast(event, size, include_self=include_self)

    def emit(self, type: str, data: object, headers: Headers | None) -> Wait:
        """Hand to the handlers of this node alone."""
        address = self.router.address
        return self.router.emit(*self._event(address, address, check_topic(type), data, headers))

    async def request(
        self,
        source: str,
        target: str,
        type: str,
        data: object,
        timeout: float,
        headers: Headers | None,
    ) -> Event:
        """Send a request in the name of *source*, and return its answer."""
        return await self._request(source, target, check_topic(type), data, timeout, headers)

    async def _request(
        self, source: str, target: str, type: str, data: object, timeout: float, headers: Headers | None
    ) -> Event:
        if target.__class__ is not str:
            target = check_address(target)
        route = self.router.remembered.get(target)
        event, size = self._event(source, target, type, data, headers, route, None, self.router.address)
        pending = self.requests.open(event.id)
        try:
            with self.waits.within(timeout, lambda: RequestTimeout(f"the answer of {target!r} to {type!r}", timeout)):
                wait = self.router.send(event, size, route)
                if wait is not None:
                    await wait
                return await pending.wait()
        finally:
            self.requests.close(event.id)

    def reply(self, source: str, request: Event, data: object, headers: Headers | None) -> Wait:
        """Answer *request*, in the name of *source*."""
        if request.reply_to is None:
            raise EventBusError(f"{request!r} is no request: its sender waits for no answer; use send")
        route = self.router.remembered.get(request.reply_to)
        event, size = self._event(source, request.reply_to, request.type, data, headers, route, None, None, request.id)
        return self.router.send(event, size, route)

    async def claim(self, holding: Holding, *, takeover: bool) -> None:
        """Claim the client of *holding*, and have its handle elsewhere end."""
        self.check_open()
        await self.ownership.claim(holding, takeover=takeover)
        try:
            await self.exchange.handed_over(holding)
        except BaseException:
            self.ownership.give_up(holding)
            raise
        self.presence.say(CLIENT_CLAIMED, client=holding.name, epoch=holding.epoch)
        if holding.previous is not None:
            self.presence.say(CLIENT_TAKEN_OVER, client=holding.name, previous=holding.previous.node)

    async def release(self, holding: Holding) -> None:
        """Release the client of *holding*; what it did not handle goes after it, or is reported to its sender."""
        closed = BusClosed(f"the handle of client {holding.name!r} is closed")
        if holding.ended is not None or not self.open:
            self.end(holding, closed)
        elif holding.linger:
            self._leave_behind(holding, closed)
        else:
            self.ownership.drop(holding)
            self.end(holding, closed)
            await self.ownership.release(holding)
            self.presence.say(CLIENT_RELEASED, client=holding.name)

    def overflowed(self, holding: Holding) -> None:
        """End *holding*, whose consumer left too much waiting, and report that to its senders."""
        options = self.options
        too_many = holding.mailbox.count > options.mailbox_events
        left = holding.mailbox.close()
        self.mailboxes.dropped += len(left)
        self.ownership.release_soon(holding)
        self.end(
            holding,
            LimitExceeded(
                f"client {holding.name!r} left too much waiting, and its handle was closed",
                *(("mailbox_events", options.mailbox_events) if too_many else ("mailbox_size", options.mailbox_size)),
                mend="take events sooner, raise the option, or let the overflow drop events",
            ),
        )
        self.presence.say(CLIENT_RELEASED, client=holding.name)
        self.on_dropped.emit(holding.name, Dropped(len(left)))
        for event, sender in left:
            self._dropped([event], sender, MAILBOX_FULL)

    def _leave_behind(self, left: Holding, reason: EventBusError) -> None:
        """Keep the events for a client whose handle was closed, until ``linger`` is over or it is claimed."""
        kept = Holding(left.name, Mailbox(self.mailboxes, lambda: None, left.mailbox.overflow), lambda: None)
        kept.epoch = left.epoch
        self.ownership.clients[left.name] = kept
        self.lingering[kept] = monotonic() + left.linger
        self.end(left, reason)
        kept.mailbox.let_go()

    def end(self, holding: Holding, reason: EventBusError) -> None:
        """End *holding* for *reason*; does nothing on successive calls."""
        if holding.ended is None:
            holding.end(reason)
            self.exchange.settle_handover(holding.handover)
            for pattern in holding.patterns or ():
                self.subscriptions.unsubscribe(pattern, holding.mailbox)
            self.lingering.pop(holding, None)
            for event, sender in holding.mailbox.close():
                if event.target == holding.name:
                    self._bequeath(holding, event, event.accepted_by(sender or self.id))

    def _bequeath(self, holding: Holding, event: Event, origin: str) -> None:
        """Send *event*, which the handle of *holding* left, after its client: in order, if its owner is known."""
        heir = self.ownership.clients.get(holding.name)
        owner = self.router.cached(holding.name)
        if heir is not None and heir is not holding:
            heir.mailbox.put([replace(event, origin=origin)], len(memoryview(event.raw)), None)
        elif owner is not None and owner.epoch > holding.epoch:
            self.errands.pass_on(event, origin, owner)
        else:
            self.errands.stray(event, origin)

    def add_handler(self, handler: Handler) -> None:
        """Let *handler* have the events that match its name."""
        self.subscriptions.add_handler(handler.name, handler.mailbox, local=handler.local)
        self.handlers[handler] = None

    def remove_handler(self, handler: Handler) -> None:
        """Undo :meth:`add_handler`, whatever waits in its mailbox; does nothing on successive calls."""
        if handler in self.handlers:
            for event, sender in self.take_off(handler):
                if event.target == self.router.address and not self.subscriptions.handlers.match(event.type):
                    self.router.report(event, event.accepted_by(sender or self.id), NO_HANDLER)

    async def flush(self) -> None:
        """Wait until the broker has taken all that was accepted before."""
        self.check_open()
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
            self.router.cached(client),
        )

    async def node_stats(self, node: str, timeout: float) -> Stats:
        """Return what *node* has counted."""
        if node == self.id:
            return self.stats()
        return (await self._request(self.router.address, node_address(node), STATS, None, timeout, None)).decode(Stats)

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

    def _event(
        self,
        source: str,
        target: str,
        type: str,
        data: object,
        headers: Headers | None,
        route: Route | None = None,
        expires: float | None = None,
        reply_to: str | None = None,
        answers: str | None = None,
    ) -> tuple[Event, int]:
        """Return a new event and the size of its data; it is encoded now, so that later changes do not reach it."""
        if not self.open:
            raise not_open()
        raw = encode_data(data, self._largest)
        text, size = None, len(raw)
        if headers is not None:
            text, extra = check_headers(headers)
            size += extra
            if size > self._largest:
                raise EventTooLarge(size, self._largest)
        epoch = 0 if route is None else route.epoch
        next_id = self.router.next_id
        return Event(type, source, target, next_id(), Raw(raw), text, epoch, 0, None, reply_to, answers, expires), size

    @property
    def state(self) -> str:
        """See :attr:`Bus.state`."""
        if self.open:
            return "alone" if self.link.alone else "open" if self.link.up else "disconnected"
        return "closed" if self.opened else "new"

    def check_open(self) -> None:
        """Raise :class:`BusClosed` outside of :class:`Life`."""
        if not self.open:
            raise not_open()

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
