"""
A node on a host whose clocks are wrong: ``python -m tests.processes.clocks URI NODE``, the node called after its clock.

It obeys as ``tests.processes.node`` does.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

DAY = 86_400
SHIFTS = {"ahead": DAY, "behind": -DAY}


def shifted(clock: Callable[[], int], seconds: int) -> tuple[Callable[[], float], Callable[[], int]]:
    """Return two clocks, one of seconds and one of nanoseconds, that differ from *clock* by so many *seconds*."""
    return lambda: clock() / 1e9 + seconds, lambda: clock() + seconds * 10**9


if __name__ == "__main__":
    shift = SHIFTS[sys.argv[2]]
    time.time, time.time_ns = shifted(time.time_ns, shift)
    time.monotonic, time.monotonic_ns = shifted(time.monotonic_ns, abs(shift) * 2 + shift)
    from tests.processes.node import main  # whatever it imports takes its clocks from there

    main(sys.argv[1], sys.argv[2])
