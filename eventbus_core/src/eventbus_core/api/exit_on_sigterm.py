"""SIGTERM ends the process by an exit of the interpreter, which closes what it has open."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any

_former: Any = signal.SIG_DFL


def exit_on_sigterm() -> None:
    """
    Have the interpreter exit, and with it every bus leave, once SIGTERM has come and its handler has done its work.

    A server such as uvicorn handles SIGTERM, stops, and at last ends itself by the same signal, without an exit: that
    second one is kept back. Programs that the main thread starts between the two inherit that, and ignore SIGTERM. A
    process without a handler gets ``SystemExit``. Other threads than the main one get no signals: nothing is done
    there. Python may notice a signal that comes just as the main thread begins to wait only once that wait ends, so a
    main thread should wake now and then; those of servers do.
    """
    global _former
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        return
    current = signal.getsignal(signal.SIGTERM)
    if current is not _exit and (callable(current) or current == signal.SIG_DFL):
        _former = current
        signal.signal(signal.SIGTERM, _exit)


def _exit(number: int, frame: FrameType | None) -> None:
    signal.signal(number, _former)  # a second SIGTERM gets through
    if not callable(_former):
        sys.exit(128 + number)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_BLOCK, {number})  # of this thread: here the server would end itself
    _former(number, frame)
