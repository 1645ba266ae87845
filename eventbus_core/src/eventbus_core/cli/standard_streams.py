"""The standard streams of the process, made safe: closed, full or ASCII ones lead to one clear error."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, Final

STDIN_CLOSED: Final = "standard input is closed; give the data as an argument, or connect a pipe or a file to it"


class OutputFailed(Exception):
    """
    Raised when standard output cannot be written.

    Attributes:
        reader_gone: whether the reason is that the reader of the pipe has ended, as after ``| head``.
    """

    def __init__(self, error: OSError) -> None:
        closed = error.errno == errno.EBADF
        super().__init__(f"standard output cannot be written: {'it is closed' if closed else error.strerror}")
        self.reader_gone = error.errno == errno.EPIPE


def secure_streams() -> None:
    """
    Open the closed ones of descriptors 0 to 2, and wrap the streams of the process.

    Closed descriptors would otherwise be reused by the next socket. A failed write to standard output raises
    :class:`OutputFailed`; to standard error it is ignored. Characters that the encoding lacks are escaped.
    """
    for descriptor, mode in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)):  # 0 and 1 stay unusable: EBADF
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, mode)
    if sys.stdout is sys.__stdout__:  # else a test captures it
        sys.stdout = _wrapped(_Output(1, "w", closefd=False), sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _wrapped(_ErrorOutput(2, "w", closefd=False), sys.stderr)


def _wrapped(raw: io.FileIO, former: Any) -> io.TextIOWrapper:
    encoding = getattr(former, "encoding", None) or "utf-8"
    buffered = io.BufferedWriter(raw)
    line_buffering = raw.isatty() or raw.fileno() == 2
    return io.TextIOWrapper(buffered, encoding=encoding, errors="backslashreplace", line_buffering=line_buffering)


class _Output(io.FileIO):
    """Standard output: raises :class:`OutputFailed` once, and discards everything after that."""

    _failed = False

    def write(self, data: Any, /) -> int:
        if self._failed:
            return memoryview(data).nbytes
        try:
            return super().write(data)
        except OSError as error:
            self._failed = True
            raise OutputFailed(error) from None


class _ErrorOutput(io.FileIO):
    """Standard error: discards what cannot be written, since no place is left to report it."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes
