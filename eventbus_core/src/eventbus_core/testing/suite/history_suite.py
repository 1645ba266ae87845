"""The contract of :class:`History`, one clause for each test, for backends that declare ``history``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise

import anyio
import pytest
from hypothesis import strategies as st

from eventbus_core.backend import Entry, History, NewEntry, Page, Position, Retention
from eventbus_core.testing.simulation.bare_nodes import bare_nodes
from eventbus_core.testing.suite.fixtures import UnderTest
from eventbus_core.testing.suite.guarantees import capabilities_of, for_all, naming, scenario
from eventbus_core.testing.waiting import tasks, until

AMPLE = Retention(events=1000, seconds=60.0, bytes=1024 * 1024)
SECONDS = 0.3


@asynccontextmanager
async def history_at(uri: str) -> AsyncIterator[History]:
    """Yield the history of a transport that is open, in a namespace of its own."""
    async with bare_nodes(uri) as (one, _):
        history = one.transport.history
        assert history is not None, "the backend declares a history and has none"
        yield history


def entry(number: int, *, stream: str = "s", events: int = 1, size: int = 10, retention: Retention = AMPLE) -> NewEntry:
    """Return an entry whose fingerprint and body come from *number*."""
    return NewEntry(stream, 1000 + number, events, b"%d" % number * (size // len(str(number))), retention)


async def append(history: History, *entries: NewEntry) -> list[Position]:
    """Append one entry after the other, and return the positions."""
    return [(await history.append([each]))[0] for each in entries]


async def read(history: History, offset: int = 0, stream: str = "s") -> Page:
    """Return the page of a stream that exists."""
    (page,) = await history.read([(stream, offset)])
    assert page is not None, "a stream that was appended to is there"
    return page


def bodies(entries: Sequence[Entry]) -> list[bytes]:
    """Return the bodies of *entries*, whose offsets must have no hole."""
    for one, other in pairwise(entries):
        assert other.first == one.last + 1, f"after {one.last} comes {other.first}"
    return [each.body for each in entries]


class HistorySuite(UnderTest):
    """The contract that every history keeps."""

    @scenario(needs="history")
    async def test_g13_offsets_have_no_hole(self, uri: str) -> None:
        """Each append gets the offsets that come next in its stream, whatever its size; streams count apart."""
        async with history_at(uri) as history:
            entries = [entry(number, events=1 + number % 3) for number in range(20)]
            positions = await append(history, *entries)
            await history.append([entry(99, stream="other")])
            ends = [sum(each.events for each in entries[: index + 1]) for index in range(20)]
            assert [position.offset for position in positions] == ends
            assert len({position.epoch for position in positions}) == 1
            assert await history.positions(["s", "none", "other"]) == [
                positions[-1],
                None,
                Position((await read(history, stream="other")).top.epoch, 1, 1099),
            ]

    @scenario(needs="history")
    async def test_g13_what_was_appended_is_read_in_order(self, uri: str) -> None:
        """A read returns each entry as it was appended, from the one that holds the offset on; many streams a call."""
        async with history_at(uri) as history:
            await append(history, *(entry(number, events=2) for number in range(10)))
            await append(history, entry(5, stream="other"))
            page = await read(history)
            assert bodies(page.entries) == [entry(number).body for number in range(10)]
            assert [(each.events, each.fingerprint) for each in page.entries] == [(2, 1000 + n) for n in range(10)]
            for offset in range(1, 21):
                found = (await read(history, offset)).entries
                assert found[0].first <= offset <= found[0].last, f"offset {offset}: {found[0]}"
            assert (await read(history, 21)).entries == []
            one, none, two = await history.read([("other", 0), ("none", 0), ("s", 20)])
            assert one is not None
            assert two is not None
            assert bodies(one.entries) == [b"5" * 10]
            assert bodies(two.entries) == [b"9" * 10]
            assert none is None, "a stream that no event was appended to has a page"

    @scenario(needs="history")
    async def test_g13_a_reader_may_come_before_the_first_event(self, uri: str) -> None:
        """An entry of no events creates the stream, or does nothing; its position holds for what comes later."""
        async with history_at(uri) as history:
            (begun,) = await append(history, entry(1, events=0))
            assert (begun.offset, begun.fingerprint) == (0, 1001)
            assert await read(history) == Page(begun, [])
            assert await append(history, entry(9, events=0)) == [begun]
            first, again = await append(history, entry(2), entry(3, events=0))
            assert first == again == Position(begun.epoch, 1, 1002)
            assert bodies((await read(history)).entries) == [entry(2).body]

    @scenario(needs="history")
    async def test_g13_a_long_stream_comes_in_pages(self, uri: str) -> None:
        """A page ends once it is large; reading on from its end loses and doubles nothing."""
        async with history_at(uri) as history:
            ample = Retention(bytes=64 * 1024 * 1024)
            sent = [entry(number, size=300_000, events=3, retention=ample) for number in range(12)]
            await append(history, *sent)
            got: list[Entry] = []
            while page := (await read(history, got[-1].last + 1 if got else 0)).entries:
                assert len(page) < 12, "everything came in one page"
                got += page
            assert bodies(got) == [each.body for each in sent]

    @scenario(needs="history")
    async def test_g13_appends_at_once_share_no_offset(self, uri: str) -> None:
        """Many nodes may append to one stream at once: each event has an offset of its own, in one epoch."""
        async with bare_nodes(uri, "n0", "n1", "n2", "n3") as nodes, tasks() as group:
            positions: list[Position] = []

            async def work(history: History, number: int) -> None:
                positions.extend(await append(history, *(entry(100 * number + step) for step in range(20))))

            for number, node in enumerate(nodes):
                assert node.transport.history is not None
                group.start_soon(work, node.transport.history, number)
            await until(lambda: len(positions) == 80, "every append is answered")
            assert sorted(position.offset for position in positions) == list(range(1, 81))
            assert len({position.epoch for position in positions}) == 1
            assert nodes[0].transport.history is not None
            kept = (await read(nodes[0].transport.history)).entries
            assert {(each.last, each.fingerprint) for each in kept} == {(p.offset, p.fingerprint) for p in positions}

    @scenario(needs="history")
    async def test_g13_a_repeated_append_is_not_doubled(self, uri: str) -> None:
        """An append that is repeated with ``after`` finds the entry of the first one, and else appends."""
        async with history_at(uri) as history:
            first = entry(1, events=2)
            (position,) = await append(history, first)
            await append(history, entry(2), entry(3))
            (again,) = await history.append([first._replace(after=0)])
            assert again == position
            (again,) = await history.append([first._replace(after=99)])
            assert again == position, "an offset beyond the end hides the entry"
            (new,) = await history.append([entry(4)._replace(after=2)])
            assert new.offset == 5
            assert bodies((await read(history)).entries) == [entry(number).body for number in (1, 2, 3, 4)]

    def test_g13_trimmed_exactly(self, uri: str, anyio_backend_name: str) -> None:
        """Of any sequence of appends the newest entries within the bounds are kept, and no others; offsets go on."""

        def check(sizes: list[tuple[int, int]], events: int, size: int) -> None:
            anyio.run(partial(run, sizes, Retention(events, 60.0, 1024 * size)), backend=anyio_backend_name)

        async def run(sizes: list[tuple[int, int]], retention: Retention) -> None:
            async with history_at(uri) as history:
                made = [
                    entry(number, events=events, size=512 * size, retention=retention)
                    for number, (events, size) in enumerate(sizes)
                ]
                await append(history, *made)
                page = await read(history)
                assert page.top.offset == sum(each.events for each in made)
                kept: list[bytes] = []
                weight = behind = 0
                for each in reversed(made):
                    weight += len(each.body)
                    if weight > retention.bytes or behind >= retention.events:
                        break
                    behind += each.events
                    kept.insert(0, each.body)
                assert bodies(page.entries) == kept, f"{len(page.entries)} entries are kept, not {len(kept)}"

        if not capabilities_of(uri).history:
            pytest.skip("the backend does not declare 'history'")
        with naming(self.test_g13_trimmed_exactly):
            for_all(
                check,
                examples=self.examples,
                sizes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=12),
                events=st.integers(1, 12),
                size=st.integers(1, 12),
            )

    @scenario(needs="history")
    async def test_g13_events_end_by_time(self, uri: str) -> None:
        """After ``seconds`` an entry is not returned any more; its offsets are not used again in the epoch."""
        async with history_at(uri) as history:
            brief = Retention(seconds=SECONDS)
            (old,) = await append(history, entry(1, events=3, retention=brief))

            async def ended() -> bool:
                return not (await read(history)).entries

            await until(ended, "the entry has ended")
            assert await history.positions(["s"]) == [old], "the position is forgotten with the last event"
            (new,) = await append(history, entry(2, retention=brief))
            assert new == Position(old.epoch, 4, 1002)

    @scenario(needs="history")
    async def test_g12_streams_are_kept_apart(self, uri: str) -> None:
        """The last of 300 characters of a stream's name counts, and so does the namespace."""
        names = ["x" * 299 + end for end in "12"] + ["X" * 299 + "1", "s:m", "s"]
        async with history_at(uri) as history, history_at(uri) as stranger:
            for number, name in enumerate(names):
                await append(history, entry(number, stream=name))
            for number, name in enumerate(names):
                assert bodies((await read(history, stream=name)).entries) == [entry(number).body]
            assert await stranger.positions(names) == [None] * len(names), "a stream crossed a namespace"

    @scenario(needs="history")
    async def test_g13_no_offset_comes_again_after_a_restart(
        self, uri: str, restart: Callable[[], object] | None
    ) -> None:
        """After a restart of the broker a stream goes on where it was, or has another epoch."""
        if restart is None:
            pytest.skip("the suite has no fixture 'restart'")
        async with history_at(uri) as history:
            await append(history, *(entry(number) for number in range(5)))
            before = await read(history)
            await anyio.to_thread.run_sync(restart)
            after: list[Page | None] = []

            async def answered() -> bool:
                try:
                    await history.append([entry(7)])
                    after[:] = await history.read([("s", 0)])
                except ConnectionError:
                    return False
                return True

            await until(answered, "the history answers after a restart")
            (page,) = after
            assert page is not None
            if page.top.epoch == before.top.epoch:
                assert page.entries[:5] == before.entries, "offsets of one epoch were used again"
