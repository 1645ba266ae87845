"""The way into an event loop for code of other event loops and threads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from threading import Lock
from types import CoroutineType
from typing import Any, Final, Generic, TypeAlias, TypeVar, cast

import anyio

from eventbus_core.concurrency.loop_calls import LoopCalls, calls_here
from eventbus_core.concurrency.service_group import ServiceGroup
from eventbus_core.model.state import NodeState, not_open

R = TypeVar("R")
Made: TypeAlias = Coroutine[Any, Any, R] | R
LIBRARY: Final = "current_async_library_cvar"
"""The name of the context variable in which sniffio keeps the kind of the event loop."""


class LoopEntry:
    """Runs functions of other event loops and threads in the event loop of a bus, in tasks of the bus."""

    def __init__(self, state: NodeState, services: ServiceGroup) -> None:
        self._state = state
        self._services = services
        self._soon: LoopCalls | None = None
        self._lock = Lock()
        self._calls: set[_Call[Any]] = set()

    def open(self) -> None:
        """Let calls in from now on, to the running event loop."""
        self._soon = calls_here()

    def close(self) -> None:
        """End every call, and let no more in."""
        with self._lock:  # a call is either in the list, or finds the entry closed
            self._soon, calls = None, list(self._calls)
        for call in calls:
            call.fail(not_open())

    async def run(
        self,
        function: Callable[[], Coroutine[Any, Any, R]],
        too_late: Callable[[R], Awaitable[object]] | None = None,
    ) -> R:
        """
        Return what *function* returns in the event loop of the bus, in a copy of the caller's context.

        If the caller is cancelled, so is *function*. A result that comes all the same is given to *too_late*,
        which runs in the event loop of the caller, shielded.

        Raises:
            BusClosed: the bus is not open, or closes first.
            ConfigurationError: the process has forked since the bus was opened.
        """
        if self._state.here:
            return await function()
        return await self._call(function, too_late)

    async def run_at_once(self, function: Callable[[], Made[R]]) -> R:
        """Do what :meth:`run` does; if *function* returns no coroutine, no task is started for it."""
        if self._state.here:
            made = function()
            return cast("R", await made if isinstance(made, CoroutineType) else made)
        return await self._call(function, None)

    def call_soon(self, function: Callable[[], object]) -> None:
        """
        Have *function*, which must not raise, called in the event loop of the bus, without waiting for it.

        Raises:
            BusClosed: the bus is not open.
            ConfigurationError: the process has forked since the bus was opened.
        """
        if self._state.forked:
            self._state.check_place()
        soon = self._soon
        if soon is None:
            raise not_open()
        try:
            soon.add(function)
        except RuntimeError:  # the event loop is closed
            raise not_open() from None

    async def _call(self, function: Callable[[], Made[R]], too_late: Callable[[R], Awaitable[object]] | None) -> R:
        if self._state.forked:
            self._state.check_place()
        call = _Call(function)
        with self._lock:
            soon = self._soon
            if soon is None:
                raise not_open()
            self._calls.add(call)
        try:
            call.start(soon, self._services)
            await call.wait(soon)
        except BaseException:
            if call.succeeded and too_late is not None:
                with anyio.CancelScope(shield=True):
                    await too_late(call.result())
            raise
        finally:
            with self._lock:
                self._calls.discard(call)
        return call.result()


class _Call(Generic[R]):
    """One call: *function* runs in the event loop of the bus, the caller waits in its own."""

    def __init__(self, function: Callable[[], Made[R]]) -> None:
        self._function = function
        self._lock = Lock()
        self._context = copy_context()
        self._wake = calls_here()
        self._done = self._wake.event()
        self._scope: anyio.CancelScope | None = None
        self._cancelled = False
        self._results: list[R] = []
        self._error: BaseException | None = None

    @property
    def succeeded(self) -> bool:
        return bool(self._results)

    def start(self, soon: LoopCalls, services: ServiceGroup) -> None:
        try:
            soon.add(partial(self._start_here, services))
        except RuntimeError:  # the event loop is closed
            self.fail(not_open())

    async def wait(self, soon: LoopCalls) -> None:
        """Return once the call is done; a cancellation reaches it."""
        try:
            await self._done.wait()
        except BaseException:
            with suppress(RuntimeError):  # then it has ended
                soon.add(self._cancel_here)
            with anyio.CancelScope(shield=True):
                await self._done.wait()
            raise

    def fail(self, error: BaseException) -> None:
        """End the call with *error*, unless it has ended; from any thread."""
        self._end(error=error)

    def result(self) -> R:
        if self._error is not None:
            raise self._error
        return self._results[0]

    def _start_here(self, services: ServiceGroup) -> None:
        if self._ended:
            return
        try:
            made = self._context.run(self._function)
        except BaseException as error:
            self._end(error=error)
            return
        if not isinstance(made, CoroutineType):
            self._end(cast("R", made))
            return
        try:
            services.start(partial(self._run, made))
        except RuntimeError:  # the bus has closed
            made.close()
            self.fail(not_open())

    def _cancel_here(self) -> None:
        self._cancelled = True
        if self._scope is not None:
            self._scope.cancel()

    async def _run(self, made: Coroutine[Any, Any, R]) -> None:
        for variable, value in self._context.items():
            if variable.name != LIBRARY:
                variable.set(value)
        try:
            with anyio.CancelScope() as self._scope:
                if self._cancelled:
                    self._scope.cancel()
                self._end(await made)
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:
            self._end(error=error)
        finally:
            self._end(error=not_open())  # unless it has ended

    @property
    def _ended(self) -> bool:
        return bool(self._results) or self._error is not None

    def _end(self, *results: R, error: BaseException | None = None) -> None:
        with self._lock:
            if self._ended:
                return
            self._results.extend(results)
            self._error = error
        with suppress(RuntimeError):  # the event loop of the caller is closed
            self._wake.add(self._done.set)
