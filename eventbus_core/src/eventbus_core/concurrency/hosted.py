"""Context managers that are entered and left by different tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from contextvars import copy_context
from typing import Any, Final

import anyio

from eventbus_core.concurrency.service_group import EXITS
from eventbus_core.observability.log import get_logger

logger = get_logger("eventbus")


class Hosted:
    """
    Holds *manager* open in a task of its own, so that any task may open and close it, in any order with others.

    The task ends with the event loop at the latest.
    """

    def __init__(self, manager: AbstractAsyncContextManager[object]) -> None:
        self._manager: Final = manager
        self._scope = anyio.CancelScope()
        self._opened, self._stop, self._ended = anyio.Event(), anyio.Event(), anyio.Event()
        self._failure: BaseException | None = None
        self._task: object = None  # asyncio itself keeps no reference

    async def open(self) -> None:
        """Enter the context manager; if that fails or is cancelled, nothing is left open."""
        self._task = _start(self._run)
        await self._wait(self._opened)
        if self._ended.is_set():
            self._raise_failure()

    async def aclose(self) -> None:
        """
        Leave the context manager; return once it is left, also on successive calls.

        Raises:
            BaseException: what ended it, or was raised as it was left; in the first call alone.
        """
        self._stop.set()
        await self._wait(self._ended)
        self._raise_failure()

    async def _wait(self, event: anyio.Event) -> None:
        """Wait for *event*; a cancellation reaches the context manager, which is left when this raises."""
        try:
            await event.wait()
        except BaseException:
            self._scope.cancel()
            with anyio.CancelScope(shield=True):
                await self._ended.wait()
            raise

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    async def _run(self) -> None:
        try:
            with self._scope:
                async with self._manager:
                    self._opened.set()
                    await self._stop.wait()
        except (*EXITS, anyio.get_cancelled_exc_class()):
            raise  # to the event loop: the program ends
        except BaseException as error:
            self._failure = error
            if self._opened.is_set() and not self._stop.is_set():
                logger.exception("%r has ended by itself; aclose raises the reason", self._manager)
        finally:
            self._ended.set()
            self._opened.set()


def _start(function: Callable[[], Coroutine[Any, Any, None]]) -> object:
    """Run *function* in a task that no task group holds; return the task."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        import trio

        return trio.lowlevel.spawn_system_task(function, context=copy_context())
    task = loop.create_task(function())
    task.add_done_callback(_retrieve)
    return task


def _retrieve(task: asyncio.Task[None]) -> None:
    """Keep asyncio from logging what the event loop has raised already."""
    if not task.cancelled():
        task.exception()
