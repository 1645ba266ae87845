"""The history of an in-memory namespace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic

from anyio.lowlevel import checkpoint

from eventbus_core.backend import History, NewEntry, Page, Position
from eventbus_memory.hub import Hub
from eventbus_memory.stream import Stream


class MemoryHistory(History):
    """Keeps streams in the hub; every call gives way to other tasks once."""

    def __init__(self, hub: Callable[[], Hub]) -> None:
        self._hub = hub

    async def append(self, entries: Sequence[NewEntry]) -> Sequence[Position]:
        await checkpoint()
        streams = self._streams()
        positions = []
        for entry in entries:
            stream = streams.pop(entry.stream) if entry.stream in streams else Stream()
            streams[entry.stream] = stream  # now the last
            positions.append(stream.append(entry))
        return positions

    async def read(self, starts: Sequence[tuple[str, int]]) -> Sequence[Page | None]:
        await checkpoint()
        streams = self._streams()
        return [streams[name].read(offset) if name in streams else None for name, offset in starts]

    async def positions(self, streams: Sequence[str]) -> Sequence[Position | None]:
        await checkpoint()
        known = self._streams()
        return [known[name].top if name in known else None for name in streams]

    def _streams(self) -> dict[str, Stream]:
        """Return the streams of the hub, without those that have ended."""
        streams, now = self._hub().streams, monotonic()
        while streams and next(iter(streams.values())).ends < now:
            del streams[next(iter(streams))]
        return streams
