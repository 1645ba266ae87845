"""What waits in the outbox for one partition."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import anyio

from eventbus_core.outgoing import Outgoing


class Queue:
    """
    The events that wait for one partition.

    Attributes:
        session: our side of the session to that partition.
        node: the node whose own partition it is, if it is one's.
        events: encoded, in the order in which they were accepted.
        size: their bytes.
        accepted, published: how many events came in and went out so far.
        over: whether its node is gone, and another queue has taken over what was in it.
        later: while some of its events are on their way to the broker, what to do once it is known whether they come
            back; else ``None``.
    """

    __slots__ = (
        "_marks",
        "accepted",
        "events",
        "later",
        "node",
        "over",
        "published",
        "queued",
        "room",
        "session",
        "size",
    )

    def __init__(self, session: Outgoing, node: str | None) -> None:
        self.session = session
        self.node = node
        self.events: list[bytes] = []
        self.size = 0
        self.accepted = 0
        self.published = 0
        self.queued = self.over = False
        self.room: anyio.Event | None = None
        self.later: list[Callable[[], object]] | None = None
        self._marks: deque[tuple[int, float]] = deque()

    def mark(self, number: int, now: float) -> None:
        """Take note that what comes after the first *number* events is no older than *now*."""
        if not self._marks or self._marks[-1][0] < number:
            self._marks.append((number, now))

    def since(self) -> float:
        """Return when the oldest event was accepted, or the latest time marked before it."""
        before = self.accepted - len(self.events)
        while len(self._marks) > 1 and self._marks[1][0] <= before:
            self._marks.popleft()
        return self._marks[0][1]

    def cut(self, limit: int) -> tuple[list[bytes], int]:
        """Take events off the front until they have *limit* bytes, at least one; return them and their size."""
        if self.size <= limit:
            events, size = self.events, self.size
            self.events, self.size = [], 0
            return events, size
        size = number = 0
        for event in self.events:
            if size and size + len(event) > limit:
                break
            size += len(event)
            number += 1
        events = self.events[:number]
        del self.events[:number]
        self.size -= size
        return events, size

    def put_back(self, events: list[bytes]) -> None:
        """Put *events* that were cut off to the front again."""
        self.events[:0] = events
        self.size += sum(map(len, events))
        self.published -= len(events)

    def let_in(self) -> None:
        """Let those who wait for room look again."""
        if self.room is not None:
            self.room.set()
            self.room = None

    def drain(self) -> list[bytes]:
        """Take all events off, since they will not go this way."""
        events, self.events, self.size = self.events, [], 0
        self.published += len(events)
        return events
