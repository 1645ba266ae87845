"""A histogram of latencies: small, cheap to fill, and exact when the histograms of several nodes are added."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import log2
from typing import Final

STEPS: Final = 32  # per doubling, so that a value is known within 1.1 %


class LatencyHistogram:
    """Counts durations in steps of equal ratio; its size is bounded whatever the durations."""

    __slots__ = ("counts",)

    def __init__(self, counts: Iterable[tuple[int, int]] = ()) -> None:
        self.counts: Counter[int] = Counter(dict(counts))

    def add(self, nanoseconds: int) -> None:
        """Count one duration."""
        self.counts[int(log2(nanoseconds) * STEPS) if nanoseconds > 1 else 0] += 1

    def include(self, other: LatencyHistogram) -> None:
        """Add all durations of *other*."""
        self.counts.update(other.counts)

    def quantile(self, share: float) -> float | None:
        """Return the milliseconds that *share* of the durations did not exceed; ``None`` if there are no durations."""
        rank = share * self.counts.total()
        passed = 0
        for step, count in sorted(self.counts.items()):
            passed += count
            if passed >= rank:
                return float(2 ** ((step + 0.5) / STEPS)) / 1e6
        return None
