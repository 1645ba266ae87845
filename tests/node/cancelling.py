"""Cancels an operation at every place where it can be cancelled."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Generator, Iterator
from types import coroutine
from typing import Any, TypeVar

import anyio
from anyio.lowlevel import checkpoint

from tests.support import tasks

T = TypeVar("T")

LATEST = 400
"""Turns of the event loop after which no operation is cancelled any more."""


class Attempt:
    """
    One try at an operation, which is cancelled at some place of its own.

    Attributes:
        over: whether the operation came to its end before it was cancelled: there is no later place.
        cancelled: whether the cancellation came out of it.
    """

    def __init__(self, place: int, *, late: bool) -> None:
        self.over = self.cancelled = False
        self._place = place
        self._late = late

    def __repr__(self) -> str:
        return (
            f"<cancelled {self._place} turns after it began>" if self._late else f"<cancelled at await {self._place}>"
        )

    async def run(self, operation: Callable[[], Awaitable[T]]) -> T | None:
        """Await *operation* until it is over or cancelled; return its result in the first case."""

        def begin(start: Callable[[], None]) -> Awaitable[T]:
            start()
            return operation()

        return await self.run_from(begin)

    async def run_from(self, operation: Callable[[Callable[[], None]], Awaitable[T]]) -> T | None:
        """Do what :meth:`run` does, counting only once *operation* has called what it is given."""
        results: list[T] = []

        async def keep(start: Callable[[], None]) -> None:
            results.append(await operation(start))

        with anyio.CancelScope() as scope:
            if self._late:
                await self._cancel_late(keep, scope)
            else:
                counter = _Counter(self._place, scope)
                await _watched(keep(counter.start), counter.suspended)
        # Cancelled when it had come to its end already, it was not.
        self.cancelled = scope.cancelled_caught and not results
        self.over = not scope.cancel_called
        return results[0] if results else None

    async def _cancel_late(
        self, operation: Callable[[Callable[[], None]], Awaitable[None]], scope: anyio.CancelScope
    ) -> None:
        started = anyio.Event()

        async def cancel() -> None:
            await started.wait()
            for _ in range(self._place):
                await checkpoint()
            scope.cancel()

        async with tasks() as group:
            group.start_soon(cancel)
            await checkpoint()
            await operation(started.set)


def attempts_at_every_await() -> Iterator[Attempt]:
    """Yield attempts that are cancelled at their first await that suspends, their second, ... until one is not."""
    return _attempts(itertools.count(), late=False)


def attempts_at_every_turn() -> Iterator[Attempt]:
    """Yield attempts that are cancelled after more and more turns of the event loop, until one is not."""
    places, place = [], 0
    while place <= LATEST:
        places.append(place)
        place += 1 + place // 8
    return _attempts(iter(places), late=True)


def _attempts(places: Iterator[int], *, late: bool) -> Iterator[Attempt]:
    for place in places:
        attempt = Attempt(place, late=late)
        yield attempt
        if attempt.over:
            return


class _Counter:
    def __init__(self, place: int, scope: anyio.CancelScope) -> None:
        self._left = place
        self._scope = scope
        self._started = False

    def start(self) -> None:
        self._started = True

    def suspended(self) -> None:
        if self._started:
            if self._left == 0:
                self._scope.cancel()
            self._left -= 1


@coroutine
def _watched(awaitable: Awaitable[T], suspended: Callable[[], None]) -> Generator[Any, Any, T]:
    """Await *awaitable*, and call *suspended* each time before the task is suspended by it."""
    steps = awaitable.__await__()
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            trap = steps.send(value) if error is None else steps.throw(error)
        except StopIteration as stop:
            result: T = stop.value
            return result
        suspended()
        value = error = None
        try:
            value = yield trap
        except BaseException as thrown:
            error = thrown
