"""The receiver's end of a session: puts frames in order, asks for those that are missing, and gives credit."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple

from msgspec.structs import replace

from eventbus_core.losses import Gap
from eventbus_core.session import GRANT, LEFT, MISSING, MISSING_AGAIN, SessionContext
from eventbus_core.transport import node_partition
from eventbus_core.wire import LARGEST, Header, Note

HELD_OVERHEAD: Final = 1024
"""About what a frame that is held takes beside its events."""


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
        self._addressed = header.partition == node_partition(context.node)
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
            # Not the frame itself, which its notes can make many times as large.
            self._held[header.first] = replace(header, notes=[]), memoryview(bytes(body)), now
            self._held_size += len(body) + HELD_OVERHEAD
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
        if self._ask_at is None or now < self._ask_at or self._asked >= len(MISSING_AGAIN):
            return None
        self._ask_at = now + MISSING_AGAIN[self._asked]
        self._asked += 1
        self._asked_for = self.expected
        return self._note(MISSING, self.expected, min(self._held, default=self._known) - 1)

    def interrupted(self) -> None:
        """Begin to ask anew, if something is missing: the transport may have lost the answers."""
        if self._ask_at is not None:
            self._ask_at, self._asked = 0.0, 0

    def given_up(self, now: float) -> Iterator[Ready | Gap]:
        """Yield the gap, and what waited behind it, if all requests went unanswered."""
        if self._ask_at is not None and self._asked >= len(MISSING_AGAIN) and now >= self._ask_at:
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
        if self._upto() - self._granted >= self._window() // 2:
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
        return self._held_size + len(body) + HELD_OVERHEAD <= self._context.hold_back_size

    def _handled_below(self) -> int:
        return self._open[0].first if self._open else self.expected

    def _upto(self) -> int:
        return self._end - self._unhandled + self._window()

    def _window(self) -> int:
        # What goes to many is not slowed down by one: a laggard is left behind there.
        return self._context.narrowed if self._addressed else self._context.window

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
            self._held_size -= len(held[1]) + HELD_OVERHEAD
            yield self._deliver(*held)

    def _skip_to(self, number: int) -> Gap:
        missed = number - self.expected
        self.expected = number
        self._context.missed = min(self._context.missed + missed, LARGEST)  # the numbers may be forged
        return Gap(f"@{self.node}", self.partition, missed)

    def _look_for_hole(self, now: float) -> None:
        if self._known <= self.expected:
            self._ask_at, self._asked = None, 0
            self._end = max(self._end, self._known_end)
        elif self._ask_at is None or (self._asked and self.expected > self._asked_for):
            self._ask_at, self._asked = now + self._context.patience, 0
