"""Latencies as a histogram: small, cheap to fill, and those of many nodes add up exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import log2
from typing import Final

STEPS: Final = 32  # per doubling: a value is known within 1.1 %


class Histogram:
    """Counts durations in steps of equal ratio; bounded whatever comes."""

    __slots__ = ("counts",)

    def __init__(self, counts: Iterable[tuple[int, int]] = ()) -> None:
        self.counts: Counter[int] = Counter(dict(counts))

    def add(self, nanoseconds: int) -> None:
        """Count one duration."""
        self.counts[int(log2(nanoseconds) * STEPS) if nanoseconds > 1 else 0] += 1

    def include(self, other: Histogram) -> None:
        """Count all that *other* counted."""
        self.counts.update(other.counts)

    def quantile(self, share: float) -> float | None:
        """Return the milliseconds that *share* of the durations did not exceed; ``None`` if there are none."""
        rank = share * self.counts.total()
        passed = 0
        for step, count in sorted(self.counts.items()):
            passed += count
            if passed >= rank:
                return float(2 ** ((step + 0.5) / STEPS)) / 1e6
        return None
