"""One soak from its beginning to its end."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import anyio

from tests.soak.life import Life
from tests.soak.memory import Growth, Sample, largest_growth, sample

SAMPLES = 200
FEWEST = 20


async def soak(life: Life, minutes: float, tell: Callable[[str], None]) -> Growth:
    """Let *life* go on for so many *minutes*; return how much what is held has grown, and *tell* how it went."""
    tracemalloc.start()
    try:
        samples: list[Sample] = []
        count = max(FEWEST, min(SAMPLES, int(minutes * 60)))
        pause = minutes * 60 / count
        began = anyio.current_time()
        early: tracemalloc.Snapshot | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(life.run)
            for number in range(1, count + 1):
                await anyio.sleep_until(began + number * pause)
                samples.append(sample(life.operations))
                if number == count // 4:
                    early = tracemalloc.take_snapshot()
                if number % (count // 10) == 0:
                    tell(_line(samples[-1], anyio.current_time() - began))
            end = tracemalloc.take_snapshot()
            group.cancel_scope.cancel()
        growth = Growth.of(samples)
        if not growth.flat and early is not None:
            tell("most was allocated, since the first quarter, at:\n" + "\n".join(largest_growth(early, end)))
        tell(f"{_shown(life.done)}; errors: {_shown(life.failed)}")
        return growth
    finally:
        tracemalloc.stop()


def _line(now: Sample, seconds: float) -> str:
    return (
        f"{seconds:7.1f} s  {now.operations:9,} operations  {now.traced / 1024:9,.0f} KiB of objects  "
        f"{now.rss / 1024:9,.0f} KiB RSS"
    )


def _shown(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items())) or "none"
