"""
One session, seen from its two ends: numbering, duplicate removal, repair of gaps, and credit.

A session is the numbered sequence of frames from one node incarnation to one partition.
Nothing here does I/O or reads a clock: frames and times go in, frames and notes come out.

=========  ============================  =====================================================
note       from                          meaning
=========  ============================  =====================================================
grant      receiver, to the sender       you may send up to position *first*; all below number *last* is handled
ask        sender, to the receivers      I am held up: tell me your grant again
where      receiver, to the sender       which number comes next on *partition*?
missing    receiver, to the sender       send the events from *first* up to *last* again
gone       sender, to the one who asked  the events from *first* up to *last* are kept no more
left       receiver, to the sender       I take nothing from number *first* on: do not wait for me
=========  ============================  =====================================================

Every note may be lost or doubled: grants carry absolute positions, and what gets no answer
is asked again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from eventbus_core.losses import Gap
from eventbus_core.transport import Frame, Partition
from eventbus_core.wire import Header, Note, pack

GRANT: Final = "grant"
ASK: Final = "ask"
WHERE: Final = "where"
MISSING: Final = "missing"
GONE: Final = "gone"
LEFT: Final = "left"

FIRST_WINDOW: Final = 256 * 1024
SILENCE: Final = 0.2
"""If nobody answers for so many seconds, nobody is taken to listen."""
SUSPICION: Final = 3.0
"""A node that has not said for so many seconds that it handled what we sent may be dead."""
ASK_AGAIN: Final = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
PROBES: Final = (0.05, 0.2, 0.8, 3.0)
RESEND_AT_ONCE: Final = 1024 * 1024


class SessionContext(Protocol):
    """What a session needs of the node that it belongs to."""

    namespace: str
    node: str
    incarnation: int
    window: int
    patience: float
    hold_back_size: int
    duplicates: int
    missed: int
    on_settled: Callable[[float], None]

    def keep(self, kept: Kept) -> None:
        """Keep a frame that was sent, for as long as there is room."""

    def unkeep(self, outgoing: Outgoing) -> None:
        """Keep the frame of *outgoing* that was kept last no more."""

    def tell(self, node: str, note: Note) -> None:
        """Send *note* to *node*'s session layer."""


class Ready(NamedTuple):
    """A frame whose turn has come; *ticket* is settled as its events are handled."""

    header: Header
    body: memoryview
    ticket: Ticket


class Ticket:
    """
    The receipt of a frame: gives its bytes back to the sender's credit once all its events are handled.

    Attributes:
        node: that sent the frame.
        first: the number of its first event.
        since: when the frame came.
        size: its bytes.
        done: whether all is handled.
    """

    __slots__ = ("_incoming", "_left", "done", "first", "node", "since", "size")

    def __init__(self, incoming: Incoming, first: int, size: int, since: float) -> None:
        self.node = incoming.node
        self.since = since
        self.first = first
        self.size = size
        self.done = False
        self._incoming = incoming
        self._left = 0

    def expect(self, deliveries: int) -> None:
        """Say how many deliveries its events make: one event may go to many receivers, or to none."""
        self._left = deliveries
        if deliveries == 0:
            self._incoming.handled(self)

    def settle(self, deliveries: int) -> None:
        """Count *deliveries* as handled."""
        self._left -= deliveries
        if self._left == 0:
            self._incoming.settled(self)


class Outgoing:
    """
    The sender's side of a session.

    Attributes:
        partition: where it goes.
        session: its number.
        next: the number that the next event gets.
        position: bytes of events sent so far.
        handled: of a node's own partition: all events below this number have been handled there.
        kept: the frames that can be sent again.
    """

    def __init__(self, context: SessionContext, partition: Partition, session: int, node: str | None) -> None:
        self._context = context
        self._node = node
        self.partition = partition
        self.session = session
        self.next = 1
        self.position = 0
        self.handled = 1
        self.kept: deque[Kept] = deque()
        self._progress = True
        self._silent_since = 0.0
        self._alone = False  # whether nobody listens, as far as we know
        self._windows: dict[str, int] = {}
        self._began = 0  # the position from which a receiver that did not answer yet has its first window
        self._probe_at: float | None = None
        self._probes = 0
        self._blocked_at: float | None = None

    def pack(self, events: Sequence[bytes], size: int, notes: list[Note], now: float) -> Frame:
        """Return the next frame of the session, which carries *events* of *size* bytes in all."""
        header = self._header(len(events), notes)
        frame = Frame(self.partition, pack(header, events))
        if events:
            self._context.keep(Kept(self, self.next, len(events), self.position, now, frame.data))
            self._progress |= self.handled == self.next
            self.next += len(events)
            self.position += size
            self._probes, self._probe_at = 0, now + PROBES[0]
        return frame

    def take_back(self, events: int, size: int) -> None:
        """Undo the last :meth:`pack` calls, of *events* of *size* bytes in all, which nobody has received."""
        self.next -= events  # these numbers are free again, whether the frames are still kept or not
        self.position -= size
        while self.kept and self.kept[-1].first >= self.next:
            self._context.unkeep(self)

    def room(self) -> int:
        """Return how many bytes of events may be sent now; zero or less: wait for credit."""
        if self._windows:
            return min(self._windows.values()) - self.position
        if self._alone:
            return FIRST_WINDOW
        return FIRST_WINDOW + self._began - self.position

    def heard(self, receivers: int) -> None:
        """Take the transport's word for how many others got the last frame: zero is a fact."""
        if receivers == 0:
            self._alone = True
            self._windows.clear()
        elif self._alone:
            self._alone = False
            self._began = self.position

    def silent(self, now: float) -> bool:
        """
        Return whether the node that this session goes to has left our events unanswered for suspiciously long.

        To be asked from time to time.
        """
        if self._progress or self.handled == self.next:
            self._progress, self._silent_since = False, now
        return now - self._silent_since > SUSPICION

    def granted(self, receiver: str, upto: int, handled: int) -> None:
        """Let *receiver*, which handled all below number *handled*, get events up to position *upto*."""
        if self._node is not None:
            self._progress |= handled > self.handled
            self.handled = max(self.handled, min(handled, self.next))
        if self._node is None and upto <= self.position and receiver not in self._windows:
            return  # a laggard is waited for again once it has caught up
        self._alone = False
        self._windows[receiver] = max(upto, self._windows.get(receiver, 0))  # a late grant takes nothing back
        if self.room() > 0:
            self._blocked_at = None

    def forget(self, receiver: str) -> None:
        """Wait for *receiver* no more: it has left, or begins anew."""
        if self._windows.pop(receiver, None) is not None:
            self._began = self.position

    def again(self, first: int, last: int) -> tuple[list[bytes], int]:
        """
        Return the kept frames that hold events from *first* up to *last*, and the lowest number still kept.

        Not more than about ``RESEND_AT_ONCE`` bytes: who asks will ask for the rest.
        """
        found: list[bytes] = []
        size = 0
        for kept in self.kept:
            if kept.first > last or size >= RESEND_AT_ONCE:
                break
            if kept.first + kept.events > first:
                found.append(kept.data)
                size += len(kept.data)
        return found, self.kept[0].first if self.kept else self.next

    def due(self, now: float, *, waiting: bool, laggard_timeout: float) -> Frame | None:
        """Return the empty frame that is due, if any: it reveals a lost tail, or asks for credit."""
        if not waiting or self.room() > 0:
            self._blocked_at = None
        elif self._blocked_at is None:
            self._blocked_at, self._probes, self._probe_at = now, 0, now + PROBES[0]
        elif self._node is None and not self._windows and now - self._blocked_at >= SILENCE:
            self._alone, self._blocked_at = True, None
        elif self._node is None and now - self._blocked_at >= laggard_timeout:
            self._windows = {who: upto for who, upto in self._windows.items() if upto > self.position}
            self._blocked_at = None
        if self._probe_at is None or now < self._probe_at:
            return None
        self._probes += 1
        if self._probes < len(PROBES):
            self._probe_at = now + PROBES[self._probes]
        else:
            unanswered = self._node is not None and self.handled < self.next
            self._probe_at = now + PROBES[-1] if unanswered or self._blocked_at is not None else None
        notes = [Note(ASK, self.session, self._context.incarnation)] if self._blocked_at is not None else []
        return self.pack((), 0, notes, now)

    def _header(self, count: int, notes: list[Note]) -> Header:
        context = self._context
        return Header(
            context.namespace,
            context.node,
            context.incarnation,
            self.session,
            self.partition,
            self.next,
            count,
            self.position,
            notes,
        )


class Kept:
    """A frame that may be asked for again, until it is *gone*."""

    __slots__ = ("at", "data", "events", "first", "gone", "outgoing", "position")

    def __init__(self, outgoing: Outgoing, first: int, events: int, position: int, at: float, data: bytes) -> None:
        self.outgoing = outgoing
        self.first = first
        self.events = events
        self.position = position
        self.at = at
        self.data = data
        self.gone = False


class Incoming:
    """
    The receiver's side of a session.

    Attributes:
        node, incarnation, session, partition: see :class:`Header`.
        expected: the number that comes next.
        closed: whether we listen no more, or the sender is gone.
    """

    def __init__(self, context: SessionContext, header: Header, expected: int) -> None:
        self._context = context
        self.node = header.node
        self.incarnation = header.incarnation
        self.session = header.session
        self.partition = header.partition
        self.expected = expected
        self.closed = False
        self._end = header.position if expected == header.first else 0
        self._unhandled = 0
        self._granted = 0
        self._told = 0
        self._open: deque[Ticket] = deque()
        self._held: dict[int, tuple[Header, memoryview, float]] = {}
        self._held_size = 0
        self._known = expected  # numbers below exist at the sender
        self._known_end = self._end  # and take it to this position
        self._ask_at: float | None = None
        self._asked = 0
        self._asked_for = 0

    def on_frame(self, header: Header, body: memoryview, now: float) -> Iterator[Ready]:
        """Yield what has its turn now: *header*'s frame, and those that waited for it."""
        after = header.first + header.count
        if after > self._known:
            self._known, self._known_end = after, header.position + (len(body) if header.count else 0)
        if header.count and (header.first < self.expected or header.first in self._held):
            self._context.duplicates += header.count
        elif header.count and header.first == self.expected:
            yield self._deliver(header, body, now)
            if self._held:
                yield from self._release()
        elif header.count and self._has_room(body):
            self._held[header.first] = header, body, now
            self._held_size += len(body)
        self._look_for_hole(now)
        if not self._granted:
            self.grant()

    def gone(self, first: int, last: int, now: float) -> Iterator[Ready | Gap]:
        """Yield the gap that the sender admits, and what waited behind it."""
        if first <= self.expected <= last < self._known:
            yield self._skip_to(min((last + 1, *self._held)))
            yield from self._release()
            self._ask_at, self._asked = None, 0
            self._look_for_hole(now)

    def rest(self, now: float) -> Iterator[Ready | Gap]:
        """Yield the gaps that stay, and what waited behind them, since the sender is gone."""
        while self.expected < self._known:
            yield from self.gone(self.expected, self._known - 1, now)

    def due(self, now: float) -> Note | None:
        """Return the request for the missing range if it is time to ask."""
        if self._ask_at is None or now < self._ask_at or self._asked >= len(ASK_AGAIN):
            return None
        self._ask_at = now + ASK_AGAIN[self._asked]
        self._asked += 1
        self._asked_for = self.expected
        return self._note(MISSING, self.expected, min(self._held, default=self._known) - 1)

    def given_up(self, now: float) -> Iterator[Ready | Gap]:
        """Yield the gap, and what waited behind it, if all requests went unanswered."""
        if self._ask_at is not None and self._asked >= len(ASK_AGAIN) and now >= self._ask_at:
            yield from self.gone(self.expected, min(self._held, default=self._known) - 1, now)

    def settled(self, ticket: Ticket) -> None:
        """Count the deliveries of *ticket* as handled, and say since when they were there."""
        self._context.on_settled(ticket.since)
        self.handled(ticket)

    def handled(self, ticket: Ticket) -> None:
        """Count what *ticket* is for as handled, and grant more once half the window is free."""
        ticket.done = True
        self._unhandled -= ticket.size
        while self._open and self._open[0].done:
            self._open.popleft()
        if self._upto() - self._granted >= self._context.window // 2:
            self.grant()

    def grant(self) -> None:
        """Tell the sender how far it may go."""
        if not self.closed:
            self._granted = max(self._granted, self._upto())
            self._told = self._handled_below()
            self._context.tell(self.node, self._note(GRANT, self._granted, self._told))

    def report(self) -> bool:
        """Tell the sender what has been handled, if it does not know; return whether that is all that came."""
        if self._handled_below() > self._told:
            self.grant()
        return self.closed or self._told == self.expected

    def leave(self) -> None:
        """Tell the sender to wait for us no more, and what we took in of what it sent."""
        self.closed = True
        self._context.tell(self.node, self._note(LEFT, self.expected))

    def _note(self, kind: str, first: int = 0, last: int = 0) -> Note:
        return Note(kind, self.session, self.incarnation, first, last)

    def _has_room(self, body: memoryview) -> bool:
        return self._held_size + len(body) <= self._context.hold_back_size

    def _handled_below(self) -> int:
        return self._open[0].first if self._open else self.expected

    def _upto(self) -> int:
        return self._end - self._unhandled + self._context.window

    def _deliver(self, header: Header, body: memoryview, since: float) -> Ready:
        size = len(body)
        self.expected = header.first + header.count
        self._end = max(self._end, header.position + size)
        self._unhandled += size
        ticket = Ticket(self, header.first, size, since)
        self._open.append(ticket)
        return Ready(header, body, ticket)

    def _release(self) -> Iterator[Ready]:
        while held := self._held.pop(self.expected, None):
            self._held_size -= len(held[1])
            yield self._deliver(*held)

    def _skip_to(self, number: int) -> Gap:
        missed = number - self.expected
        self.expected = number
        self._context.missed += missed
        return Gap(f"@{self.node}", self.partition, missed)

    def _look_for_hole(self, now: float) -> None:
        if self._known <= self.expected:
            self._ask_at, self._asked = None, 0
            self._end = max(self._end, self._known_end)
        elif self._ask_at is None or (self._asked and self.expected > self._asked_for):
            self._ask_at, self._asked = now + self._context.patience, 0
