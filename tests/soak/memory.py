"""What a process keeps, measured over time, and whether it grows."""

from __future__ import annotations

import ctypes
import gc
import os
import tracemalloc
from contextlib import suppress
from pathlib import Path
from statistics import median

import attrs

PER_OPERATION = 8
"""Bytes that may be kept for each operation: fewer than any object takes."""
SLACK = 1024 * 1024
"""For events in flight and frames kept for retransmission: their number varies."""
RSS_SLACK = 8 * 1024 * 1024
"""For pages that are in use in part, and for the snapshot by which a leak is found."""


@attrs.frozen
class Sample:
    """
    What the process held at one moment.

    Attributes:
        operations: done by then.
        traced: bytes of Python's objects.
        rss: bytes of memory that the system gave.
    """

    operations: int
    traced: int
    rss: int


def sample(operations: int) -> Sample:
    """Return what the process holds now, garbage apart; tracemalloc must be running."""
    gc.collect()
    with suppress(OSError, AttributeError):  # what the allocator has free is not held; only glibc can give it back
        ctypes.CDLL(None).malloc_trim(0)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return Sample(operations, tracemalloc.get_traced_memory()[0], resident)


@attrs.frozen
class Growth:
    """
    How much more was held in the last quarter of a run than in its second, by their medians.

    The first quarter is left to caches that fill. What is kept for each operation grows with them, noise does not:
    so the bound is a little for each operation, and a little beside.
    """

    operations: int
    traced: int
    rss: int

    @classmethod
    def of(cls, samples: list[Sample]) -> Growth:
        """Return the growth over *samples*, which were taken at regular times."""
        quarter = len(samples) // 4
        second, last = samples[quarter : 2 * quarter], samples[-quarter:]
        operations, traced, rss = (
            int(median(getattr(sample, name) for sample in last) - median(getattr(sample, name) for sample in second))
            for name in ("operations", "traced", "rss")
        )
        return cls(operations, traced, rss)

    @property
    def flat(self) -> bool:
        """Whether no more was kept than the bound."""
        bound = PER_OPERATION * self.operations
        return self.traced <= bound + SLACK and self.rss <= bound + RSS_SLACK

    def __str__(self) -> str:
        each = self.traced / max(1, self.operations)
        return (
            f"{self.traced / 1024:+,.0f} KiB of objects ({each:+.1f} bytes an operation), "
            f"{self.rss / 1024:+,.0f} KiB RSS, over {self.operations:,} operations"
        )


def largest_growth(before: tracemalloc.Snapshot, after: tracemalloc.Snapshot, count: int = 12) -> list[str]:
    """Return where most of what came between two snapshots was allocated."""
    return [str(difference) for difference in after.compare_to(before, "lineno")[:count]]
