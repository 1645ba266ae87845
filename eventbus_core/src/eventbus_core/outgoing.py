"""The sender's end of a session: numbers its frames, keeps them to be sent again, and minds the credit."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from eventbus_core.session import ASK, SessionContext
from eventbus_core.transport import Frame, Partition
from eventbus_core.wire import Header, Note, pack

FIRST_WINDOW: Final = 128 * 1024
SILENCE: Final = 0.2
"""If nobody answers for so many seconds, nobody is taken to listen."""
SUSPICION: Final = 3.0
"""A node that has not said for so many seconds that it handled what we sent may be dead."""
PROBES: Final = (0.05, 0.2, 0.8, 3.0)
RESEND_AT_ONCE: Final = 1024 * 1024


class Outgoing:
    """
    The sender's side of a session.

    Attributes:
        partition: where it goes.
        node: whose own partition that is, if it is one's.
        session: its number.
        next: the number that the next event gets.
        position: bytes of events sent so far.
        handled: of a node's own partition: all events below this number have been handled there.
        kept: the frames that can be sent again.
    """

    def __init__(self, context: SessionContext, partition: Partition, session: int, node: str | None) -> None:
        self._context = context
        self.node = node
        self.partition = partition
        self.session = session
        self.next = 1
        self.position = 0
        self.handled = 1
        self.kept: deque[Kept] = deque()
        self._burst = RESEND_AT_ONCE
        self._asked_for = 0
        self._progress = True
        self._silent_since = 0.0
        self._unheard = False  # whether nobody listens, as far as we know
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
        if self._unheard:
            return FIRST_WINDOW
        return FIRST_WINDOW + self._began - self.position

    def heard(self, receivers: int) -> None:
        """Take the transport's word for how many others got the last frame: zero is a fact."""
        if receivers == 0:
            self._unheard = True
            self._windows.clear()
        elif self._unheard:
            self._unheard = False
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
        if self.node is not None:
            self._progress |= handled > self.handled
            self.handled = max(self.handled, min(handled, self.next))
        if self.node is None and upto <= self.position and receiver not in self._windows:
            return  # a laggard is waited for again once it has caught up
        self._unheard = False
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

        Not more than about ``RESEND_AT_ONCE`` bytes: who asks will ask for the rest. Much less if the
        same is asked for once more: perhaps the transport cuts a receiver for whom so much comes at once.
        """
        self._burst = max(self._burst // 4, 1) if first == self._asked_for else min(2 * self._burst, RESEND_AT_ONCE)
        self._asked_for = first
        found: list[bytes] = []
        size = 0
        for kept in self.kept:
            if kept.first > last or size >= self._burst:
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
        elif self.node is None and not self._windows and now - self._blocked_at >= SILENCE:
            self._unheard, self._blocked_at = True, None
        elif self.node is None and now - self._blocked_at >= laggard_timeout:
            self._windows = {who: upto for who, upto in self._windows.items() if upto > self.position}
            self._blocked_at = None
        if self._probe_at is None or now < self._probe_at:
            return None
        self._probes += 1
        if self._probes < len(PROBES):
            self._probe_at = now + PROBES[self._probes]
        else:
            unanswered = self.node is not None and self.handled < self.next
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
