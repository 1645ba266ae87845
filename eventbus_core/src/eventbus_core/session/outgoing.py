"""The sender's end of a session: numbers its frames, keeps them for retransmission, and stays within its credit."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import inf
from typing import Final

from eventbus_core.backend import Frame, Partition
from eventbus_core.model.event import Event
from eventbus_core.model.numbers import MAX_NUMBER
from eventbus_core.session.protocol import ASK, SessionContext
from eventbus_core.session.resend_buffer import KeptFrame, ResendBuffer
from eventbus_core.session.wire import Header, Note, unpack, unpack_readable

FIRST_WINDOW: Final = 128 * 1024
"""Bytes that may be sent to receivers from which no grant has come yet."""
NO_RECEIVER_AFTER: Final = 0.2
"""Seconds without any grant after which a lane counts as one without receivers."""
SUSPECT_AFTER: Final = 3.0
"""Seconds after which a node that confirms nothing of what we sent may be dead."""
PROBE_PAUSES: Final = (0.05, 0.2, 0.8, 3.0)
STEADY_PAUSE: Final = 0.2
"""Seconds from one frame to the next, below which the first probe waits for twice as long."""
MAX_BURST: Final = 1024 * 1024
"""Bytes that are retransmitted for one request."""


class Restart:
    """
    A node that seems to have restarted: its confirmations do not count for what was sent to its former incarnation.

    Attributes:
        incarnation: the later one.
        first: the number of the first event that was sent since it was heard.
        handled: all events from *first* to below this number have been handled by it.
    """

    __slots__ = ("first", "handled", "incarnation")

    def __init__(self, incarnation: int, first: int) -> None:
        self.incarnation = incarnation
        self.first = self.handled = first

    def confirm(self, handled: int) -> None:
        """Note that it has handled all that it got below number *handled*."""
        self.handled = max(self.handled, handled)

    def take_back(self, next: int) -> None:
        """Note that the numbers from *next* on are free again."""
        self.first = min(self.first, next)
        self.handled = min(self.handled, next)


class Outgoing:
    """
    The sender's end of a session.

    Attributes:
        partition: where it goes.
        node: the node whose own partition that is, if it is one's.
        session: its number.
        next: the number that the next event gets.
        position: bytes of events sent so far.
        handled: of a session to one node: all events below this number have been handled there.
        renewal: of a session to one node: the later incarnation of that node of which frames came, while the directory
            has not confirmed it, else ``None``.
        kept: the frames that can be retransmitted, oldest first.
        silence: of a session to one node: seconds between the first and the latest request for credit that the broker
            took since the node answered one.
    """

    def __init__(
        self, context: SessionContext, buffer: ResendBuffer, partition: Partition, session: int, node: str | None
    ) -> None:
        self._context = context
        self._buffer = buffer
        self.node = node
        self.partition = partition
        self.session = session
        self.next = 1
        self.position = 0
        self.handled = 1
        self.kept: deque[KeptFrame] = deque()
        self.silence = 0.0
        self._unanswered_since: float | None = None
        self.restart: Restart | None = None
        self._receiver = 0  # incarnation of the node that confirms; 0 until it is known
        self._burst = MAX_BURST
        self._asked_for = 0
        self._progress = True
        self._silent_since = 0.0
        self._no_receiver = False  # as far as we know, the partition has no receiver
        self._granted: dict[str, int] = {}  # receiver: the position up to which it wants events
        self._slow: set[str] = set()  # receivers on a lane or of broadcasts that the sender no longer waits for
        self._began = 0  # the position from which a receiver without a grant has its first window
        self._sent_at = -inf  # the last frame with events
        self._probe_at: float | None = None
        self._probes = 0
        self._blocked_at: float | None = None

    def pack(self, events: Sequence[bytes], size: int, notes: list[Note], now: float) -> Frame:
        """Return the next frame of the session, which carries *events* of *size* bytes in all."""
        context = self._context
        header = Header(
            context.namespace,
            context.node,
            context.incarnation,
            self.session,
            self.partition,
            self.next,
            len(events),
            self.position,
            notes,
        )
        frame = Frame(self.partition, context.pack(header, events))
        if events:
            self._buffer.keep(KeptFrame(self.kept, self.next, len(events), size, now, frame.data))
            self._progress |= self.handled == self.next
            self.next += len(events)
            self.position += size
            self._probe_from(now)
        return frame

    def _probe_from(self, now: float) -> None:
        """Probe after a frame that is sent *now*, but not before the next one, which reveals a lost frame as well."""
        pause = now - self._sent_at
        self._sent_at = now
        self._probes, self._probe_at = 0, now + max(PROBE_PAUSES[0], 2 * pause if pause < STEADY_PAUSE else 0.0)

    def take_back(self, events: int, size: int) -> None:
        """Undo the last :meth:`pack` calls, of *events* of *size* bytes in all, whose frames reached no receiver."""
        self.next -= events  # these numbers are free again, whether the frames are still kept or not
        self.position -= size
        if self.restart is not None:
            self.restart.take_back(self.next)
        while self.kept and self.kept[-1].first >= self.next:
            self._buffer.take_back(self.kept)

    def discard(self, frame: Frame, *, taken_back: bool) -> None:
        """
        Keep *frame* no longer: the broker refuses it.

        If *taken_back* and it is the last one, its numbers are used again. Otherwise receivers that miss it are told
        that it is not kept.
        """
        kept = next((kept for kept in reversed(self.kept) if kept.data is frame.data), None)
        if kept is not None:
            if taken_back and kept.first + kept.events == self.next:
                self.next = kept.first
                self.position -= kept.size
            self._buffer.discard(kept)

    def available_bytes(self) -> int:
        """Return how many bytes of events may be sent now; zero or less: wait for credit."""
        if self._granted:
            return min(self._granted.values()) - self.position
        if self._no_receiver:
            return FIRST_WINDOW
        return FIRST_WINDOW + self._began - self.position

    def count_receivers(self, receivers: int) -> None:
        """Record how many other nodes got the last frame, by the count of the transport; only a zero is certain."""
        if receivers == 0:
            self._no_receiver = True
            self._granted.clear()
        elif self._no_receiver:
            self._no_receiver = False
            self._began = self.position

    def is_unresponsive(self, now: float) -> bool:
        """
        Return whether the node that this session goes to has confirmed nothing for suspiciously long.

        Call it regularly: it measures the time from call to call.
        """
        if self._progress or self.handled == self.next:
            self._progress, self._silent_since = False, now
        return now - self._silent_since > SUSPECT_AFTER

    def on_grant(self, receiver: str, upto: int, handled: int) -> None:
        """Allow events up to position *upto* to *receiver*, which has handled all events below number *handled*."""
        if self.restart is not None:
            self.restart.confirm(min(handled, self.next))
        elif self.node is not None:
            self._progress |= handled > self.handled
            self.handled = max(self.handled, min(handled, self.next))
        if receiver in self._slow and upto <= self.position:
            return  # it counts again once it has caught up
        self._slow.discard(receiver)
        self._no_receiver = False
        self.silence, self._unanswered_since = 0.0, None
        self._granted[receiver] = max(upto, self._granted.get(receiver, 0))  # a late grant takes nothing back
        if self.available_bytes() > 0:
            self._blocked_at = None
        if self.handled == self.next and self._blocked_at is None:
            self._probe_at = None  # the node lacks nothing

    def lend(self, size: int) -> None:
        """Allow *size* bytes from here on, whatever the receiver has granted."""
        if self.node is not None:
            self._granted = {self.node: self.position + size}

    def asked(self, now: float, *, reliable: bool) -> None:
        """Note that the broker took a request for credit; it counts if the broker was *reliable* since the last."""
        if self.node is None or self._blocked_at is None:
            return
        if self._unanswered_since is None or not reliable:
            self._unanswered_since = now
        self.silence = now - self._unanswered_since

    def goes_to(self, incarnation: int) -> None:
        """Note that the node lives in *incarnation* by the directory; the first that is known counts."""
        self._receiver = self._receiver or incarnation

    def heard(self, incarnation: int) -> None:
        """Note that a frame of *incarnation* of the node came; a later one than before begins a :class:`Restart`."""
        if not self._receiver or self.handled == self.next:
            self._receiver = max(incarnation, self._receiver)
        elif incarnation > self._receiver:
            self.restart = Restart(incarnation, self.next)

    def restarted(self) -> tuple[int, int]:
        """End the renewal, which is confirmed; return the numbers from and below which nothing was confirmed."""
        if self.restart is None:
            return self.handled, self.handled
        unconfirmed = self.handled, max(self.handled, self.restart.first)
        self.handled = max(self.handled, self.restart.handled)
        self._receiver, self.restart = self.restart.incarnation, None
        return unconfirmed

    def not_restarted(self, incarnation: int) -> None:
        """End the renewal, if there is one: the node is still alive in *incarnation*."""
        self.restart = None
        if self._receiver > incarnation:
            self._receiver = 0

    def forget(self, receiver: str) -> None:
        """Wait no longer for credit of *receiver*, which has left or has restarted."""
        self._slow.discard(receiver)
        if self._granted.pop(receiver, None) is not None:
            self._began = self.position

    def retransmission(self, first: int, last: int) -> tuple[list[bytes], int]:
        """
        Return the kept frames that hold events from *first* to *last*, and the lowest number from there on still kept.

        These are about ``MAX_BURST`` bytes at most; the receiver asks for the rest afterwards. They are fewer each
        time that the same number is asked for again: perhaps the broker cuts a receiver that gets too much at once.
        """
        self._burst = max(self._burst // 4, 1) if first == self._asked_for else min(2 * self._burst, MAX_BURST)
        self._asked_for = first
        found: list[bytes] = []
        size = 0
        for kept in self.kept:
            if kept.first > last or size >= self._burst:
                break
            if kept.first + kept.events > first:
                found.append(kept.data)
                size += len(kept.data)
        return found, next((kept.first for kept in self.kept if kept.first + kept.events > first), self.next)

    def kept_events(self, first: int, end: int = MAX_NUMBER) -> list[Event]:
        """Return the events from number *first* to below *end*, as far as they are kept and can be read."""
        found: list[Event] = []
        for kept in self.kept:
            if kept.first + kept.events <= first or kept.first >= end:
                continue
            header, body = unpack(kept.data, len(kept.data), sealed=True)
            numbered = enumerate(unpack_readable(body, header.count), kept.first)
            found += [event for number, event in numbered if event is not None and first <= number < end]
        return found

    def forgotten(self, first: int, end: int = MAX_NUMBER) -> int:
        """Return how many events from number *first* to below *end* are not kept any more."""
        lowest = self.kept[0].first if self.kept else self.next
        return max(0, min(lowest, end) - first)

    @property
    def is_probing(self) -> bool:
        """Whether :meth:`due_probe` will return a frame if nothing else happens: a receiver may lack some events."""
        return self._probe_at is not None

    def due_probe(self, now: float, *, waiting: bool, slow_consumer_timeout: float) -> Frame | None:
        """
        Return the empty frame that is due, if any: it reveals a lost last frame, or asks for credit.

        Args:
            now: the time.
            waiting: whether there are events that wait for credit.
            slow_consumer_timeout: seconds that senders wait for a receiver without credit.
        """
        if not waiting or self.available_bytes() > 0:
            self._blocked_at = None
        elif self._blocked_at is None:
            self._blocked_at, self._probes, self._probe_at = now, 0, now + PROBE_PAUSES[0]
        elif self.node is None and not self._granted and now - self._blocked_at >= NO_RECEIVER_AFTER:
            self._no_receiver, self._blocked_at = True, None
        elif self.node is None and now - self._blocked_at >= slow_consumer_timeout:
            self._slow.update(receiver for receiver, upto in self._granted.items() if upto <= self.position)
            self._granted = {receiver: upto for receiver, upto in self._granted.items() if receiver not in self._slow}
            self._blocked_at = None
        if self._probe_at is None or now < self._probe_at:
            return None
        self._probes += 1
        if self.node is not None and self._blocked_at is not None:  # whether it answers must be known in time
            self._probe_at = now + min(
                PROBE_PAUSES[min(self._probes, len(PROBE_PAUSES) - 1)], slow_consumer_timeout / 4
            )
        elif self._probes < len(PROBE_PAUSES):
            self._probe_at = now + PROBE_PAUSES[self._probes]
        else:
            unanswered = self.node is not None and self.handled < self.next
            self._probe_at = now + PROBE_PAUSES[-1] if unanswered or self._blocked_at is not None else None
        notes = [Note(ASK, self.session, self._context.incarnation)] if self._blocked_at is not None else []
        return self.pack((), 0, notes, now)
