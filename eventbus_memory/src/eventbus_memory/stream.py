"""A retained stream of an in-memory namespace."""

from __future__ import annotations

from collections import deque
from time import monotonic

import attrs

from eventbus_core.backend import PAGE_SIZE, POSITION_LIFE, Entry, NewEntry, Page, Position, new_epoch


@attrs.define(eq=False)
class Stream:
    """
    The entries of one stream, each with the time when it ends, and its position.

    Attributes:
        top: the position of the newest event.
        ends: when the stream is forgotten, if nothing more is appended.
    """

    top: Position = attrs.field(factory=lambda: Position(new_epoch(), 0, 0))
    ends: float = 0.0
    _entries: deque[tuple[float, Entry]] = attrs.field(factory=deque)
    _size: int = 0

    def append(self, new: NewEntry) -> Position:
        """Append *new*, if it is not a repetition of an entry that is here, and remove what is beyond its retention."""
        now = monotonic()
        self.ends = now + new.retention.seconds + POSITION_LIFE
        if not new.events:
            if not self.top.offset and not self.top.fingerprint:  # it begins now
                self.top = self.top._replace(fingerprint=new.fingerprint)
            return self.top
        if new.after is not None:
            after = new.after if new.after <= self.top.offset else 0
            for _, entry in self._entries:
                if entry.last > after and entry.fingerprint == new.fingerprint:
                    return self.top._replace(offset=entry.last, fingerprint=entry.fingerprint)
        self.top = Position(self.top.epoch, self.top.offset + new.events, new.fingerprint)
        entry = Entry(self.top.offset, new.fingerprint, new.events, new.body)
        self._entries.append((now + new.retention.seconds, entry))
        self._size += len(new.body)
        self._expire(now)
        while self._entries and (
            self._size > new.retention.bytes or self._entries[0][1].last <= self.top.offset - new.retention.events
        ):
            self._remove()
        return self.top

    def read(self, offset: int) -> Page:
        """Return a page from *offset* on."""
        self._expire(monotonic())
        entries: list[Entry] = []
        size = 0
        for _, entry in self._entries:
            if entry.last >= offset and size < PAGE_SIZE:
                entries.append(entry)
                size += len(entry.body)
        return Page(self.top, entries)

    def _expire(self, now: float) -> None:
        while self._entries and self._entries[0][0] <= now:
            self._remove()

    def _remove(self) -> None:
        _, entry = self._entries.popleft()
        self._size -= len(entry.body)
