"""
The live order of one stream on this node, and the seam between what a reader reads and what it gets live.

Pure: no I/O, no clock, no mailboxes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from eventbus_core.backend import Position
from eventbus_core.history.resumption import NO_FINGERPRINT
from eventbus_core.history.shares import Share

MAX_EARLY: Final = 64
"""Shares that are held while an earlier one is missing; the history has the others."""
MAX_RECENT: Final = 64
"""Shares that are remembered, to tell one that comes twice from one that took the place of another."""
MAX_OVERTAKEN: Final = 10_000
"""Shares from before the first one that are handed on when they come; one beyond that is not."""


class Feed:
    """
    Puts the live shares of a stream in order.

    Nodes that publish to one stream append to it in one order, and their shares may arrive here in another. The feed
    hands them on by their offsets, without a hole. If one does not come, or does not fit, it falls *behind*: then the
    history is to be read from the cursor.

    Attributes:
        cursor: behind the last event that was handed on; ``None`` until the first share.
        behind: whether the history has to be read.
        opening: readers that read the history now; until one has, a feed without a cursor hands on nothing.
    """

    def __init__(self) -> None:
        self.cursor: Position | None = None
        self.behind = False
        self.opening = 0
        self._start = 0  # the feed began with the event of this offset
        self._early: dict[int, Share] = {}
        self._doubtful: set[int] = set()
        self._recent: dict[tuple[int, int], None] = {}
        self._overtaken: set[tuple[int, int]] = set()  # from before the start, and handed on

    def live(self, share: Share) -> list[Share]:
        """Take in a share that arrived; return those that are handed on now."""
        if self.cursor is None:
            if self.opening and share.body and self._hold(share):
                return []
            self._begin(share)
            if share.first > self._start:  # those that are held come before it
                return [*self._in_turn(), *self.live(share)]
        cursor = self.cursor
        if cursor is not None and share.epoch == cursor.epoch:
            if share.last <= cursor.offset:
                return self._late(share)
            if share.first == cursor.offset + 1 and share.body:
                self._pass(share)
                return [share, *self._in_turn()]
            if share.first > cursor.offset + 1:
                self._hold(share)
        self.behind = True
        return []

    def fall_behind(self) -> None:
        """Have the history read: it is ahead."""
        self.behind = True

    def begin_read(self) -> Position | None:
        """Return the cursor, from which the history is read now."""
        self._doubtful = set(self._early)
        return self.cursor

    def skip(self, offset: int) -> int:
        """Move on to *offset*, as the events up to there are gone; return how many were not handed on."""
        cursor = self.cursor
        if cursor is None or offset <= cursor.offset:
            return 0
        self.cursor = Position(cursor.epoch, offset, NO_FINGERPRINT)
        return offset - cursor.offset

    def caught_up(self, end: Position, shares: Iterable[Share]) -> list[Share]:
        """
        Take in what was read from the cursor up to *end*; return what is handed on now.

        Live shares may have been handed on while the read was running: those are not returned again. Shares that were
        held when it began, and are not in the history, are dropped: they are forged, or were lost.
        """
        self.behind = False
        cursor = self.cursor
        if cursor is None or end.offset >= cursor.offset:
            reached = 0 if cursor is None else cursor.offset
            new = [share for share in shares if share.last > reached]
            self.cursor = end
        else:
            new = []
        for share in new:
            self._remember(share)
        for first in self._doubtful:
            self._early.pop(first, None)
        return [*new, *self._in_turn()]

    def reset(self, end: Position, shares: Iterable[Share]) -> list[Share]:
        """Take in all that there is up to *end*, behind a gap; return what is handed on now."""
        self.cursor, self._start = None, 0
        self._recent.clear()
        self._overtaken.clear()
        return self.caught_up(end, shares)

    def open(self) -> None:
        """Note that a reader is about to read the history."""
        self.opening += 1

    def opened(self, end: Position) -> list[Share]:
        """End the opening: a reader has read up to *end*. Return what is handed on now."""
        self.opening -= 1
        late: list[Share] = []
        if self.cursor is None:
            self.cursor, self._start = end, end.offset + 1
            late = [share for first, share in sorted(self._early.items()) if first < self._start]
            self._overtaken.update((share.last, share.fingerprint) for share in late)
        return [*late, *self._in_turn()]

    def not_opened(self) -> list[Share]:
        """End an opening that failed; return what is handed on now."""
        self.opening -= 1
        if self.cursor is not None or self.opening or not self._early:
            return []
        first = self._early.pop(min(self._early))
        return self.live(first)

    def began_behind(self, end: Position) -> bool:
        """Return whether the feed began, where another reader ended, behind events that a reader up to *end* lacks."""
        return self.cursor is not None and end.offset < self._start - 1

    def precedes(self, end: Position, before: Position | None) -> bool:
        """Return whether *end* was read, when the cursor was *before*, of another life of the stream than this."""
        cursor = self.cursor
        if cursor is None:
            return False
        return cursor.epoch != end.epoch or (before is not None and end.offset < before.offset)

    def at(self, top: Position) -> bool:
        """Return whether *top*, as read now or before, holds nothing that was not handed on."""
        cursor = self.cursor
        if cursor is None or cursor == top:
            return True
        return cursor.epoch == top.epoch and (top.offset, top.fingerprint) in self._recent

    def _begin(self, share: Share) -> None:
        """Begin with *share*, or with the first one of its stream that is held."""
        held = [first for first, early in self._early.items() if early.epoch == share.epoch]
        self._start = min([share.first, *held])
        self.cursor = Position(share.epoch, self._start - 1, NO_FINGERPRINT)

    def _late(self, share: Share) -> list[Share]:
        """Return a share from before the first one, if another node overtook it when the feed began."""
        mark = share.last, share.fingerprint
        if mark in self._recent or mark in self._overtaken:
            return []
        if share.last < self._start and len(self._overtaken) < MAX_OVERTAKEN and share.body:
            self._overtaken.add(mark)
            return [share]
        self.behind = True
        return []

    def _hold(self, share: Share) -> bool:
        """Return whether there was room to hold *share*."""
        if len(self._early) >= MAX_EARLY:
            return False
        self._early[share.first] = share
        return True

    def _in_turn(self) -> Iterator[Share]:
        """Hand on held shares whose turn has come, and forget those whose turn is over."""
        while self.cursor is not None:
            share = self._early.pop(self.cursor.offset + 1, None)
            if share is None or share.epoch != self.cursor.epoch or not share.body:
                break
            self._pass(share)
            yield share
        cursor = self.cursor
        if cursor is not None:
            self._early = {
                first: share
                for first, share in self._early.items()
                if share.epoch == cursor.epoch and first > cursor.offset
            }
            self.behind = self.behind or bool(self._early)

    def _pass(self, share: Share) -> None:
        self.cursor = share.end
        self._remember(share)

    def _remember(self, share: Share) -> None:
        self._recent[share.last, share.fingerprint] = None
        if len(self._recent) > MAX_RECENT:
            del self._recent[next(iter(self._recent))]


class Seam:
    """
    Joins what one reader gets from the history to what comes live: no event twice, none missing.

    First live shares are buffered; then the reader has read up to some *end*; then those behind it follow, and all that
    comes later. Shares up to the end that come late are for others.

    Attributes:
        stale: whether the stream was lost, or lost its latest events, since the reader began to read.
    """

    def __init__(self) -> None:
        self.stale = False
        self._buffered: list[Share] | None = []
        self._end = Position("", 0, 0)

    @property
    def reading(self) -> bool:
        """Whether the reader has not read yet."""
        return self._buffered is not None

    def passed(self, end: Position) -> bool:
        """Return whether the reader had all up to *end* when it joined."""
        return self._end.epoch == end.epoch and self._end.offset >= end.offset

    def begin(self) -> None:
        """Note that the reader reads from now on."""
        self.stale = False

    def reset(self) -> None:
        """Note that the stream is another now: what was buffered is void, and what is read meanwhile too."""
        self.stale = True
        self._buffered = []

    def live(self, share: Share) -> bool:
        """Take in a share that is handed on; return whether the reader gets it now."""
        if self._buffered is not None:
            self._buffered.append(share)
            return False
        return self._new(share)

    def joined(self, end: Position) -> list[Share]:
        """Note that the reader has all up to *end*; return the shares that it gets now."""
        buffered, self._buffered, self._end = self._buffered or [], None, end
        return [share for share in buffered if self._new(share)]

    def _new(self, share: Share) -> bool:
        return share.epoch != self._end.epoch or share.last > self._end.offset
