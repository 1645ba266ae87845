"""
What becomes of the frames that arrive: to the mailboxes of those concerned, or on to where their clients are now.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from itertools import groupby
from operator import itemgetter
from time import monotonic
from typing import Final, NamedTuple

import anyio
from anyio.lowlevel import checkpoint
from msgspec.structs import replace

from eventbus_core.errors import EventBusError, FrameError
from eventbus_core.event import Event, copy_event
from eventbus_core.handlers import HandlerContext
from eventbus_core.histogram import SHORTEST, Spread
from eventbus_core.log import get_logger
from eventbus_core.losses import Gap, loss_event
from eventbus_core.mailbox import Mailbox
from eventbus_core.names import NODE_SIGN, RESERVED, is_identifier
from eventbus_core.outbox import Queue
from eventbus_core.refusals import LEFT, STALE, Refusals
from eventbus_core.routing import MOVED, NO_HANDLER, Moved, Router
from eventbus_core.session import Outgoing, Ready, Ticket
from eventbus_core.sessions import Sessions
from eventbus_core.topics import lanes_of
from eventbus_core.transport import ALL_NODES, Frame, Node, Owner, Transport, lane_partition, node_partition
from eventbus_core.wire import Header, unpack, unpack_events

logger = get_logger("eventbus")

MAX_HOPS: Final = 2
MAX_STRAYS: Final = 100_000
"""Events of handles closed here that may wait for the directory's word; those of other nodes are bounded by credit."""
PAUSE: Final = 0.2
EVENTS_PER_TURN: Final = 256
FRAMES_PER_TURN: Final = 32
DOUBT_EVERY: Final = 0.5
MAX_DOUBTED: Final = 1000

CLIENT_GONE: Final = "client gone"
NODE_UNREACHABLE: Final = "node unreachable"
NODE_DEAD: Final = "node dead"
TOO_MANY_HOPS: Final = "too many hops"


class Stray(NamedTuple):
    """An event that reached a node which does not hold its client; *origin* is the node that accepted it."""

    event: Event
    origin: str
    ticket: Ticket | None


class Delivery:
    """
    Reads frames and delivers their events.

    Attributes:
        frames, events: received from other nodes, and taken in.
        deliveries: to receivers of this node; one event may have many.
        forwarded: events passed on to another node.
        interruptions: how often the transport said that frames may have been lost.
        seconds: of each frame, from when it came until its deliveries were handled.
    """

    def __init__(
        self,
        router: Router,
        handlers: HandlerContext,
        sessions: Sessions,
        transport: Transport,
        on_gap: Callable[[Gap], None],
        on_namesake: Callable[[int], None],
        on_interrupted: Callable[[], None],
        refusals: Refusals,
    ) -> None:
        self.frames = self.events = self.deliveries = self.forwarded = self.interruptions = 0
        self.seconds = Spread(SHORTEST)
        self._refusals = refusals
        self._router = router
        self._handlers = handlers
        self._sessions = sessions
        self._transport = transport
        self._on_gap = on_gap
        self._on_namesake = on_namesake
        self._on_interrupted = on_interrupted
        self._node = router.node
        self._options = router.options
        self._outbox = router.outbox
        self._ownership = router.ownership
        self._clients = router.ownership.clients
        self._subscriptions = router.subscriptions
        self._directory = router.directory
        self._partition = node_partition(router.node)
        self._accepted = {self._partition, ALL_NODES}
        self._limit = transport.capabilities.max_frame_size
        self._strays: deque[Stray] = deque()
        self._suspects: set[str] = set()
        self._roll_call_at = monotonic() + self._options.lease
        self._absent: set[str] = set()  # when the roll was called last
        self._doubted: set[str] = set()  # nodes that may not have begun anew, as a forged frame said
        self._doubt_at = 0.0
        self._work = anyio.Event()
        self._progress = anyio.Event()
        sessions.on_left = self._on_left
        sessions.on_settled = lambda since: self.seconds.add(monotonic() - since)
        sessions.on_stale = self._on_stale

    async def run(self) -> None:
        """Read until the transport is closed."""
        items = self._transport.receive()
        turn = frames = 0
        try:
            async for item in items:
                if isinstance(item, Frame):
                    self._handlers.attended = True
                    self._on_frame(item)
                    self._handlers.attended = False
                    self._handlers.work()
                else:
                    extra = {"node": self._node, "error": item.reason}
                    logger.info("frames may have been lost: %s; asking the other nodes", item.reason, extra=extra)
                    self.interruptions += 1
                    self._on_interrupted()
                    self._sessions.interrupted()
                frames += 1
                if self.events - turn >= EVENTS_PER_TURN or frames >= FRAMES_PER_TURN:
                    turn, frames = self.events, 0
                    await checkpoint()
        finally:
            if isinstance(items, AsyncGenerator):
                await items.aclose()

    def tend(self, now: float) -> None:
        """Do what is due in the sessions, and once a lease look who is still there."""
        for item in self._sessions.tend(now):
            self._take_in(item)
        if self._is_to_look():
            self._work.set()

    def suspect(self, queue: Queue) -> None:
        """Find out whether the node of *queue* is still there, as it does not take its events."""
        if queue.node is not None:
            self._router.resettle(queue)
            self._suspects.add(queue.node)
            self._work.set()

    def stray(self, event: Event, sender: str | None) -> None:
        """Send *event*, which came from *sender*, after its client: it is here no more."""
        if self._ownership.alone or len(self._strays) >= MAX_STRAYS:
            self._router.report(event, event.accepted_by(sender or self._node), CLIENT_GONE)
            return
        self._strays.append(Stray(event, event.accepted_by(sender or self._node), None))
        self._work.set()

    async def settled(self) -> None:
        """Return once all strays are on their way or reported."""
        while self._strays:
            await self._progress.wait()

    async def run_errands(self) -> None:
        """Send strays after their clients, and find out who is gone; for ever."""
        while True:
            if not self._strays and not self._is_to_look():
                self._work = anyio.Event()
                await self._work.wait()
            try:
                if self._is_to_look():
                    await self._look_who_is_there()
                if self._strays:
                    await self._redirect(self._strays)
                self._progress.set()
                self._progress = anyio.Event()
            except EventBusError as error:
                logger.debug("the directory does not answer: %s", error)
                await anyio.sleep(PAUSE)

    def _on_frame(self, frame: Frame) -> None:
        now = monotonic()
        try:
            header, body = unpack(frame.data, self._limit)
            if header.namespace != self._options.namespace:
                raise FrameError("foreign", f"it is of namespace {header.namespace!r}")
            if not is_identifier(header.node):
                raise FrameError("malformed", "its sender has a name that no node can have")
        except FrameError as error:
            self._refusals.add(error.kind, error)
            return
        if header.node == self._node:  # what we publish is served here at once, not when the transport brings it back
            if header.incarnation != self._sessions.incarnation:
                self._on_namesake(header.incarnation)
            return
        if header.partition not in self._accepted and header.partition not in self._subscriptions.lanes.accepted:
            self._refusals.add(LEFT, f"a frame of {header.node} to {header.partition}")
            return
        self.frames += 1
        for item in self._sessions.receive(header, body, now):
            self._take_in(item)
        if header.notes:
            self._outbox.wake()

    def _take_in(self, item: Ready | Gap) -> None:
        if isinstance(item, Gap):
            self._tell(item)
            return
        try:
            events = unpack_events(item.body)
        except FrameError as error:
            self._refusals.add(error.kind, error)
            item.ticket.expect(0)
            return
        self.events += len(events)
        partition = item.header.partition
        if partition == self._partition:
            self._deliver_addressed(events, item)
        elif partition == ALL_NODES:
            match, internal = self._subscriptions.handlers.match, self._router.internal
            self._deliver_spread(
                ((event, match(event.type)) for event in events if event.type[:1] != RESERVED or not internal(event)),
                item,
            )
        else:
            match = self._subscriptions.topics.match
            self._deliver_spread(((event, match(event.target[1:])) for event in events), item)

    def _deliver_addressed(self, events: list[Event], ready: Ready) -> None:
        """Sort the events of a frame into one chunk per mailbox: one wake-up per client, not per event."""
        chunks: dict[Mailbox, list[Event]] = {}
        strays = 0
        find = self._clients.get
        for event in events:
            holding = find(event.target)
            if holding is not None and holding.epoch >= event.epoch:
                mailbox = holding.mailbox
                if mailbox in chunks:
                    chunks[mailbox].append(event)
                else:
                    chunks[mailbox] = [event]
            else:
                strays += self._deliver_odd(event, ready, chunks)
        self._put(chunks, strays, ready)

    def _deliver_odd(self, event: Event, ready: Ready, chunks: dict[Mailbox, list[Event]]) -> int:
        """Deliver what is for this node itself; return 1 if it is a stray."""
        if event.target != self._router.address:
            self._strays.append(Stray(event, event.accepted_by(ready.header.node), ready.ticket))
            self._work.set()
            return 1
        if self._router.internal(event):
            return 0
        mailboxes = self._subscriptions.handlers.match(event.type)
        for mailbox in mailboxes:
            chunks.setdefault(mailbox, []).append(copy_event(event))
        if not mailboxes and not event.type.startswith(RESERVED):
            self._router.report(event, event.accepted_by(ready.header.node), NO_HANDLER)
        return 0

    def _deliver_spread(self, matched: Iterable[tuple[Event, tuple[Mailbox, ...]]], ready: Ready) -> None:
        """Deliver events of which each may have many receivers, to each its own copy."""
        chunks: dict[Mailbox, list[Event]] = {}
        for mailboxes, run in groupby(matched, itemgetter(1)):
            events = [event for event, _ in run]
            for mailbox in mailboxes:
                chunks.setdefault(mailbox, []).extend(map(copy_event, events))
        self._put(chunks, 0, ready)

    def _put(self, chunks: dict[Mailbox, list[Event]], strays: int, ready: Ready) -> None:
        ready.ticket.expect(sum(map(len, chunks.values())) + strays)
        mean = len(ready.body) // max(1, ready.header.count)
        for mailbox, events in chunks.items():
            if not mailbox.closed:
                self.deliveries += len(events)
                mailbox.put(events, mean * len(events), ready.ticket)
            else:  # by what the same frame had to say
                self._strays += [Stray(event, event.accepted_by(ready.header.node), ready.ticket) for event in events]
                self._work.set()

    async def _redirect(self, strays: deque[Stray]) -> None:
        """Send each of *strays* to the present owner of its client, or report to its sender."""
        clients = list(dict.fromkeys(s.event.target for s in strays if not s.event.target.startswith(NODE_SIGN)))
        owners = dict(zip(clients, await self._directory.locate(clients), strict=True)) if clients else {}
        if any(owner and owner.node == self._node for owner in owners.values()):
            await self._ownership.settled()
        doubtful = self._router.doubtful()
        for _ in range(len(strays)):
            stray = strays.popleft()
            owner = owners.get(stray.event.target)
            is_known = stray.event.target in owners and not (owner is None and doubtful)
            if is_known or stray.event.target.startswith(NODE_SIGN):
                self._redirect_one(stray, owner)
            else:
                strays.append(stray)
        if strays and doubtful:
            await anyio.sleep(PAUSE)

    def _redirect_one(self, stray: Stray, owner: Owner | None) -> None:
        event, origin, ticket = stray
        holding = self._clients.get(event.target)
        if owner is not None and owner.node == self._node and holding is not None and not holding.mailbox.closed:
            self.deliveries += 1
            holding.mailbox.put([event], len(memoryview(event.raw)), ticket)
            return
        if ticket is not None:
            ticket.settle(1)
        if owner is None or owner.node == self._node:
            reason = NODE_UNREACHABLE if event.target.startswith(NODE_SIGN) else CLIENT_GONE
            self._router.report(event, origin, reason)
        elif event.hops >= MAX_HOPS:
            self._router.report(event, origin, TOO_MANY_HOPS)
        else:
            self._router.remember(event.target, owner)
            self.pass_on(event, origin, owner)

    def pass_on(self, event: Event, origin: str, owner: Owner) -> None:
        """Forward *event*, accepted by *origin*, to the node that owns its client, and tell *origin* of it."""
        self.forwarded += 1
        self._router.forward(owner.node, replace(event, hops=event.hops + 1, origin=origin, epoch=owner.epoch))
        if origin not in (self._node, owner.node):
            self._router.tell_node(origin, MOVED, Moved(event.target, owner))

    def _is_to_look(self) -> bool:
        now = monotonic()
        return bool(self._suspects) or now >= self._roll_call_at or (bool(self._doubted) and now >= self._doubt_at)

    async def _look_who_is_there(self) -> None:
        """Give up on suspects that are gone, and on every node that was gone at two roll calls, a lease apart."""
        suspects, self._suspects = self._suspects, set()
        try:
            nodes = await self._directory.nodes()
        except EventBusError:
            self._suspects |= suspects
            raise
        self._settle_doubts(nodes)
        alive = {node.id for node in nodes}
        if self._node not in alive or self._router.doubtful():
            alive |= suspects | self._sessions.nodes()  # it has lost its memory; those who live will enter again
        if monotonic() >= self._roll_call_at:
            self._roll_call_at = monotonic() + self._options.lease
            absent = self._sessions.nodes() - alive
            suspects |= absent & self._absent
            self._absent = absent
        for node in suspects - alive:
            self._give_up(node)

    def _settle_doubts(self, nodes: Iterable[Node]) -> None:
        """Listen again to nodes in whose name a frame came of an incarnation that the directory never issued."""
        for node in nodes:
            if node.id in self._doubted:
                self._sessions.disown(node.id, node.incarnation)
        self._doubted.clear()
        self._doubt_at = monotonic() + DOUBT_EVERY

    def _on_stale(self, header: Header) -> None:
        self._refusals.note(STALE, f"a frame of {header.node} in its former incarnation {header.incarnation}")
        if len(self._doubted) < MAX_DOUBTED:
            self._doubted.add(header.node)
            self._work.set()

    def _give_up(self, node: str) -> None:
        """Forget *node*, which is dead, and report what it had not confirmed."""
        queue = self._outbox.known(node)
        if queue is not None and queue.later is not None:
            queue.later.append(lambda: self._give_up(node))  # what is under way comes back if nobody listened
            return
        self._router.forget_node(node)
        self._sessions.forget(node)
        if queue is None:
            return
        sent, waiting = self._outbox.abandon(queue.session, queue.session.handled)
        self._router.undeliverable[NODE_DEAD] += self._outbox.forgotten(queue.session)
        for event in sent:  # perhaps it was handled; sent anywhere else, it could be so twice
            self._router.report(event, event.accepted_by(self._node), NODE_DEAD)
        for event in waiting:
            self.stray(event, None)

    def _on_left(self, session: Outgoing, first: int) -> None:
        """Send what a node that leaves has not taken in after the clients that it was for."""
        self._router.forget_node(session.partition.partition(":")[2])
        for events in self._outbox.abandon(session, first):
            for event in events:
                self.stray(event, None)

    def _tell(self, gap: Gap) -> None:
        """Put *gap* into the stream of every client that may have lost something by it."""
        self._on_gap(gap)
        for holding in self._clients.values():
            if gap.partition == self._partition or any(
                gap.partition == lane_partition(lane)
                for pattern in holding.patterns or ()
                for lane in lanes_of(pattern, self._options.lanes)
            ):
                holding.mailbox.put([loss_event(gap)], 0, None)
