"""The event loop behind code that has none."""

from __future__ import annotations

import atexit
import os
import threading
from concurrent.futures import Future
from contextlib import suppress
from typing import Final

import anyio
from anyio.from_thread import BlockingPortal

STOP_TIMEOUT: Final = 6.0
"""How long the end of the loop is waited for: longer than a bus takes to leave."""


class LoopThread:
    """
    A context manager: one event loop, shared by all that are in it, in a thread that lives while there are any.

    At the exit of the interpreter, what still runs there is cancelled and has ``STOP_TIMEOUT`` to end: the thread
    never holds up the exit.
    """

    def __init__(self) -> None:
        self._reset()
        atexit.register(self._stop)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset)  # the thread stays behind in the parent

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._running: tuple[BlockingPortal, threading.Thread] | None = None

    def __enter__(self) -> BlockingPortal:
        with self._lock:
            if self._running is None:
                self._running = _start()
            self._users += 1
            return self._running[0]

    def __exit__(self, *_exception: object) -> None:
        with self._lock:
            self._users = max(0, self._users - 1)
            if not self._users:
                self._stop()

    def _stop(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            portal, thread = running
            with suppress(RuntimeError):  # it has ended
                portal.start_task_soon(portal.stop, True)
            thread.join(STOP_TIMEOUT)


def _start() -> tuple[BlockingPortal, threading.Thread]:
    started: Future[BlockingPortal] = Future()

    async def serve() -> None:
        async with BlockingPortal() as portal:
            started.set_result(portal)
            await portal.sleep_until_stopped()

    thread = threading.Thread(target=anyio.run, args=(serve,), name="eventbus loop", daemon=True)
    thread.start()
    return started.result(), thread
