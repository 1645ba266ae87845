"""What a reader is told, held against a model that remembers every life of the stream."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from eventbus_core.backend import Entry, Page, Position
from eventbus_core.history.resumption import Verdict, judge
from eventbus_core.model.reports import GapReason

KEPT = 6


class Model(RuleBasedStateMachine):
    """
    One stream: it is appended to, trimmed, rolled back and lost; readers hold the position behind some event.

    Each event has an identity of its own; each reader has those that the stream held when it read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.epoch = 0
        self.made = 0
        self.entries: list[tuple[Entry, list[int]]] = []
        self.first = 0  # entries before are trimmed
        self.born = Position("e0", 0, 10_000)
        self.readers: list[tuple[Position, list[int]]] = [(self.born, [])]

    @property
    def top(self) -> Position:
        if not self.entries:
            return self.born
        last = self.entries[-1][0]
        return Position(f"e{self.epoch}", last.last, last.fingerprint)

    @property
    def stream(self) -> list[int]:
        return [event for _, events in self.entries for event in events]

    def page(self, offset: int) -> Page:
        kept = [entry for entry, _ in self.entries[self.first :] if entry.last >= offset]
        return Page(self.top, kept)

    @rule(events=st.integers(1, 3))
    def append(self, events: int) -> None:
        names = list(range(self.made, self.made + events))
        self.made += events
        self.entries.append((Entry(self.top.offset + events, self.made, events, b""), names))

    @rule(back=st.integers(0, 6))
    def read(self, back: int) -> None:
        stream = self.stream
        offset = max(0, len(stream) - back)
        holding = [entry for entry, _ in self.entries if entry.first <= offset <= entry.last]
        mark = holding[0].fingerprint if holding else self.born.fingerprint
        self.readers.append((Position(self.top.epoch, offset, mark), stream[:offset]))

    @rule(entries=st.integers(1, 3))
    def trim(self, entries: int) -> None:
        self.first = min(len(self.entries), self.first + entries)

    @precondition(lambda self: len(self.entries) > self.first)
    @rule(entries=st.integers(1, 2))
    def lose_the_latest(self, entries: int) -> None:
        del self.entries[max(self.first, len(self.entries) - entries) :]

    @rule()
    def lose_everything(self) -> None:
        self.epoch += 1
        self.made += 1
        self.entries, self.first = [], 0
        self.born = Position(f"e{self.epoch}", 0, 10_000 + self.made)

    @invariant()
    def readers_are_told_the_truth(self) -> None:
        stream = self.stream
        floor = max(0, len(stream) - KEPT)
        for known, has in self.readers:
            verdict = judge(known, self.page(known.offset), KEPT)
            if known.epoch != self.top.epoch:
                assert verdict.reason is GapReason.NEW_STREAM
                continue
            same = has == stream[: known.offset] and known.offset <= len(stream)
            if verdict.reason is None:
                assert same, "a reader resumed over events that were lost"
                assert verdict.after == known.offset >= floor
            elif verdict.reason is GapReason.TRIMMED:
                assert verdict.missed == verdict.after - known.offset >= 0
                kept = [entry for entry, _ in self.entries[self.first :]]
                earliest = max(floor, kept[0].first - 1 if kept else len(stream))
                assert verdict.after == earliest
            else:
                assert verdict.reason is GapReason.ROLLED_BACK
                assert not same, "a reader that missed nothing was told of a loss"


TestModel = Model.TestCase


def page(*entries: Entry, top: Position) -> Page:
    return Page(top, list(entries))


@pytest.mark.parametrize(
    ("known", "verdict"),
    [
        (Position("e", 10, 5), Verdict(None, 0, 10)),
        (Position("e", 10, 6), Verdict(GapReason.ROLLED_BACK, 0, 0)),
        (Position("e", 11, 5), Verdict(GapReason.ROLLED_BACK, 0, 0)),
        (Position("f", 10, 5), Verdict(GapReason.NEW_STREAM, 0, 0)),
        (Position("e", 3, 1), Verdict(GapReason.TRIMMED, 5, 8)),
    ],
)
def test_named_cases(known: Position, verdict: Verdict) -> None:
    """A stream of ten events, of which the entry of the last two is kept."""
    entry = Entry(10, 5, 2, b"")
    assert judge(known, page(entry, top=Position("e", 10, 5)), 100) == verdict


@given(st.integers(0, 20), st.integers(1, 20))
def test_all_that_ended_counts_as_trimmed(behind: int, kept: int) -> None:
    top = Position("e", 100, 7)
    known = Position("e", 100 - behind, 7)
    verdict = judge(known, Page(top, []), kept)
    assert verdict == (Verdict(None, 0, 100) if behind == 0 else Verdict(GapReason.TRIMMED, behind, 100))
