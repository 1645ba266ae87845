"""The suite bites: each of these histories is broken in one way, and fails the test of the clause that it breaks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from math import inf

import anyio
import pytest
from anyio.lowlevel import checkpoint

from eventbus import register
from eventbus_core.backend import NewEntry, Page, Position, TransportURI
from eventbus_core.testing import BackendSuite, waiting
from eventbus_memory import MemoryTransport
from eventbus_memory.history import MemoryHistory
from eventbus_memory.stream import Stream
from tests.conformance.test_mutants import SHORT_DEADLINE


class LosesAnAppendAndUsesItsNumber(MemoryHistory):
    async def append(self, entries: Sequence[NewEntry]) -> Sequence[Position]:
        positions = await super().append(entries)
        for entry, position in zip(entries, positions, strict=True):
            if position.offset % 7 == 0:
                self._streams()[entry.stream]._entries.pop()
        return positions


class SwapsEntries(MemoryHistory):
    async def read(self, starts: Sequence[tuple[str, int]]) -> Sequence[Page | None]:
        pages = await super().read(starts)
        return [page and page._replace(entries=[*page.entries[1::-1], *page.entries[2:]]) for page in pages]


class StartsBehindTheOffset(MemoryHistory):
    async def read(self, starts: Sequence[tuple[str, int]]) -> Sequence[Page | None]:
        return await super().read([(stream, offset + 1) for stream, offset in starts])


class KeepsOneTooMany(MemoryHistory):
    async def append(self, entries: Sequence[NewEntry]) -> Sequence[Position]:
        return await super().append(
            [
                entry._replace(
                    retention=type(entry.retention)(entry.retention.events + 1, entry.retention.seconds, 1 << 30)
                )
                for entry in entries
            ]
        )


class ForgetsItsPositionWithTheLastEvent(MemoryHistory):
    async def positions(self, streams: Sequence[str]) -> Sequence[Position | None]:
        pages = await self.read([(stream, 0) for stream in streams])
        return [page.top if page is not None and page.entries else None for page in pages]


class CountsWhatIsKept(MemoryHistory):
    async def append(self, entries: Sequence[NewEntry]) -> Sequence[Position]:
        pages = await self.read([(entry.stream, 0) for entry in entries])
        for entry, page in zip(entries, pages, strict=True):
            if page is not None:
                kept = sum(each.events for each in page.entries)
                self._streams()[entry.stream].top = page.top._replace(offset=kept)
        return await super().append(entries)


class AppendsARepetition(MemoryHistory):
    async def append(self, entries: Sequence[NewEntry]) -> Sequence[Position]:
        return await super().append([entry._replace(after=None) for entry in entries])


class LooksBeforeItAppends(MemoryHistory):
    """No atomic step: others may append between its look and its leap."""

    async def append(self, entries: Sequence[NewEntry]) -> Sequence[Position]:
        before = await self.positions([entry.stream for entry in entries])
        await checkpoint()
        positions = await super().append(entries)
        return [
            position if top is None else position._replace(offset=top.offset + entry.events)
            for entry, position, top in zip(entries, positions, before, strict=True)
        ]


class NeverEndsAPage(MemoryHistory):
    async def read(self, starts: Sequence[tuple[str, int]]) -> Sequence[Page | None]:
        return [self._whole(stream, offset) for stream, offset in starts]

    def _whole(self, name: str, offset: int) -> Page | None:
        stream = self._streams()[name]
        return Page(stream.top, [entry for _, entry in stream._entries if entry.last >= offset])


class CutsLongNames(MemoryHistory):
    async def append(self, entries: Sequence[NewEntry]) -> Sequence[Position]:
        return await super().append([entry._replace(stream=entry.stream[:250]) for entry in entries])

    async def read(self, starts: Sequence[tuple[str, int]]) -> Sequence[Page | None]:
        return await super().read([(stream[:250], offset) for stream, offset in starts])


class ForgetsEveryFifthRead(MemoryHistory):
    """Says of some reads that there is no such stream."""

    _calls = 0

    async def read(self, starts: Sequence[tuple[str, int]]) -> Sequence[Page | None]:
        self._calls += 1
        pages = await super().read(starts)
        return pages if self._calls % 5 else [None] * len(pages)


def with_history(history: type[MemoryHistory], opened: list[MemoryTransport] | None = None) -> type[MemoryTransport]:
    class Mutant(MemoryTransport):
        def __init__(self, uri: TransportURI, node: str) -> None:
            super().__init__(uri, node)
            self.history = history(self._open_hub)
            if opened is not None:
                opened.append(self)

    return Mutant


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        pytest.param(broken, test, id=broken.__name__)
        for broken, test in [
            (LosesAnAppendAndUsesItsNumber, "test_g13_what_was_appended_is_read_in_order"),
            (SwapsEntries, "test_g13_what_was_appended_is_read_in_order"),
            (StartsBehindTheOffset, "test_g13_what_was_appended_is_read_in_order"),
            (KeepsOneTooMany, "test_g13_trimmed_exactly"),
            (ForgetsItsPositionWithTheLastEvent, "test_g13_events_end_by_time"),
            (CountsWhatIsKept, "test_g13_events_end_by_time"),
            (AppendsARepetition, "test_g13_a_repeated_append_is_not_doubled"),
            (LooksBeforeItAppends, "test_g13_appends_at_once_share_no_offset"),
            (NeverEndsAPage, "test_g13_a_long_stream_comes_in_pages"),
            (CutsLongNames, "test_g12_streams_are_kept_apart"),
            (ForgetsEveryFifthRead, "test_g13_readers_resume_at_any_node"),
        ]
    ],
)
def test_a_broken_history_fails_by_the_name_of_the_guarantee(
    broken: type[MemoryHistory], test: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "DEADLINE", SHORT_DEADLINE)
    register("mutant", with_history(broken))
    guarantee = test.split("_")[1].upper()
    with pytest.raises(AssertionError, match=rf"(?s)^.*broken: {guarantee} \("):
        run(test, "mutant://conformance")


@pytest.mark.parametrize("epoch", ["kept", "another"])
def test_a_history_whose_offsets_come_again_is_caught(epoch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[MemoryTransport] = []

    def restart() -> None:
        streams = opened[0]._open_hub().streams
        top = streams["s"].top
        streams.clear()
        if epoch == "kept":
            streams["s"] = Stream(top._replace(offset=0), ends=inf)

    register("mutant", with_history(MemoryHistory, opened))
    check = partial(
        BackendSuite().test_g13_no_offset_comes_again_after_a_restart, uri="mutant://conformance", restart=restart
    )
    if epoch == "another":
        anyio.run(check)
    else:
        monkeypatch.setattr(waiting, "DEADLINE", SHORT_DEADLINE)
        with pytest.raises(AssertionError, match=r"(?s)^.*broken: G13 \("):
            anyio.run(check)


def run(test: str, uri: str) -> None:
    method: Callable[..., object] = getattr(BackendSuite(), test)
    if inspect.iscoroutinefunction(method):
        anyio.run(partial(method, uri=uri))
    else:
        method(uri=uri, anyio_backend_name="asyncio")
