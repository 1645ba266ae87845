"""The optional third part of a backend: the latest events of each retained stream."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final, NamedTuple

from eventbus_core.model.retention import Retention

PAGE_SIZE: Final = 1024 * 1024
"""Bytes of entries after which :meth:`History.read` ends a page."""
FINGERPRINTS: Final = 2**48
"""Fingerprints are below this number."""
POSITION_LIFE: Final = 86_400
"""Seconds for which the position of a stream must outlive its last event: a reader that missed nothing learns that."""


def new_epoch() -> str:
    """Return a random epoch."""
    return secrets.token_hex(5)


class Position(NamedTuple):
    """
    A place in a stream: behind the event with number *offset*.

    Attributes:
        epoch: text that names the life of the stream, 1 to 12 of ``0-9 a-z``; made by the history with the first
            append, and never used again once the stream was lost.
        offset: the number of the event, counted from 1 within the epoch.
        fingerprint: of the entry that holds the event. If the history lost its latest entries, offsets come again;
            the fingerprints tell the new ones from those that were lost.
    """

    epoch: str
    offset: int
    fingerprint: int


class NewEntry(NamedTuple):
    """
    Events that are appended together.

    Attributes:
        stream: the name of the stream, text of at most 300 characters.
        fingerprint: a random number above 0 and below ``FINGERPRINTS``.
        events: how many they are; with 0, nothing is appended, but the stream is created if there is none.
        body: opaque bytes.
        retention: how much of the stream is kept.
        after: ``None``, or an offset: this append is repeated, as no answer came, and entries that it may have
            appended before are behind that offset.
    """

    stream: str
    fingerprint: int
    events: int
    body: bytes
    retention: Retention
    after: int | None = None


class Entry(NamedTuple):
    """Events that were appended together: their *body*, and the offset of the *last* of them."""

    last: int
    fingerprint: int
    events: int
    body: bytes

    @property
    def first(self) -> int:
        """The offset of its first event."""
        return self.last - self.events + 1


class Page(NamedTuple):
    """
    A part of a stream.

    Attributes:
        top: the position of the newest event that was ever appended, kept or not.
        entries: in order without a hole; if any, from the entry that holds the event asked for, or from the earliest
            that is kept if that is later.
    """

    top: Position
    entries: Sequence[Entry]


class History(ABC):
    """
    Keeps the latest events of streams: entries, each with one event or more, under offsets without holes.

    Each append and each read is atomic for its stream; a call works on different streams in any order. An event that
    was appended is returned by every later read until it is beyond its retention: then no read returns it, and no
    offset is used again in the same epoch, unless the broker lost it. Every method may be cancelled at every await, and
    may raise :class:`TransportUnavailable`, and :class:`ConfigurationError` while the broker refuses until its
    configuration changes.
    """

    @abstractmethod
    async def append(self, entries: Sequence[NewEntry]) -> Sequence[Position]:
        """
        Append each entry to its stream, remove what is beyond the retention, and return the new positions.

        An entry with ``after`` that is in the stream already is not appended again: its position is returned. An
        ``after`` beyond the end of the stream counts as 0. An entry of no events gets the position of the newest event;
        in a new stream that is offset 0, with the fingerprint of the entry.

        Raises:
            TransportUnavailable: the history may have appended any of the entries, none included.
        """

    @abstractmethod
    async def read(self, starts: Sequence[tuple[str, int]]) -> Sequence[Page | None]:
        """
        Return a page for each stream and offset; ``None`` if there is no such stream.

        A page holds ``PAGE_SIZE`` bytes, and at most one entry more; it is shorter only at the end of the stream.
        """

    @abstractmethod
    async def positions(self, streams: Sequence[str]) -> Sequence[Position | None]:
        """Return the position of the newest event of each stream; ``None`` if there is no such stream."""
