"""Reads retained streams: what follows a token, and the latest events."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, NamedTuple, TypeVar

from eventbus_core.backend import History, NewEntry, Page, Position
from eventbus_core.backend.history import FINGERPRINTS
from eventbus_core.concurrency.batcher import Batcher
from eventbus_core.concurrency.service_group import ServiceGroup
from eventbus_core.errors import TransportUnavailable
from eventbus_core.history.resumption import NO_FINGERPRINT, Verdict, judge
from eventbus_core.history.shares import Share, share_of
from eventbus_core.model.reports import GapReason
from eventbus_core.model.retention import Retention
from eventbus_core.model.tokens import Mark, Token

T = TypeVar("T")

READ_TRIES: Final = 5
"""How often a read is begun again because the stream was trimmed, or lost, while it ran."""


class Reading(NamedTuple):
    """
    What was read of a stream.

    Attributes:
        verdict: whether the reader missed something.
        shares: in order; only events above ``verdict.after`` count.
        end: the position behind the last of them.
    """

    verdict: Verdict
    shares: Sequence[Share]
    end: Position

    @property
    def events(self) -> int:
        """How many events were read."""
        return self.end.offset - self.verdict.after if self.shares else 0


class _Changed(Exception):
    """Raised when the stream was begun, trimmed or lost while it was read."""


class HistoryReader:
    """
    Reads streams; the reads of many callers go together to the broker.

    Every method raises what :class:`History` does, and :class:`TransportUnavailable` if a stream is trimmed faster
    than it can be read.

    Attributes:
        reads: pages read so far.
    """

    def __init__(self, history: History, services: ServiceGroup) -> None:
        self.reads = 0
        self._history = history
        self._pages: Batcher[tuple[str, int], Page | None] = Batcher(services, self._read)
        self._beginnings: Batcher[NewEntry, Position] = Batcher(services, history.append)

    async def position(self, stream: str, retention: Retention) -> Position:
        """Return the position of the newest event of *stream*, which is created if there is none."""
        return await self._beginnings.ask(NewEntry(stream, fingerprint(), 0, b"", retention))

    async def since(self, stream: str, retention: Retention, token: Token | None) -> Reading:
        """Return what a reader with *token* gets; without one, all that is kept, behind a gap."""
        return await self._persist(stream, retention, partial(self._since, stream, retention, token))

    async def latest(self, stream: str, retention: Retention, limit: int) -> Reading | None:
        """Return the newest *limit* events of *stream*, if there is one."""
        return await self._persist(stream, retention, partial(self._latest, stream, min(limit, retention.events)))

    async def page(self, stream: str, offset: int) -> Page | None:
        """Return a page of *stream* from *offset* on; ``None`` if there is no such stream."""
        return await self._pages.ask((stream, offset))

    async def tops(self, streams: Sequence[str]) -> Sequence[Position | None]:
        """Return the position of each of *streams*."""
        return await self._history.positions(streams)

    async def _persist(self, stream: str, retention: Retention, read: Callable[[], Awaitable[T]]) -> T:
        for _ in range(READ_TRIES):
            try:
                return await read()
            except _Changed:
                continue
        raise TransportUnavailable(
            f"stream {stream!r} is trimmed faster than it can be read; its retention (events/seconds/bytes) is "
            f"{retention}: keep more"
        )

    async def _since(self, stream: str, retention: Retention, token: Token | None) -> Reading:
        if token is None:
            return await self._all(stream, retention, GapReason.UNKNOWN_POSITION)
        reading = await self._from(stream, retention, token.epoch, token.mark)
        reason = GapReason.NEW_STREAM if reading is None else reading.verdict.reason
        if reason is GapReason.ROLLED_BACK and token.anchor is not None:
            anchored = await self._from(stream, retention, token.epoch, token.anchor)
            if anchored is not None and anchored.verdict.reason is None:
                return anchored._replace(verdict=anchored.verdict._replace(reason=reason))
        if reading is None or reason in (GapReason.ROLLED_BACK, GapReason.NEW_STREAM):
            return await self._all(stream, retention, reason or GapReason.NEW_STREAM)
        return reading

    async def _latest(self, stream: str, limit: int) -> Reading | None:
        (top,) = await self._history.positions([stream])
        if top is None:
            return None
        page = await self._pages.ask((stream, max(0, top.offset - limit) + 1))
        if page is None:
            raise _Changed
        reading = await self._rest(stream, page, Verdict(None, 0, 0))
        after = max(reading.shares[0].first - 1, reading.end.offset - limit) if reading.shares else reading.end.offset
        return reading._replace(verdict=Verdict(None, 0, after))

    async def _from(self, stream: str, retention: Retention, epoch: str, mark: Mark) -> Reading | None:
        page = await self._pages.ask((stream, mark.offset))
        if page is None:
            return None
        return await self._rest(stream, page, judge(Position(epoch, *mark), page, retention.events))

    async def _all(self, stream: str, retention: Retention, reason: GapReason) -> Reading:
        page = await self._pages.ask((stream, 1))
        if page is None:
            end = await self.position(stream, retention)
            if end.offset:
                raise _Changed  # another node has begun the stream since
            return Reading(Verdict(reason, 0, 0), (), end)
        first = page.entries[0].first if page.entries else page.top.offset + 1
        return await self._rest(stream, page, Verdict(reason, 0, max(first - 1, page.top.offset - retention.events)))

    async def _rest(self, stream: str, page: Page, verdict: Verdict) -> Reading:
        """Return *page* and the pages that follow, up to the newest event."""
        top, entries = page.top, list(page.entries)
        while entries and entries[-1].last < top.offset:
            following = entries[-1].last + 1
            more = await self._pages.ask((stream, following))
            if more is None or more.top.epoch != top.epoch or not more.entries or more.entries[0].first != following:
                raise _Changed
            entries += more.entries
        shares = [share_of(top.epoch, entry) for entry in entries if entry.last > verdict.after]
        return Reading(verdict, shares, shares[-1].end if shares else top)

    async def _read(self, starts: Sequence[tuple[str, int]]) -> Sequence[Page | None]:
        different = list(dict.fromkeys(starts))  # readers that come back together often have the same position
        self.reads += len(different)
        pages = dict(zip(different, await self._history.read(different), strict=True))
        return [pages[start] for start in starts]


def fingerprint() -> int:
    """Return a new fingerprint."""
    return random.randrange(NO_FINGERPRINT + 1, FINGERPRINTS)
