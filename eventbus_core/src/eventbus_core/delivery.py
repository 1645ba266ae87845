"""
What becomes of the frames that arrive: to the mailboxes of those concerned, or on to where their clients are now.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from time import monotonic
from typing import Final, TypeAlias

from anyio.lowlevel import checkpoint

from eventbus_core.errands import Errands, Stray
from eventbus_core.errors import FrameError
from eventbus_core.event import Event, copy_event
from eventbus_core.handlers import HandlerContext
from eventbus_core.histogram import SHORTEST, Spread
from eventbus_core.incoming import Ready
from eventbus_core.log import get_logger
from eventbus_core.losses import Gap, count_up
from eventbus_core.mailbox import Mailbox
from eventbus_core.names import RESERVED, is_client, is_identifier
from eventbus_core.refusals import LEFT, OWN, Refusals
from eventbus_core.routing import NO_HANDLER, Router
from eventbus_core.sessions import Sessions
from eventbus_core.topics import lanes_of
from eventbus_core.transport import ALL_NODES, Frame, Transport, lane_partition, node_partition
from eventbus_core.wire import unpack, unpack_events

logger = get_logger("eventbus")

EVENTS_PER_TURN: Final = 256
FRAMES_PER_TURN: Final = 32
BY_TYPE: Final = attrgetter("type")
BY_TARGET: Final = attrgetter("target")

Run: TypeAlias = tuple[tuple[Mailbox, ...], Iterable[Event]]
"""Events that came one after the other, and who all receive them."""


class Delivery:
    """
    Reads frames and delivers their events.

    Attributes:
        frames, events: received from other nodes, and taken in.
        deliveries: to receivers of this node; one event may have many.
        interruptions: how often the transport said that frames may have been lost.
        seconds: of each frame, from when it came until its deliveries were handled.
    """

    def __init__(
        self,
        router: Router,
        errands: Errands,
        handlers: HandlerContext,
        sessions: Sessions,
        transport: Transport,
        on_gap: Callable[[Gap], None],
        on_namesake: Callable[[int], None],
        on_interrupted: Callable[[], None],
        refusals: Refusals,
    ) -> None:
        self.frames = self.events = self.deliveries = self.interruptions = 0
        self.seconds = Spread(SHORTEST)
        self._refusals = refusals
        self._router = router
        self._errands = errands
        self._handlers = handlers
        self._sessions = sessions
        self._transport = transport
        self._on_gap = on_gap
        self._on_namesake = on_namesake
        self._on_interrupted = on_interrupted
        self._node = router.node
        self._options = router.options
        self._outbox = router.outbox
        self._clients = router.ownership.clients
        self._subscriptions = router.subscriptions
        self._partition = node_partition(router.node)
        self._accepted = {self._partition, ALL_NODES}
        self._limit = transport.capabilities.max_frame_size
        sessions.on_settled = lambda since: self.seconds.add(monotonic() - since)

    async def run(self) -> None:
        """Read until the transport is closed."""
        items = self._transport.receive()
        turn = frames = 0
        try:
            async for item in items:
                if isinstance(item, Frame):
                    self._handlers.attend()
                    self._on_frame(item)
                    self._handlers.work()
                else:
                    extra = {"node": self._node, "error": item.reason}
                    logger.info("frames may have been lost: %s; asking the other nodes", item.reason, extra=extra)
                    self.interruptions += 1
                    self._on_interrupted()
                    self._sessions.interrupted()
                frames += 1
                if self.events - turn >= EVENTS_PER_TURN or frames >= FRAMES_PER_TURN or self._handlers.over():
                    turn, frames = self.events, 0
                    await checkpoint()
        finally:
            if isinstance(items, AsyncGenerator):
                await items.aclose()

    def tend(self, now: float) -> None:
        """Do what is due in the sessions."""
        for item in self._sessions.tend(now):
            self._take_in(item)

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
            self._deliver_spread(self._broadcasts(events), item)
        else:
            match = self._subscriptions.topics.match
            self._deliver_spread(((match(target[1:]), run) for target, run in groupby(events, BY_TARGET)), item)

    def _deliver_addressed(self, events: list[Event], ready: Ready) -> None:
        """Sort the events of a frame into one chunk per mailbox: one wake-up per client, not per event."""
        chunks: dict[Mailbox, list[Event]] = {}
        odd: list[Event] = []
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
                odd.append(event)
        strays, words = self._sort_odd(odd, ready, chunks) if odd else (0, ())
        self._put(chunks, strays, ready)
        # What nodes tell each other comes after what they passed on before it: the end of a handover, say.
        for word in words:
            if not self._router.internal(word):
                self._refusals.add(OWN, f"{word!r} is nothing that this version knows of")

    def _sort_odd(
        self, events: Iterable[Event], ready: Ready, chunks: dict[Mailbox, list[Event]]
    ) -> tuple[int, Sequence[Event]]:
        """Sort what is for handlers of this node into *chunks*; return the number of strays, and words of the bus."""
        strays: list[Stray] = []
        words: list[Event] = []
        for event in events:
            if event.target != self._router.address:
                strays.append(Stray(event, event.accepted_by(ready.header.node), ready.ticket))
            elif event.answers is not None or event.type[:1] == RESERVED:
                words.append(event)
            else:
                mailboxes = self._subscriptions.handlers.match(event.type)
                for mailbox in mailboxes:
                    chunks.setdefault(mailbox, []).append(copy_event(event))
                if not mailboxes:
                    self._router.report(event, event.accepted_by(ready.header.node), NO_HANDLER)
        self._errands.add(strays)
        return len(strays), words

    def _broadcasts(self, events: list[Event]) -> Iterator[Run]:
        match = self._subscriptions.handlers.match
        for type, run in groupby(events, BY_TYPE):
            if type[:1] != RESERVED:
                yield match(type), run
            elif others := [event for event in run if not self._router.internal(event)]:
                yield match(type), others

    def _deliver_spread(self, runs: Iterable[Run], ready: Ready) -> None:
        """Deliver events of which each may have many receivers, to each its own: to all but the first, a copy."""
        chunks: dict[Mailbox, list[Event]] = {}
        for mailboxes, run in runs:
            events = list(run)
            for place, mailbox in enumerate(mailboxes):
                chunks.setdefault(mailbox, []).extend(map(copy_event, events) if place else events)
        self._put(chunks, 0, ready)

    def _put(self, chunks: dict[Mailbox, list[Event]], strays: int, ready: Ready) -> None:
        ready.ticket.expect(sum(map(len, chunks.values())) + strays)
        mean = len(ready.body) // max(1, ready.header.count)
        settled = 0
        for mailbox, events in chunks.items():
            self.deliveries += len(events)
            handled = 0 if mailbox.at_once is None else mailbox.at_once(events, ready.ticket)
            settled += handled
            if handled == len(events):
                continue
            del events[:handled]
            if not mailbox.closed:
                mailbox.put(events, mean * len(events), ready.ticket)
            else:  # by who handled what came before
                self.deliveries -= len(events)
                settled += self._astray(events, ready)
        if settled:
            ready.ticket.settle(settled)

    def _astray(self, events: list[Event], ready: Ready) -> int:
        """Send after their client those *events* that are for one; return how many are for nobody any more."""
        strays: list[Stray] = []
        for event in events:
            origin = event.accepted_by(ready.header.node)
            if is_client(event.target):
                strays.append(Stray(event, origin, ready.ticket))
            else:
                self._router.unhandled(event, origin)
        self._errands.add(strays)
        return len(events) - len(strays)

    def _tell(self, gap: Gap) -> None:
        """Put *gap* into the stream of every client that may have lost something by it."""
        self._on_gap(gap)
        for holding in self._clients.values():
            if gap.partition == self._partition or any(
                gap.partition == lane_partition(lane)
                for pattern in holding.patterns or ()
                for lane in lanes_of(pattern, self._options.lanes)
            ):
                holding.mailbox.tell(count_up(gap))
