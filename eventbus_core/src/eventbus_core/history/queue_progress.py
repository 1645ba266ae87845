"""Which events of the stream of a retained queue are handled, and which come next. Pure: no I/O and no clock."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import takewhile
from typing import Final

import msgspec

from eventbus_core.backend import Entry, Page, Position
from eventbus_core.history.feeds import ANCHOR_AGE
from eventbus_core.history.resumption import judge
from eventbus_core.model.event import UNREADABLE
from eventbus_core.model.reports import GapReason
from eventbus_core.model.tokens import Mark

BEGINNING: Final = Mark(0, 0)
PROVEN: Final = (None, GapReason.TRIMMED)
"""Verdicts on a mark that leave no doubt: what the stream still has follows it."""


class QueueRecord(msgspec.Struct, array_like=True, frozen=True):
    """
    What was handled of a stream, or told to be gone, as the history keeps it.

    That is every event up to *mark*, and up to the offset *told*, except for those in *unhandled*.

    Attributes:
        epoch: of the stream; empty if none of its events was read.
        mark: the latest event that was handled.
        anchor: an event before it, from some seconds ago: it counts if the broker has lost the event of *mark*.
        unhandled: offsets, in order.
        told: the offset of the latest event that was told to be gone.
    """

    epoch: str
    mark: Mark
    anchor: Mark | None
    unhandled: list[int]
    told: int

    @property
    def marks(self) -> list[Mark]:
        """The mark, and the anchor if there is one."""
        return [self.mark] if self.anchor is None else [self.mark, self.anchor]


encode_record = msgspec.msgpack.Encoder().encode
"""Return a :class:`QueueRecord` as the body of an entry."""
_decode = msgspec.msgpack.Decoder(QueueRecord).decode


def decode_record(body: bytes) -> QueueRecord | None:
    """Return what :func:`encode_record` encoded; ``None`` if *body* is something else."""
    try:
        return _decode(body)
    except UNREADABLE:
        return None


class QueueProgress:
    """
    How far a dispatcher is with a stream.

    Args:
        epoch: of the stream; empty until it is known.
        mark: all up to there is handled, except for *unhandled*, which are taken again.
        anchor: an earlier mark.
        told: all up to that offset is handled or told to be gone, with the same exceptions.

    Attributes:
        following: the offset of the next event to take.
    """

    def __init__(
        self,
        epoch: str = "",
        mark: Mark = BEGINNING,
        unhandled: Iterable[int] = (),
        anchor: Mark | None = None,
        told: int = 0,
    ) -> None:
        self.epoch = epoch
        self._told = told
        self._done_before = max(mark.offset, told)
        self._again = sorted(unhandled)
        self.following = self._again[0] if self._again else self._done_before + 1
        self._read: Mark | None = None if self._again else mark  # the last event that was read
        self._mark = mark
        self._anchor, self._next_anchor = anchor, anchor
        self._noted_at = 0.0
        self._unhandled: dict[int, None] = {}  # taken, in order
        self._entries: deque[Mark] = deque()  # that were read, by their last events, from that of the mark on

    @property
    def start(self) -> int:
        """The offset to read from: that of the last event that was read, which proves that the stream is the same."""
        return self.following if self._read is None else max(1, self._read.offset)

    def check(self, page: Page) -> GapReason | None:
        """Return why *page*, read from ``start``, does not follow what was read before; ``None`` if it does."""
        if not self.epoch:
            self.epoch = page.top.epoch
        if self._read is None:
            return None if page.top.epoch == self.epoch else GapReason.NEW_STREAM
        verdict = judge(Position(self.epoch, *self._read), page, page.top.offset)
        return None if verdict.reason in PROVEN else verdict.reason

    def take(self, entry: Entry) -> tuple[int, list[int]]:
        """Take in the next *entry*; return how many events before it are gone, and which of its own to hand out."""
        missed = self._skip(entry.first)
        new = range(max(entry.first, self.following, self._done_before + 1), entry.last + 1)
        offsets = [*self._due_again(entry.last), *new]
        self._unhandled.update(dict.fromkeys(offsets))
        if entry.last >= self.following:
            self._entries.append(Mark(entry.last, entry.fingerprint))
            self.following = entry.last + 1
        self._read = Mark(entry.last, entry.fingerprint)
        return missed, offsets

    def take_end(self, top: Position) -> int:
        """Take in that no event is kept up to *top*, the newest; return how many are gone."""
        missed = self._skip(top.offset + 1)
        self._read = Mark(top.offset, top.fingerprint)
        return missed

    def handled(self, offset: int) -> None:
        """Note that the event of that *offset*, which was taken, is handled or reported."""
        self._unhandled.pop(offset, None)
        if offset > self._mark.offset:
            while self._entries[0].offset < offset:
                self._entries.popleft()
            self._mark = Mark(offset, self._entries[0].fingerprint)

    def record(self, now: float) -> QueueRecord:
        """Return what is handled *now*, a time in seconds."""
        if now - self._noted_at >= ANCHOR_AGE:
            self._anchor, self._next_anchor, self._noted_at = self._next_anchor, self._mark, now
        last = max(self._mark.offset, self._told)
        unhandled = [*takewhile(lambda offset: offset <= last, self._unhandled), *self._again]
        return QueueRecord(self.epoch, self._mark, self._anchor, sorted(unhandled), self._told)

    def _skip(self, first: int) -> int:
        """Move on to the offset *first*; return how many events that were not handled are before it."""
        gone = len(list(self._due_again(first - 1)))
        if first > self.following:
            gone += max(0, first - max(self.following, self._done_before + 1))
            self.following = first
        if gone:
            self._told = max(self._told, first - 1)
        return gone

    def _due_again(self, last: int) -> Iterator[int]:
        """Remove and return the offsets up to *last* that are taken again."""
        count = bisect_left(self._again, last + 1)
        due, self._again = self._again[:count], self._again[count:]
        return iter(due)
