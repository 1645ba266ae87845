"""The receiver's end of a session: puts frames in order, asks for those that are missing, and gives credit."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, Protocol

import msgspec
from msgspec.structs import replace

from eventbus_core.backend import node_partition
from eventbus_core.model.reports import Gap
from eventbus_core.session.credit import Credit
from eventbus_core.session.protocol import GRANT, MISSING, MISSING_PAUSES, RECEIVER_LEFT, SessionContext
from eventbus_core.session.wire import Header, Note

HELD_OVERHEAD: Final = 1024
"""About what a frame that is held back takes in memory beside its events."""


class Ready(NamedTuple):
    """A frame whose turn has come; *ticket* is settled as its events are handled."""

    header: Header
    body: memoryview
    ticket: Ticket


class Ticket(msgspec.Struct, eq=False):
    """
    The receipt of a frame: returns its bytes to the sender's credit once all its events are handled.

    Invariant: :meth:`expect` is called once, and :meth:`settle` then for exactly as many deliveries as were expected.
    With fewer, the frame's bytes never return to the sender's credit, and in the end it may send nothing more; with
    more, it may send more than the window.

    One is made for each frame: a struct of msgspec takes a third of the time of a class.

    Attributes:
        incoming: the session of the frame.
        node: the sender of the frame.
        first: the number of its first event.
        size: its bytes.
        since: when the frame arrived.
        left: how many deliveries of its events are not settled.
        done: whether all its events are handled.
    """

    incoming: Incoming
    node: str
    first: int
    size: int
    since: float
    left: int = 0
    done: bool = False
    _progress: Callable[[], int] | None = None

    def expect(self, deliveries: int) -> None:
        """Set how many deliveries the frame's events make: an event may go to many receivers here, or to none."""
        self.left = deliveries
        if deliveries == 0:
            self.incoming.release(self)

    def settle(self, deliveries: int) -> None:
        """Count *deliveries* as handled."""
        self.left -= deliveries
        if self.left == 0:
            self._progress = None  # it holds the frame's events, and refers to this ticket
            self.incoming.handled(self)

    def track(self, progress: Callable[[], int]) -> None:
        """Have *progress* called to know how many of the frame's events, from the first on, are handled."""
        self._progress = progress

    def handled_below(self) -> int:
        """Return the number below which all events of the frame are known to be handled."""
        return self.first if self._progress is None else self.first + self._progress()


class IncomingContext(SessionContext, Protocol):
    """The node, as the receiver's end of a session uses it."""

    def on_hole(self, incoming: Incoming) -> None:
        """Call :meth:`Incoming.due_request` and :meth:`Incoming.give_up` regularly until *incoming* is complete."""


class Incoming:
    """
    The receiver's end of a session.

    Numbers: ``expected`` is the next event to hand on, ``_known`` the first that the sender has not sent as far as we
    know, and ``expected <= _known`` always holds.

    - Events below ``expected`` were handed on, or were reported in a gap. A frame that begins there is a duplicate.
    - Events from ``expected`` to ``_known`` exist at the sender. They are missing, but for those in ``_held``, whose
      frames all begin above ``expected``.

    Positions count bytes of events from the start of the session, as :class:`Header` does: ``_end`` is that of
    ``expected``, ``_known_end`` that of ``_known``. The sender may send up to ``_granted``, which never decreases: the
    bytes handed on but not handled (``_unhandled``) and those in flight stay within the window together.

    Attributes:
        node, incarnation, session, partition: see :class:`Header`.
        expected: see above.
        closed: whether this end takes nothing more in, because we have left or the sender is gone.
    """

    def __init__(
        self, context: IncomingContext, credit: Credit, header: Header, expected: int, *, closed: bool = False
    ) -> None:
        self._context = context
        self._credit = credit
        self.node = header.node
        self.incarnation = header.incarnation
        self.session = header.session
        self.partition = header.partition
        self.expected = expected
        self.closed = closed
        self._addressed = header.partition == node_partition(context.node)
        self._end = header.position if expected == header.first else 0
        self._unhandled = 0
        self._event_size = 0  # on average, of the last frame
        self._granted = 0
        self._reported = 0  # the sender has been told that everything below this number is handled
        self._open: deque[Ticket] = deque()  # of frames handed on, in order, up to the oldest that is not handled
        self._held: dict[int, tuple[Header, memoryview, float]] = {}
        self._held_size = 0
        self._known = expected
        self._known_end = self._end
        self._ask_at: float | None = None  # when to ask for what is missing; none: nothing is missing
        self._asked = 0
        self._asked_for = 0

    def on_frame(self, header: Header, body: memoryview, now: float) -> Iterator[Ready]:
        """Yield the frames whose turn has come: this one, and those that waited for it."""
        after = header.first + header.count
        if after > self._known:
            self._known, self._known_end = after, header.position + (len(body) if header.count else 0)
        if header.count and (header.first < self.expected or header.first in self._held):
            self._context.count_duplicates(header.count)
        elif header.count and header.first == self.expected:
            yield self._hand_on(header, body, now)
            if self._held:
                yield from self._hand_on_held()
        elif header.count and self._can_hold(body):
            # Without its notes, and a copy of the body alone: the whole frame may be many times as large.
            self._held[header.first] = replace(header, notes=[]), memoryview(bytes(body)), now
            self._held_size += len(body) + HELD_OVERHEAD
        self._check_for_hole(now)
        if not self._granted:
            self.grant()

    def not_kept(self, first: int, last: int, now: float) -> Iterator[Ready | Gap]:
        """Yield the gap, if events from *first* to *last* are missing and lost for good, and what waited behind it."""
        if first <= self.expected <= last < self._known:
            yield self._skip_to(min((last + 1, *self._held)))
            yield from self._hand_on_held()
            self._ask_at, self._asked = None, 0
            self._check_for_hole(now)

    def finish(self, now: float) -> Iterator[Ready | Gap]:
        """Yield the gaps that stay because the sender is gone, and what waited behind them."""
        while self.expected < self._known:
            yield from self.not_kept(self.expected, self._known - 1, now)

    @property
    def continues_at(self) -> int:
        """The number expected next after :meth:`finish`: all below it is handed on or reported by then."""
        return self._known

    @property
    def complete(self) -> bool:
        """Whether nothing is missing of what the sender has sent, as far as we know."""
        return self._ask_at is None

    def due_request(self, now: float) -> Note | None:
        """Return the request for what is missing, if it is time to ask."""
        if self._ask_at is None or now < self._ask_at or self._asked >= len(MISSING_PAUSES):
            return None
        self._ask_at = now + MISSING_PAUSES[self._asked]
        self._asked += 1
        self._asked_for = self.expected
        return self._note(MISSING, self.expected, self._last_missing())

    def interrupted(self) -> None:
        """Restart the requests for what is missing: the transport may have lost the answers."""
        if self._ask_at is not None:
            self._ask_at, self._asked = 0.0, 0

    def give_up(self, now: float) -> Iterator[Ready | Gap]:
        """Yield the gap, and what waited behind it, if no request was answered."""
        if self._ask_at is not None and self._asked >= len(MISSING_PAUSES) and now >= self._ask_at:
            yield from self.not_kept(self.expected, self._last_missing(), now)

    def handled(self, ticket: Ticket) -> None:
        """Count the deliveries of *ticket*'s frame as handled."""
        self._context.on_handled(ticket.since)
        self.release(ticket)

    def release(self, ticket: Ticket) -> None:
        """Return the bytes of *ticket*'s frame to the sender's credit, and grant more once half the window is free."""
        ticket.done = True
        self._unhandled -= ticket.size
        while self._open and self._open[0].done:
            self._open.popleft()
        window = self._window()
        if self._end - self._unhandled + window - self._granted >= window // 2:
            self.grant()

    def grant(self) -> None:
        """Tell the sender up to which position it may send, once this node has entered: then it takes our notes."""
        if self._context.incarnation and not self.closed:
            self._granted = max(self._granted, self._end - self._unhandled + self._window())
            self._reported = max(self._reported, self._open[0].first if self._open else self.expected)
            self._context.tell(self.node, self._note(GRANT, self._granted, self._reported))

    def report(self) -> bool:
        """
        Tell the sender what has been handled, if it does not know; return whether that is all that came.

        This looks into the oldest frame that is not handled as a whole, which :meth:`grant` does not.
        """
        handled = self._open[0].handled_below() if self._open else self.expected
        if handled > self._reported:
            self._reported = handled
            self.grant()
        return self.closed or self._reported == self.expected

    def close(self) -> None:
        """Give no more credit: we have left, or the sender is gone."""
        self.closed = True

    def leave(self) -> None:
        """Tell the sender not to wait for us, and which of its events we took in."""
        self._context.tell(self.node, self._note(RECEIVER_LEFT, self.expected))

    def _note(self, kind: str, first: int = 0, last: int = 0) -> Note:
        return Note(kind, self.session, self.incarnation, first, last)

    def _can_hold(self, body: memoryview) -> bool:
        return self._held_size + len(body) + HELD_OVERHEAD <= self._context.hold_back_size

    def _last_missing(self) -> int:
        return min(self._held, default=self._known) - 1

    def _window(self) -> int:
        return self._credit.window(self._event_size, addressed=self._addressed)

    def _hand_on(self, header: Header, body: memoryview, since: float) -> Ready:
        size = len(body)
        self.expected = header.first + header.count
        self._end = max(self._end, header.position + size)
        self._unhandled += size
        self._event_size = size // header.count
        ticket = Ticket(self, self.node, header.first, size, since)
        self._open.append(ticket)
        return Ready(header, body, ticket)

    def _hand_on_held(self) -> Iterator[Ready]:
        while held := self._held.pop(self.expected, None):
            self._held_size -= len(held[1]) + HELD_OVERHEAD
            yield self._hand_on(*held)

    def _skip_to(self, number: int) -> Gap:
        missed = number - self.expected
        self.expected = number
        self._context.count_missed(missed)
        return Gap(f"@{self.node}", self.partition, missed)

    def _check_for_hole(self, now: float) -> None:
        if self._known <= self.expected:
            self._ask_at, self._asked = None, 0
            self._end = max(self._end, self._known_end)
        elif self._ask_at is None or (self._asked and self.expected > self._asked_for):
            self._ask_at, self._asked = now + self._context.reorder_tolerance, 0
            self._context.on_hole(self)
