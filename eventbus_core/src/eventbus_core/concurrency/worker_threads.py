"""Daemon threads for functions that block."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Final

IDLE_SECONDS: Final = 10.0
"""How long a thread without work stays."""


class WorkerThreads:
    """
    Runs functions that block, each at once in a thread of its own, up to *limit* at a time; further ones wait.

    The threads end with the interpreter, whatever they do. Only for asyncio.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset)  # no thread survives a fork

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[Callable[[], None]] = deque()
        self._threads = self._idle = 0

    async def run(self, function: Callable[[], object]) -> None:
        """
        Call *function* in a thread, in a copy of the current context; return or raise when it does.

        If this is cancelled, the function goes on, and its end is not waited for.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[BaseException | None] = loop.create_future()
        context = copy_context()

        def settle(error: BaseException | None) -> None:
            if not done.done():
                done.set_result(error)

        def work() -> None:
            failure: BaseException | None = None
            try:
                context.run(function)
            except BaseException as error:
                failure = error
            with suppress(RuntimeError):  # the loop is closed: nothing waits for the end
                loop.call_soon_threadsafe(settle, failure)

        self._start(work)
        if (error := await done) is not None:
            raise error

    def _start(self, work: Callable[[], None]) -> None:
        with self._changed:
            self._waiting.append(work)
            if self._idle >= len(self._waiting):
                self._changed.notify()
            elif self._threads < self._limit:
                threading.Thread(target=self._serve, name="eventbus worker", daemon=True).start()
                self._threads += 1

    def _serve(self) -> None:
        while (work := self._next()) is not None:
            work()

    def _next(self) -> Callable[[], None] | None:
        """Return what to do next, or ``None`` after a while without work."""
        with self._changed:
            self._idle += 1
            if not self._waiting:
                self._changed.wait_for(lambda: self._waiting, IDLE_SECONDS)
            self._idle -= 1
            if self._waiting:
                return self._waiting.popleft()
            self._threads -= 1
            return None
