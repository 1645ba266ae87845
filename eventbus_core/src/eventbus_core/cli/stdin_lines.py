"""The lines of standard input, read as they arrive, without blocking the event loop."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Final

import anyio

CHUNK_SIZE: Final = 64 * 1024
LONGEST_LINE: Final = 16 * 1024 * 1024


async def read_lines(file: int, longest: int = LONGEST_LINE) -> AsyncIterator[bytes]:
    """
    Yield the lines of the file descriptor *file* without their ends; the last line may lack one.

    Nothing is read while the caller takes no line. A line over *longest* bytes is cut a little above that length.
    """
    parts: list[bytes] = []
    size = 0
    while chunk := await _read(file):
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            line = b"".join((*parts, end))
            parts, size = [], 0
            yield line
        if rest and size <= longest:
            parts.append(rest)
            size += len(rest)
    if parts:
        yield b"".join(parts)


async def _read(file: int) -> bytes:
    try:
        await anyio.wait_readable(file)
    except OSError:  # files on disk cannot be waited for; on Windows, only sockets can
        return await anyio.to_thread.run_sync(os.read, file, CHUNK_SIZE, abandon_on_cancel=True)
    return os.read(file, CHUNK_SIZE)
