"""
The CPU that seals cost, in one process: two nodes on a server, one with all the clients of the other to send to.

    python -m tests.benchmarks.sealing redis://127.0.0.1:6379/0

Rounds without a secret, authenticated and encrypted take turns; printed are the medians over rounds of the ratios.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from statistics import median
from time import process_time
from typing import Any, Final

from tests.benchmarks.test_guard import pair

EVENTS: Final = 20_000
ROUNDS: Final = 31
SECRET: Final = {"secret": "benchmark" * 4}
SIDES: Final[dict[str, dict[str, Any]]] = {
    "without a secret": {},
    "authenticated": SECRET,
    "encrypted": {**SECRET, "encrypt": True},
}


async def main(uri: str) -> None:
    """Measure, and print."""
    async with AsyncExitStack() as stack:
        pairs = {name: await stack.enter_async_context(pair(uri, **options)) for name, options in SIDES.items()}
        costs: dict[str, list[float]] = {name: [] for name in SIDES}
        for _ in range(ROUNDS):
            for name, nodes in pairs.items():
                begun = process_time()
                await nodes.send("far", EVENTS)
                costs[name].append((process_time() - begun) / EVENTS)
    plain = costs["without a secret"]
    for name, spent in costs.items():
        ratios = [mine / base for mine, base in zip(spent, plain, strict=True)]
        print(
            f"{name:18} {min(spent) * 1e6:5.2f} us/event at best, {median(spent) * 1e6:5.2f} in the middle, "
            f"ratio {min(spent) / min(plain):.3f} and {median(ratios):.3f}"
        )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
