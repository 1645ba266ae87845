"""Runs the tasks of a bus, and keeps apart from them what functions of the application do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from importlib import import_module
from math import inf
from typing import Any, Final, TypeAlias

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from eventbus_core.concurrency.signal import Signal
from eventbus_core.errors import EventBusError

Service: TypeAlias = Callable[[], Coroutine[Any, Any, None]]

_sniffio: Any
try:
    _sniffio = import_module("sniffio")
except ImportError:
    _sniffio = None  # then anyio asks asyncio

EXITS: Final = (KeyboardInterrupt, SystemExit)
"""The exceptions that end the whole program."""


class ServiceGroup:
    """
    Starts services in the task group of the bus; services that are started before it exists wait for it.

    A service calls functions of the application only where it catches ``BaseException`` and asks :meth:`contain`.

    Attributes:
        exit: what ended the program within a function of the application; it is raised out of the body of the bus.
        ended: called when all services have ended, with the bus.
    """

    def __init__(self) -> None:
        self.exit: BaseException | None = None
        self.ended: Signal[[]] = Signal()
        self._over = False
        self._group: TaskGroup | None = None
        self._body: TaskGroup | None = None
        self._host: asyncio.Task[Any] | None = None
        self._context = copy_context()
        self._library: str | None = None
        self._early: list[tuple[Service, Context | None]] = []

    def start(self, service: Service, context: Context | None = None, group: TaskGroup | None = None) -> None:
        """
        Start *service* in a task of its own, in a copy of *context*, or of that in which the bus was opened.

        It belongs to *group* if one is given. Once the services have ended, this does nothing.
        """
        if self._over:
            return
        group = group or self._group
        if group is None:
            self._early.append((service, context))
        else:
            context = (self._context if context is None else context).copy()  # an empty context is false
            if self._library is not None:  # else anyio finds no event loop if this is called in no task
                context.run(_sniffio.current_async_library_cvar.set, self._library)
            context.run(group.start_soon, self._run, service)

    async def run_in(self, group: TaskGroup, body: Service = anyio.sleep_forever) -> None:
        """Start waiting services, and all later ones, in *group*, while *body* runs; from then on start none."""
        self._group = group
        self._library = None if _sniffio is None else _sniffio.current_async_library()
        early, self._early = self._early, []
        for service, context in early:
            self.start(service, context)
        try:
            await body()
        finally:
            self._over = True

    def end(self) -> None:
        """Note that the services have ended."""
        self._over = True
        self.ended()

    def serve(self, body: TaskGroup) -> None:
        """Note that this task opens the bus, and that the cancellation of *body* ends it."""
        self._body = body
        self._host = _asyncio_task()
        self._context = copy_context()

    def cancelled(self) -> bool:
        """
        Return whether this task is cancelled together with the bus.

        It is if a cancel scope around it is cancelled, or if asyncio cancels the task that opened the bus as well, as
        ``asyncio.run`` does with all tasks in the end.
        """
        if anyio.current_effective_deadline() == -inf:
            return True
        task = _asyncio_task()
        return task is not None and task.cancelling() > 0 and self.host_cancelled()

    def host_cancelled(self) -> bool:
        """Return whether the task that opened the bus has ended or asyncio cancels it; on trio always true."""
        host = self._host
        return host is None or host.done() or host.cancelling() > 0

    def contain(self, name: str, error: BaseException) -> Exception:
        """
        Return the failure to report for *error*, which ended the application's function *name*.

        Whatever a function of the application raises, the tasks of the bus go on. ``KeyboardInterrupt`` and
        ``SystemExit`` end the bus, and come out of its body.

        Raises:
            BaseException: *error* itself, as the bus is cancelled.
        """
        if isinstance(error, Exception):
            return error
        if self.cancelled():
            raise error
        if (task := _asyncio_task()) is not None:
            while task.cancelling():  # the function cancelled the task that it runs in
                task.uncancel()
        group = error if isinstance(error, BaseExceptionGroup) else BaseExceptionGroup("", [error])
        if group.subgroup(EXITS) is not None:
            self.exit = self.exit or error
            if self._body is not None:
                self._body.cancel_scope.cancel()
        try:
            raise EventBusError(f"{name} ended with {type(error).__name__}") from error
        except EventBusError as failure:
            return failure

    async def _run(self, service: Service) -> None:
        await service()
        if (task := _asyncio_task()) is not None and task.cancelling():
            try:
                await checkpoint()  # else a cancellation that a function asked for at last would end the group
            except BaseException as error:
                self.contain("", error)


def _asyncio_task() -> asyncio.Task[Any] | None:
    """Return the current task of asyncio, or ``None`` on another event loop."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
