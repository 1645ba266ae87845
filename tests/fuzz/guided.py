"""``python -m tests.fuzz.guided [-runs=N] [corpus]``: fuzz the wire codec guided by coverage, with atheris."""

from __future__ import annotations

import sys

try:
    import atheris  # type: ignore[import-untyped]
except ImportError:
    sys.exit("atheris is not installed: pip install --group fuzz")

with atheris.instrument_imports(include=["eventbus_core"]):
    from tests.fuzz.mutation import forged
    from tests.fuzz.targets import decode, read_data


def feed(data: bytes) -> None:
    """Take *data* for a frame, and for what comes behind a prefix that is in order."""
    size = int.from_bytes(data[:2], "big")
    for frame in (data, forged(data[2 : 2 + size], data[2 + size :])):
        decode(frame)
        read_data(frame)


if __name__ == "__main__":
    atheris.Setup(sys.argv, feed)
    atheris.Fuzz()
