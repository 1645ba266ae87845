"""``python -m tests.soak --minutes 30 [URI]``."""

from __future__ import annotations

import argparse
import random
import sys
from functools import partial

import anyio

from tests.quiet import quiet
from tests.soak.life import Life
from tests.soak.run import soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Fails unless memory stays flat.")
    parser.add_argument("uri", nargs="?", default="memory://soak", help="of the broker; its connections are killed")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    given = parser.parse_args()
    print(f"soak of {given.uri}, {given.minutes:g} minutes, seed={given.seed}", flush=True)
    tell = partial(print, flush=True)
    growth = anyio.run(soak, Life(given.uri, given.seed), given.minutes, tell)
    print(f"{'flat' if growth.flat else 'GROWING'}: {growth}")
    return 0 if growth.flat else 1


if __name__ == "__main__":
    with quiet():
        sys.exit(main())
