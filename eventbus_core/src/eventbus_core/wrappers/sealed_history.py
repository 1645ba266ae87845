"""A history whose entries are sealed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from eventbus_core.backend import Entry, History, NewEntry, Page, Position
from eventbus_core.errors import FrameError
from eventbus_core.observability.rejections import Rejections
from eventbus_core.wrappers.seal import Seals, context_of

REJECTED_BODY: Final = b"\xc0"
"""The body of an entry that was not sealed by a node: its events are not handed out."""


class SealedHistory(History):
    """
    Seals the bodies of entries, for their stream; with encryption, names of streams are digests.

    An entry that was forged, altered or taken from another stream keeps its place, with ``REJECTED_BODY``.
    """

    def __init__(self, inner: History, seals: Seals, rejections: Rejections) -> None:
        self._inner = inner
        self._seals = seals
        self._rejections = rejections

    async def append(self, entries: Sequence[NewEntry]) -> Sequence[Position]:
        """See :class:`History`."""
        return await self._inner.append(
            [
                entry._replace(
                    stream=self._hidden(entry.stream),
                    body=self._seals.seal(_context(entry.stream, entry), entry.body) if entry.events else entry.body,
                )
                for entry in entries
            ]
        )

    async def read(self, starts: Sequence[tuple[str, int]]) -> Sequence[Page | None]:
        """See :class:`History`."""
        pages = await self._inner.read([(self._hidden(stream), offset) for stream, offset in starts])
        return [
            page and page._replace(entries=[self._opened(stream, entry) for entry in page.entries])
            for (stream, _), page in zip(starts, pages, strict=True)
        ]

    async def positions(self, streams: Sequence[str]) -> Sequence[Position | None]:
        """See :class:`History`."""
        return await self._inner.positions(list(map(self._hidden, streams)))

    def _opened(self, stream: str, entry: Entry) -> Entry:
        try:
            return entry._replace(body=self._seals.open(_context(stream, entry), entry.body).content)
        except FrameError as error:
            self._rejections.add(error.kind, f"an entry of stream {stream!r}: {error}")
            return entry._replace(body=REJECTED_BODY)

    def _hidden(self, stream: str) -> str:
        return self._seals.hide(stream)[0]


def _context(stream: str, entry: NewEntry | Entry) -> bytes:
    return context_of("entry", stream, str(entry.fingerprint), str(entry.events))
