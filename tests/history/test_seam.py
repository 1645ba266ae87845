"""
The seam between the history and what comes live: no event twice, none missing, under any interleaving.

A simulation without a bus: nodes append to one stream, their shares arrive in any order of the nodes, readers come
with any position, and each step of each of them may happen at any time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventbus_core.backend import Position
from eventbus_core.history.feed import MAX_EARLY, MAX_RECENT, Feed, Seam
from eventbus_core.history.shares import Share

EPOCH = "e"
BORN = Position(EPOCH, 0, 0)


class Reader:
    """A reader that resumes: what it got, and where it is in that."""

    def __init__(self, since: int) -> None:
        self.since = since
        self.seam = Seam()
        self.read: tuple[Position, list[Share]] | None = None
        self.joined = False
        self.got: list[int] = []

    def take(self, shares: Iterable[Share]) -> None:
        for share in shares:
            self.got += [offset for offset in range(share.first, share.last + 1) if offset > self.since]


class World:
    """One stream, the feed of one node, and its readers; ``plain`` subscribed before the first event."""

    def __init__(self, feed: type[Feed] = Feed, seam: type[Seam] = Seam) -> None:
        self.feed = feed()
        self._seam = seam
        self.stream: list[Share] = []
        self.flying: dict[int, deque[Share]] = {}
        self.readers: list[Reader] = []
        self.plain: list[int] = []
        self.arrived: set[int] = set()
        self.repair: tuple[Position, list[Share]] | None = None

    @property
    def top(self) -> Position:
        return self.stream[-1].end if self.stream else BORN

    def step(self, kind: str, node: int, number: int) -> None:
        getattr(self, kind)(node, number)

    def append(self, node: int, number: int) -> None:
        events = 1 + number % 3
        share = Share(EPOCH, self.top.offset + events, len(self.stream) + 1, events, b"body")
        self.stream.append(share)
        self.flying.setdefault(node, deque()).append(share)

    def arrive(self, node: int, _number: int) -> None:
        if self.flying.get(node):
            share = self.flying[node].popleft()
            self.arrived.update(range(share.first, share.last + 1))
            self.hand_on(self.feed.live(share))

    def lose(self, node: int, _number: int) -> None:
        if self.flying.get(node):
            self.flying[node].popleft()

    def double(self, node: int, _number: int) -> None:
        if self.flying.get(node):
            share = self.flying[node][0]
            self.arrived.update(range(share.first, share.last + 1))
            self.hand_on(self.feed.live(share))

    def open(self, _node: int, number: int) -> None:
        if len(self.readers) < 4:
            reader = Reader(number % (self.top.offset + 1))
            reader.seam = self._seam()
            self.feed.open()
            self.readers.append(reader)

    def read(self, _node: int, number: int) -> None:
        for reader in self.readers[number % 4 :]:
            if reader.read is None:
                reader.read = self.top, [share for share in self.stream if share.last > reader.since]
                return

    def join(self, _node: int, number: int) -> None:
        for reader in self.readers[number % 4 :]:
            if reader.read is not None and not reader.joined:
                end, shares = reader.read
                if self.feed.began_behind(end):
                    reader.read = None
                    return
                reader.joined = True
                reader.take(shares)
                reader.take(reader.seam.joined(end))
                self.hand_on(self.feed.opened(end))
                return

    def begin_repair(self, _node: int, _number: int) -> None:
        if self.feed.behind and self.repair is None:
            cursor = self.feed.begin_read()
            if cursor is not None:
                self.repair = self.top, [share for share in self.stream if share.last > cursor.offset]

    def end_repair(self, _node: int, _number: int) -> None:
        if self.repair is not None:
            (end, shares), self.repair = self.repair, None
            self.hand_on(self.feed.caught_up(end, shares))

    def check(self, _node: int, _number: int) -> None:
        if not self.feed.at(self.top):
            self.feed.fall_behind()

    def hand_on(self, shares: list[Share]) -> None:
        for share in shares:
            self.plain += range(share.first, share.last + 1)
            for reader in self.readers:
                if reader.seam.live(share):
                    reader.take([share])

    def settle(self) -> None:
        """Finish everything that has begun."""
        for node in list(self.flying):
            while self.flying[node]:
                self.arrive(node, 0)
        for _ in [*self.readers, *self.readers]:
            self.read(0, 0)
            self.join(0, 0)
        for _ in range(3):
            self.end_repair(0, 0)
            self.check(0, 0)
            self.begin_repair(0, 0)
            self.end_repair(0, 0)


KINDS = ("append", "arrive", "lose", "double", "open", "read", "join", "begin_repair", "end_repair", "check")
OFTEN = (*KINDS, "append", "append", "arrive", "arrive", "open", "read", "join")
steps = st.lists(st.tuples(st.sampled_from(OFTEN), st.integers(0, 1), st.integers(0, 30)), max_size=60)


def run(script: Iterable[tuple[str, int, int]], world: World) -> None:
    for kind, node, number in script:
        world.step(kind, node, number)
    world.settle()
    for reader in world.readers:
        wanted = list(range(reader.since + 1, world.top.offset + 1))
        assert reader.got == wanted, f"since {reader.since}: {reader.got}"


@settings(max_examples=300)
@given(steps)
def test_g13_each_reader_gets_each_event_once_in_order(script: list[tuple[str, int, int]]) -> None:
    run(script, World())


def run_plain(script: Iterable[tuple[str, int, int]]) -> World:
    world = World()
    run(script, world)
    assert len(set(world.plain)) == len(world.plain), "an event came twice"
    assert world.arrived <= set(world.plain), "an event arrived and was not handed on"
    return world


@settings(max_examples=300)
@given(steps)
def test_g13_a_plain_subscriber_gets_each_event_once(script: list[tuple[str, int, int]]) -> None:
    """It gets all that arrives, whoever resumes beside it, and what was lost on the way once the feed has begun."""
    world = run_plain(script)
    if world.plain and not world.readers:
        assert set(range(world.plain[0], world.top.offset + 1)) <= set(world.plain), "an event is missing"


ONE_ARRIVES = (("append", 0, 0), ("arrive", 0, 0))


def test_g10_a_plain_subscriber_gets_an_event_that_many_of_another_node_overtook() -> None:
    """One node hung between its append and the first message about it."""
    run_plain([("append", 1, 0), *ONE_ARRIVES * (MAX_RECENT + 1), ("double", 1, 0), ("arrive", 1, 0)])


def test_g10_a_plain_subscriber_gets_all_that_arrives_while_a_reader_reads_for_long() -> None:
    run_plain([("open", 0, 0), *ONE_ARRIVES * (MAX_EARLY + 2), *READS[1:]])


def test_g13_a_reader_that_is_overtaken_by_another_lacks_nothing() -> None:
    """The other read further, the feed began there, and the share between the two was lost."""
    reads = (("open", 0, 0), ("open", 0, 0), ("read", 0, 1))
    run([*reads, ("append", 0, 0), ("lose", 0, 0)], World())


class DropsOneAtTheSeam(Seam):
    def joined(self, end: Position) -> list[Share]:
        return super().joined(end)[1:]


class DoublesOneAtTheSeam(Seam):
    def _new(self, share: Share) -> bool:
        return share.epoch != self._end.epoch or share.last >= self._end.offset


class ForgetsWhatCameWhileItRead(Seam):
    def live(self, share: Share) -> bool:
        return self._buffered is None and super().live(share)


class TrustsTheOrderOfArrival(Feed):
    def live(self, share: Share) -> list[Share]:
        self.cursor = share.end
        return [share]


class HandsOnTwiceAfterARepair(Feed):
    def caught_up(self, end: Position, shares: Iterable[Share]) -> list[Share]:
        before = list(shares)
        super().caught_up(end, before)
        return before


class LeavesAHole(Feed):
    def live(self, share: Share) -> list[Share]:
        if self.cursor is not None and share.first > self.cursor.offset + 1:
            self._pass(share)
            return [share]
        return super().live(share)


READS = (("open", 0, 0), ("read", 0, 0), ("join", 0, 0))
"""A reader comes, and has joined."""
WHILE_IT_READS = (
    *(("append", 0, 0), ("arrive", 0, 0), ("open", 0, 1), ("read", 0, 0)),
    *(("append", 0, 0), ("arrive", 0, 0), ("join", 0, 0)),
)
BEFORE_IT_READS = (
    *(("append", 0, 0), ("arrive", 0, 0), ("open", 0, 0)),
    *(("append", 0, 0), ("arrive", 0, 0), ("read", 0, 0), ("join", 0, 0)),
)
OVERTAKEN = (*READS, ("append", 0, 0), ("append", 1, 0), ("arrive", 1, 0), ("arrive", 0, 0))
REPAIRED = (*OVERTAKEN[:-1], ("begin_repair", 0, 0), ("arrive", 0, 0), ("end_repair", 0, 0))


@pytest.mark.parametrize(
    ("feed", "seam", "script"),
    [
        (Feed, DropsOneAtTheSeam, WHILE_IT_READS),
        (Feed, DoublesOneAtTheSeam, BEFORE_IT_READS),
        (Feed, ForgetsWhatCameWhileItRead, WHILE_IT_READS),
        (TrustsTheOrderOfArrival, Seam, OVERTAKEN),
        (HandsOnTwiceAfterARepair, Seam, REPAIRED),
        (LeavesAHole, Seam, OVERTAKEN),
    ],
)
def test_a_broken_seam_is_caught(feed: type[Feed], seam: type[Seam], script: tuple[tuple[str, int, int], ...]) -> None:
    run(script, World())
    with pytest.raises(AssertionError, match="since"):
        run(script, World(feed, seam))
