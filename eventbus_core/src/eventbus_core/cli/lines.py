"""Lines from standard input, as they come, without holding up the event loop."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Final

import anyio

CHUNK: Final = 64 * 1024
LONGEST: Final = 16 * 1024 * 1024


async def read_lines(file: int, longest: int = LONGEST) -> AsyncIterator[bytes]:
    """
    Yield the lines of the file descriptor *file* without their ends, a last one without an end too.

    No more is read while none is taken. Of a line over *longest* bytes some more than these come, and the rest is lost.
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
    except OSError:  # a file on a disk cannot be waited for, nor anything but a socket on Windows
        return await anyio.to_thread.run_sync(os.read, file, CHUNK, abandon_on_cancel=True)
    return os.read(file, CHUNK)
