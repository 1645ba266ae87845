"""``python -m tests.fuzz [--frames N] [--seed S]``."""

from __future__ import annotations

import argparse
import random
import sys
from time import monotonic

import anyio

from tests.fuzz.targets import Watch, fuzz_codec, fuzz_node
from tests.quiet import quiet


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Feeds mutated frames to codec and node.")
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    given = parser.parse_args()
    print(f"seed={given.seed}", flush=True)
    began = monotonic()

    def tell(what: str, watch: Watch) -> None:
        print(f"{what}: {watch}; {monotonic() - began:.0f} s", flush=True)

    tell("codec", fuzz_codec(given.frames, given.seed))
    for uri in ("memory://fuzz", "fuzz-asking://"):
        tell(uri, anyio.run(fuzz_node, uri, given.frames // 4, given.seed))
    return 0


if __name__ == "__main__":
    with quiet():
        sys.exit(main())
