"""Histograms: values counted in buckets, where the upper bound of each bucket is twice that of the one before."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from functools import cache
from itertools import accumulate
from typing import Final

import attrs

BUCKETS: Final = 22
"""The number of buckets with an upper bound; one more bucket holds all larger values."""
SHORTEST: Final = 0.0001
"""The upper bound of the first bucket for seconds; the last bound is then 210 s. For counts: 1, and two million."""


@attrs.frozen
class Histogram:
    """
    The number of values in each bucket.

    Attributes:
        first: the upper bound of the first bucket; each further bucket has twice the bound of the one before.
        counts: the number of values in each bucket; the last of ``BUCKETS + 1`` has no bound, and empty buckets at
            the end are left out.
        total: the sum of all values.
    """

    first: float = SHORTEST
    counts: tuple[int, ...] = ()
    total: float = 0.0

    @property
    def count(self) -> int:
        """The number of values."""
        return sum(self.counts)

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """Yield each bucket's upper bound and the number of values up to it; the last bound is infinite."""
        counts = self.counts + (0,) * (BUCKETS + 1 - len(self.counts))
        return zip((*(self.first * 2**i for i in range(BUCKETS)), float("inf")), accumulate(counts), strict=True)

    def quantile(self, part: float) -> float | None:
        """
        Return the value below which the fraction *part* of all values lies; ``None`` if there are no values.

        It is an estimate: the values of a bucket are taken as evenly spread. It never exceeds the last bound.
        """
        wanted, below, bound = part * self.count, 0, 0.0
        for upper, upto in self.cumulative():
            if upto and upto >= wanted and upper != float("inf"):
                return bound + (upper - bound) * (wanted - below) / (upto - below)
            below, bound = upto, min(upper, self.first * 2 ** (BUCKETS - 1))
        return bound if self.counts else None

    def since(self, before: Histogram) -> Histogram:
        """Return the values added since *before*, an earlier state of the same histogram."""
        earlier = before.counts + (0,) * (len(self.counts) - len(before.counts))
        counts = tuple(now - then for now, then in zip(self.counts, earlier, strict=True))
        return Histogram(self.first, _trimmed(counts), self.total - before.total)


class Spread:
    """Counts values for a :class:`Histogram`; adding one takes a fraction of a microsecond."""

    def __init__(self, first: float) -> None:
        self._first = first
        self._bounds = _bounds(first)
        self._counts = [0] * (BUCKETS + 1)
        self._total = 0.0

    def add(self, value: float) -> None:
        """Count *value*."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def histogram(self) -> Histogram:
        """Return all values so far."""
        return Histogram(self._first, _trimmed(tuple(self._counts)), self._total)


@cache
def _bounds(first: float) -> tuple[float, ...]:
    """Return the upper bounds of all buckets but the last; every spread of a process shares them."""
    return tuple(first * 2**i for i in range(BUCKETS))


def _trimmed(counts: tuple[int, ...]) -> tuple[int, ...]:
    size = len(counts)
    while size and not counts[size - 1]:
        size -= 1
    return counts[:size]
