"""Checks that each delivery is the next event of its stream, and counts what is wrong; independent of the bus."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import Final

BODIES: Final = tuple(f"{number:02d}" * 42 for number in range(64))
"""The bodies of events; stream and number of an event determine its body."""


def body_of(stream: int, number: int) -> str:
    """Return the body that event *number* of *stream* must have."""
    return BODIES[(stream + number) & 63]


class Holes:
    """The numbers of a stream that were skipped and have not arrived since, as ordered ranges."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._ends: list[int] = []

    def __len__(self) -> int:
        return sum(self._ends) - sum(self._firsts)

    def add(self, first: int, end: int) -> None:
        """Add the numbers from *first* up to but not including *end*; all must exceed the numbers already added."""
        self._firsts.append(first)
        self._ends.append(end)

    def discard(self, number: int) -> bool:
        """Remove *number*; return whether it was missing until now."""
        index = bisect_right(self._firsts, number) - 1
        if index < 0 or number >= self._ends[index]:
            return False
        first, end = self._firsts[index], self._ends[index]
        parts = [(low, high) for low, high in ((first, number), (number + 1, end)) if low < high]
        self._firsts[index : index + 1] = [low for low, _ in parts]
        self._ends[index : index + 1] = [high for _, high in parts]
        return True

    def below(self, limit: int) -> int:
        """Return how many numbers below *limit* are missing."""
        ranges = zip(self._firsts, self._ends, strict=True)
        return sum(max(0, min(end, limit) - first) for first, end in ranges)


class Checker:
    """
    Checks the deliveries of one receiver; the events of each of its streams are numbered from 0.

    Attributes:
        duplicated: deliveries of events that had arrived before.
        misrouted: deliveries of streams that belong to another receiver.
        reordered: deliveries of events that arrived after a later event of their stream.
        damaged: deliveries with a wrong body; they do not count as arrived.
    """

    __slots__ = ("_holes", "_next", "damaged", "duplicated", "misrouted", "reordered")

    def __init__(self, streams: Iterable[int]) -> None:
        self._next = dict.fromkeys(streams, 0)
        self._holes: dict[int, Holes] = {}
        self.duplicated = self.misrouted = self.reordered = self.damaged = 0

    def take(self, stream: int, number: int, body: object) -> None:
        """Check one delivery."""
        if self._next.get(stream) == number and body == BODIES[(stream + number) & 63]:
            self._next[stream] = number + 1
        else:
            self._take_faulty(stream, number, body)

    def count(self) -> int:
        """Return how many events arrived so far, each counted once."""
        return sum(self._next.values()) - sum(map(len, self._holes.values()))

    def arrived(self) -> dict[int, int]:
        """Return how many events of each stream arrived, each counted once."""
        return {stream: end - len(self._holes.get(stream, ())) for stream, end in self._next.items()}

    def expected(self, accepted: Mapping[int, int]) -> int:
        """Return how many events should have arrived, given how many of each stream the bus *accepted*."""
        return sum(accepted.get(stream, 0) for stream in self._next)

    def lost(self, accepted: Mapping[int, int]) -> int:
        """Return how many of the *accepted* events did not arrive."""
        return sum(self._lost(stream, accepted.get(stream, 0)) for stream in self._next)

    def _lost(self, stream: int, accepted: int) -> int:
        unseen = max(0, accepted - self._next[stream])
        holes = self._holes.get(stream)
        return unseen + (holes.below(accepted) if holes else 0)

    def _take_faulty(self, stream: int, number: int, body: object) -> None:
        expected = self._next.get(stream)
        if expected is None:
            self.misrouted += 1
        elif body != body_of(stream, number):
            self.damaged += 1
        elif number > expected:
            self._holes.setdefault(stream, Holes()).add(expected, number)
            self._next[stream] = number + 1
        elif stream in self._holes and self._holes[stream].discard(number):
            self.reordered += 1
        else:
            self.duplicated += 1
