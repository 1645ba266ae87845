"""Hooks: functions of the application that the bus calls when something happens."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from typing import Any, Final, Generic, ParamSpec

import anyio

from eventbus_core.concurrency.notifier import Notifier
from eventbus_core.concurrency.service_group import ServiceGroup
from eventbus_core.concurrency.worker import Worker
from eventbus_core.model.event import Event
from eventbus_core.model.functions import check_function
from eventbus_core.model.reports import Dropped, Gap, Undeliverable
from eventbus_core.observability.log import LogLimit, get_logger

logger = get_logger("eventbus")

P = ParamSpec("P")
LOG_PERIOD: Final = 60.0
MAX_PENDING: Final = 100_000
"""More than the events that are reported at once in the worst case: those that waited for a node that hung."""


class HookRunner:
    """
    Calls hooks in a task of their own, in order, so that they delay nothing else.

    Each call runs in a copy of the context in which the hook was registered.

    Attributes:
        skipped: calls that were not made because ``MAX_PENDING`` others waited.
    """

    def __init__(self, node: str, services: ServiceGroup) -> None:
        self.skipped = 0
        self._node = node
        self._services = services
        self._log_limit = LogLimit(LOG_PERIOD)
        self._calls: deque[tuple[str, Context, Callable[..., Any], tuple[Any, ...]]] = deque()
        self._worker = Worker(services, self._run)
        self._idle = Notifier()

    def call(self, name: str, context: Context, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        """Call *function* soon, in a copy of *context*."""
        if len(self._calls) >= MAX_PENDING:
            self.skipped += 1
            if self._log_limit.allows():
                text = "node %s: skipped a call of hook %s, as %d other calls wait; hooks_skipped in stats() counts all"
                logger.warning(text, self._node, name, len(self._calls), extra={"node": self._node, "hook": name})
            return
        self._calls.append((name, context, function, args))
        self._worker.wake()

    async def settled(self) -> None:
        """Return once all calls have been made."""
        while self._calls:
            await self._idle.wait()

    async def _run(self) -> None:
        while self._calls:
            name, context, function, args = self._calls[0]
            context = context.copy()
            try:
                result = context.run(function, *args)
                if inspect.isawaitable(result):
                    async with anyio.create_task_group() as group:
                        context.run(group.start_soon, self._finish, name, result)
            except BaseException as error:
                self._failed(name, error)
            self._calls.popleft()
        self._idle.notify()

    async def _finish(self, name: str, result: Awaitable[object]) -> None:
        try:
            await result
        except BaseException as error:
            self._failed(name, error)

    def _failed(self, name: str, error: BaseException) -> None:
        failure = self._services.contain(f"hook {name}", error)
        logger.error("hook %s raised", name, exc_info=failure, extra={"node": self._node, "hook": name})


class Hook(Generic[P]):
    """
    A place to register functions, plain or async; also a decorator.

    They are called one after the other in a task of the bus; an exception is logged.
    """

    def __init__(self, name: str, runner: HookRunner) -> None:
        self._name = name
        self._runner = runner
        self._functions: list[tuple[Context, Callable[P, Awaitable[None] | None]]] = []

    def __call__(self, function: Callable[P, Awaitable[None] | None]) -> Callable[P, Awaitable[None] | None]:
        """Register *function* and return it."""
        self._functions.append((copy_context(), check_function(function)))
        return function

    def share(self, other: Hook[P]) -> None:
        """Call the functions that are registered at *other*, now or later."""
        self._functions = other._functions

    def emit(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Have every registered function called soon."""
        for context, function in self._functions:
            self._runner.call(self._name, context, function, args)


class Hooks:
    """The hooks that an application can register functions at; see :class:`Bus`."""

    def __init__(self, node: str, services: ServiceGroup) -> None:
        self.runner = HookRunner(node, services)
        self.on_error: Final[Hook[Event, Exception]] = Hook("on_error", self.runner)
        self.on_undeliverable: Final[Hook[Undeliverable]] = Hook("on_undeliverable", self.runner)
        self.on_gap: Final[Hook[Gap]] = Hook("on_gap", self.runner)
        self.on_dropped: Final[Hook[str, Dropped]] = Hook("on_dropped", self.runner)
        self.on_lease_lost: Final[Hook[[]]] = Hook("on_lease_lost", self.runner)
        self.on_disconnected: Final[Hook[str]] = Hook("on_disconnected", self.runner)
        self.on_reconnected: Final[Hook[[]]] = Hook("on_reconnected", self.runner)

    def share(self, other: Hooks) -> None:
        """Call the functions that are registered at the hooks of *other*, now or later."""
        self.on_error.share(other.on_error)
        self.on_undeliverable.share(other.on_undeliverable)
        self.on_gap.share(other.on_gap)
        self.on_dropped.share(other.on_dropped)
        self.on_lease_lost.share(other.on_lease_lost)
        self.on_disconnected.share(other.on_disconnected)
        self.on_reconnected.share(other.on_reconnected)
