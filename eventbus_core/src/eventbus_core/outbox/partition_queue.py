"""What waits in the outbox for one partition."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from eventbus_core.concurrency.notifier import Notifier
from eventbus_core.model.event import Event
from eventbus_core.model.salvage import salvage_event
from eventbus_core.session.outgoing import Outgoing
from eventbus_core.session.wire import MAX_FRAME_EVENTS

EVENTS_BEYOND_LIMIT: Final = 8
"""Events that may wait beyond the limit, within ``MOST_GROWTH`` times that: so several large ones go in one write."""
MOST_GROWTH: Final = 4


class PartitionQueue:
    """
    The events that wait for one partition.

    Attributes:
        session: our side of the session to that partition.
        node: the node whose own partition it is, if it is one's.
        events: encoded, in the order in which they were accepted.
        size: their bytes.
        limit: bytes that may wait before senders do; see :meth:`has_room`.
        accepted, published: how many events came in and went out so far.
        queued: whether the outbox will look at it without a further call: exactly while events wait in it and it
            stands among the ready queues of a route or the blocked queues.
        room: notified when senders may look for room again.
        abandoned: whether its node is gone, and another queue has taken over its events.
        after_write: from when some of its events are taken until the broker has taken or refused them, what to do
            then, once events that reached no receiver were put back; else ``None``. No others are taken meanwhile.

    Written by :class:`Outbox` alone, but for ``after_write``, to which routing appends. ``accepted - published`` is
    the number of events that wait or are being written.
    """

    __slots__ = (
        "_marks",
        "_read",
        "abandoned",
        "accepted",
        "after_write",
        "events",
        "limit",
        "node",
        "published",
        "queued",
        "room",
        "session",
        "size",
    )

    def __init__(self, session: Outgoing, node: str | None, limit: int) -> None:
        self.session = session
        self.node = node
        self.events: list[bytes] = []
        self.size = 0
        self.limit = limit
        self.accepted = 0
        self.published = 0
        self.queued = self.abandoned = False
        self.room = Notifier()
        self.after_write: list[Callable[[], object]] | None = None
        self._marks: deque[tuple[int, float]] = deque()
        self._read: list[Event | None] = []  # the first of the events, as far as they were read; None: unreadable

    def has_room(self) -> bool:
        """Return whether a sender may add an event without waiting."""
        few = len(self.events) < EVENTS_BEYOND_LIMIT and self.size < MOST_GROWTH * self.limit
        return few or self.size < self.limit

    def mark(self, number: int, now: float) -> None:
        """Note that every event after the first *number* ones was accepted at *now* or later."""
        if not self._marks or self._marks[-1][0] < number:
            self._marks.append((number, now))

    def since(self) -> float:
        """Return when the oldest event was accepted, or the latest time marked before it."""
        before = self.accepted - len(self.events)
        while len(self._marks) > 1 and self._marks[1][0] <= before:
            self._marks.popleft()
        return self._marks[0][1]

    def cut(self, limit: int) -> tuple[list[bytes], int]:
        """Remove the events of one frame, up to *limit* bytes but at least one; return them and their size."""
        if self.size <= limit and len(self.events) <= MAX_FRAME_EVENTS:
            events, size = self.events, self.size
            self.events, self.size, self._read = [], 0, []
            return events, size
        size = number = 0
        for event in self.events:
            if size and (size + len(event) > limit or number == MAX_FRAME_EVENTS):
                break
            size += len(event)
            number += 1
        events = self.events[:number]
        del self.events[:number]
        del self._read[:number]
        self.size -= size
        return events, size

    def put_back(self, events: list[bytes]) -> None:
        """Put *events* that were cut off back to the front."""
        self.events[:0] = events
        if self._read:
            self._read[:0] = map(salvage_event, events)
        self.size += sum(map(len, events))
        self.published -= len(events)

    def take_out(self, moved: Callable[[Event], bool]) -> list[Event]:
        """
        Remove and return the events that have *moved*: they will not go to this partition.

        Each event is read once, however often this is called: much may wait for a node that is gone.
        """
        read = self._read
        read += map(salvage_event, self.events[len(read) :])
        taken = [event for event in read if event is not None and moved(event)]
        if taken:
            gone = set(map(id, taken))
            self.events = [raw for raw, event in zip(self.events, read, strict=True) if id(event) not in gone]
            self._read = [event for event in read if id(event) not in gone]
            self.size = sum(map(len, self.events))
            self.published += len(taken)
        return taken

    def wake_senders(self) -> None:
        """Let senders that wait for room look again."""
        self.room.notify()

    def drain(self) -> list[bytes]:
        """Remove and return all events: they will not go to this partition."""
        events, self.events, self.size, self._read = self.events, [], 0, []
        self.published += len(events)
        return events
