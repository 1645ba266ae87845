"""Has functions called in an event loop, from any thread; those that gather share one wake-up."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

import anyio

CallSoon: TypeAlias = Callable[[Callable[[], object]], object]


def call_soon() -> tuple[object, CallSoon]:
    """Return the running event loop, and what has it call a function soon, from any thread."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        import trio

        token = trio.lowlevel.current_trio_token()
        return token, token.run_sync_soon
    return loop, loop.call_soon_threadsafe


class LoopCalls:
    """
    The functions that an event loop is to call, in order; they must not raise.

    To wake an event loop of another thread costs a system call, more than all else that a call from there takes.

    Attributes:
        loop: which.
    """

    def __init__(self, loop: object, soon: CallSoon) -> None:
        self.loop = loop
        self._soon = soon
        self._waiting: deque[Callable[[], object]] = deque()
        self._woken = False
        self._make: Callable[[], anyio.Event] = anyio.Event

    def event(self) -> anyio.Event:
        """Return a new event, in this event loop; the class of its kind is ten times as fast as ``anyio.Event``."""
        event = self._make()
        self._make = type(event)
        return event

    def add(self, function: Callable[[], object]) -> None:
        """
        Have *function* called soon.

        Raises:
            RuntimeError: the event loop is closed; it may also be closed before it calls the function.
        """
        self._waiting.append(function)
        if not self._woken:
            self._woken = True
            try:
                self._soon(self._run)
            except BaseException:
                self._woken = False
                self._waiting.clear()
                raise

    def _run(self) -> None:
        self._woken = False  # before the first is taken: what is added from now on wakes the loop again
        for _ in range(len(self._waiting)):  # no more: other tasks of the loop run before those that are added now
            self._waiting.popleft()()


_here: Any = threading.local()


def calls_here() -> LoopCalls:
    """Return the functions that the running event loop is to call."""
    loop, soon = call_soon()
    calls: LoopCalls | None = getattr(_here, "calls", None)
    if calls is None or calls.loop is not loop:
        calls = LoopCalls(loop, soon)
        _here.__dict__["calls"] = calls
    return calls
