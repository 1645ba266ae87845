"""What a process did, kept in a file that outlives it, however it ends."""

from __future__ import annotations

import mmap
from array import array
from pathlib import Path
from time import monotonic_ns
from typing import Final, TypeAlias

Entry: TypeAlias = tuple[int, int, int]
"""A stream, a number, and the time in nanoseconds."""

SIZE: Final = 1 << 30  # the file is sparse
WORD: Final = 8
NUMBER_BITS: Final = 40


class Journal:
    """Numbered events of streams, each with a time; written to memory that the system keeps."""

    def __init__(self, path: Path) -> None:
        with path.open("w+b") as file:
            file.truncate(SIZE)
            self._cells = memoryview(mmap.mmap(file.fileno(), SIZE)).cast("Q")
        self._end = 1  # the first cell says where the end is

    def add(self, stream: int, number: int) -> None:
        """Note that this happened to the event *number* of *stream*, now."""
        end = self._end
        self._cells[end] = stream << NUMBER_BITS | number
        self._cells[end + 1] = monotonic_ns()
        self._end = self._cells[0] = end + 2


def length(path: Path) -> int:
    """Return how many entries the journal at *path* has by now; it need not exist yet."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return max(0, int.from_bytes(file.read(WORD), "little") - 1) // 2


def read(path: Path, start: int = 0) -> list[Entry]:
    """Return the entries of the journal at *path*, from number *start* on."""
    entries = length(path) - start
    if entries <= 0:
        return []
    with path.open("rb") as file:
        file.seek(WORD * (1 + 2 * start))
        cells = array("Q", file.read(2 * WORD * entries))
    mask = (1 << NUMBER_BITS) - 1
    return [(cell >> NUMBER_BITS, cell & mask, at) for cell, at in zip(cells[::2], cells[1::2], strict=True)]
