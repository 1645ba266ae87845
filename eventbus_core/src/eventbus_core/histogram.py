"""How values are spread: counted in buckets, each with twice the bound of the one before."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from math import ceil
from typing import Final

import attrs

BUCKETS: Final = 22
"""How many have a bound; beyond them is one for all that is larger."""
SHORTEST: Final = 0.0001
"""The bound of the first bucket for seconds; that of the last is then 210 s. Of counts, 1 and two million."""


@attrs.frozen
class Histogram:
    """
    How often values fell into which bucket.

    Attributes:
        first: the bound of the first bucket, which holds the values up to it; each further one has twice the bound.
        counts: how many values each bucket holds; the last of ``BUCKETS + 1`` has no bound, and empty ones at the end
            are left out.
        total: the sum of all values.
    """

    first: float = SHORTEST
    counts: tuple[int, ...] = ()
    total: float = 0.0

    @property
    def count(self) -> int:
        """How many values there are."""
        return sum(self.counts)

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """Yield the bound of each bucket, and how many values are not larger; the last bound is infinite."""
        counts = self.counts + (0,) * (BUCKETS + 1 - len(self.counts))
        return zip((*(self.first * 2**i for i in range(BUCKETS)), float("inf")), accumulate(counts), strict=True)

    def quantile(self, part: float) -> float | None:
        """
        Return the value below which that *part* of all lies, ``None`` if there are none.

        It is guessed within its bucket, as if values were spread evenly there; beyond the last bound, it is that bound.
        """
        wanted, below, bound = part * self.count, 0, 0.0
        for upper, upto in self.cumulative():
            if upto and upto >= wanted and upper != float("inf"):
                return bound + (upper - bound) * (wanted - below) / (upto - below)
            below, bound = upto, min(upper, self.first * 2 ** (BUCKETS - 1))
        return bound if self.counts else None

    def since(self, before: Histogram) -> Histogram:
        """Return what came after *before*, an earlier state of the same."""
        earlier = before.counts + (0,) * (len(self.counts) - len(before.counts))
        counts = tuple(now - then for now, then in zip(self.counts, earlier, strict=True))
        return Histogram(self.first, _trimmed(counts), self.total - before.total)


class Spread:
    """Counts values for a :class:`Histogram`; adding one takes a fraction of a microsecond."""

    def __init__(self, first: float) -> None:
        self._first = first
        self._counts = [0] * (BUCKETS + 1)
        self._total = 0.0

    def add(self, value: float) -> None:
        """Count *value*."""
        self._counts[min((max(ceil(value / self._first), 1) - 1).bit_length(), BUCKETS)] += 1
        self._total += value

    def histogram(self) -> Histogram:
        """Return all values so far."""
        return Histogram(self._first, _trimmed(tuple(self._counts)), self._total)


def _trimmed(counts: tuple[int, ...]) -> tuple[int, ...]:
    size = len(counts)
    while size and not counts[size - 1]:
        size -= 1
    return counts[:size]
