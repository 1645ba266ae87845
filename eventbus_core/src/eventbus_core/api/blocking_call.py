"""What the blocking twins share: how they are opened, and how a call waits for the asynchronous one behind it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial, wraps
from types import TracebackType
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar

import attrs
from anyio.from_thread import BlockingPortal

from eventbus_core.api.bus import Bus
from eventbus_core.api.client import Client
from eventbus_core.api.queue import Consumer
from eventbus_core.concurrency.loop_thread import LoopThread
from eventbus_core.concurrency.service_group import EXITS
from eventbus_core.concurrency.worker_threads import WorkerThreads
from eventbus_core.errors import BusClosed, ConfigurationError, EventBusError
from eventbus_core.model.functions import check_plain_function

P = ParamSpec("P")
R = TypeVar("R")

MAX_THREADS: Final = 1000
"""Handlers and hooks of all blocking buses of a process that run at a time; further calls wait for one to return."""

_loop: Final = LoopThread()
_threads: Final = WorkerThreads(MAX_THREADS)


@attrs.frozen
class InThread:
    """Calls *function*, which may block, in a worker thread; equal for equal functions."""

    function: Callable[..., object]

    async def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Return once the function has returned."""
        await _threads.run(partial(self.function, *args, **kwargs))


def in_thread(function: Callable[..., object]) -> InThread:
    """Return *function* as a handler or hook that runs in a worker thread; raises if it is not a plain function."""
    return InThread(check_plain_function(function))


class _Exited(EventBusError):
    """Carries *error*, which would end the event loop, to the thread that leaves ``with``."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


@asynccontextmanager
async def _open(inner: Bus | Client | Consumer) -> AsyncIterator[None]:
    try:
        async with inner:
            yield
    except EXITS as error:
        raise _Exited(error) from error


def waits(function: Callable[Concatenate[Any, P], Awaitable[R]]) -> Callable[Concatenate[Blocking, P], R]:
    """Return a method that waits for what *function*, a method of the asynchronous twin, returns."""

    @wraps(function)
    def call(self: Blocking, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._call(partial(function, self._inner, *args, **kwargs))

    return call


class Blocking:
    """A twin of *inner* that is open within ``with``."""

    def __init__(self, inner: Bus | Client | Consumer) -> None:
        self._inner = inner
        self._stack = ExitStack()
        self._portal: BlockingPortal | None = None
        self._process = 0

    def __enter__(self) -> Self:
        self._process = os.getpid()
        with ExitStack() as stack:
            self._portal = stack.enter_context(_loop)
            stack.enter_context(self._portal.wrap_async_context_manager(_open(self._inner)))
            self._stack = stack.pop_all()
        return self

    def open(self) -> Self:
        """Do what entering ``with`` does; close with :meth:`close`. Any thread may call either, in any order."""
        return self.__enter__()

    def close(self) -> None:
        """Do what leaving ``with`` does; does nothing if it is not open."""
        self.__exit__(None, None, None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        stack, self._stack = self._stack, ExitStack()
        try:
            if self._process == os.getpid():  # else it is open in the parent process, and closed there
                stack.__exit__(kind, error, traceback)
        except _Exited as exited:
            raise exited.error from None
        finally:
            self._portal = None  # not sooner: handlers may still have something to say

    def _call(self, function: Callable[[], Awaitable[R]]) -> R:
        if self._portal is None:
            raise BusClosed(f"{self._inner!r} is not open: open it with 'with', or open()")
        if self._process != os.getpid():
            raise ConfigurationError(
                "this bus was opened before the process forked, and stays with the parent; "
                "connect and open another one after the fork"
            )
        return self._portal.call(function)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._inner!r}>"
