"""Hooks: what the bus tells the application of its own accord."""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, Generic, ParamSpec

import anyio

logger = logging.getLogger("eventbus")

P = ParamSpec("P")
MAX_PENDING: Final = 10_000


class HookRunner:
    """
    Calls hooks in a task of their own, in order, so that they hold up nothing.

    Attributes:
        skipped: calls that found ``MAX_PENDING`` before them, and were not made.
    """

    def __init__(self) -> None:
        self.skipped = 0
        self._calls: deque[tuple[str, Callable[..., Any], tuple[Any, ...]]] = deque()
        self._work = anyio.Event()
        self._idle: anyio.Event | None = None

    def call(self, name: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        """Call *function* soon."""
        if len(self._calls) >= MAX_PENDING:
            self.skipped += 1
            return
        self._calls.append((name, function, args))
        self._work.set()

    async def settled(self) -> None:
        """Return once all calls have been made."""
        if self._calls:
            self._idle = self._idle or anyio.Event()
            await self._idle.wait()

    async def run(self) -> None:
        """Serve for ever."""
        while True:
            if not self._calls:
                if self._idle is not None:
                    self._idle.set()
                    self._idle = None
                self._work = anyio.Event()
                await self._work.wait()
            name, function, args = self._calls[0]
            try:
                result = function(*args)
                if inspect.isawaitable(result):
                    await result
            except Exception:
                logger.exception("hook %s raised", name)
            self._calls.popleft()


class Hook(Generic[P]):
    """
    A place to register functions, plain or async; also a decorator.

    They are called one after the other in a task of the bus; one that raises is logged.
    """

    def __init__(self, name: str, runner: HookRunner) -> None:
        self._name = name
        self._runner = runner
        self._functions: list[Callable[P, Awaitable[None] | None]] = []

    def __call__(self, function: Callable[P, Awaitable[None] | None]) -> Callable[P, Awaitable[None] | None]:
        """Register *function* and return it."""
        self._functions.append(function)
        return function

    def emit(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Have every registered function called soon."""
        for function in self._functions:
            self._runner.call(self._name, function, args)
