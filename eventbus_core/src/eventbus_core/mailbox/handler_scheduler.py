"""
When functions of the application are called: plain ones in turns, between which other tasks run.

Here are the turn, the handlers that are ready for it, and the tasks of functions that await. How a function is called
for an event is in ``handler.py``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from time import monotonic
from typing import Final, Protocol

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from eventbus_core.concurrency.notifier import Notifier
from eventbus_core.concurrency.service_group import Service, ServiceGroup
from eventbus_core.concurrency.worker import Worker
from eventbus_core.mailbox.call_context import CallContext
from eventbus_core.mailbox.limits import MailboxLimits
from eventbus_core.mailbox.mailbox import Mailbox
from eventbus_core.model.event import Event
from eventbus_core.model.reports import Dropped, Gap
from eventbus_core.observability.log import LogLimit, get_logger

logger = get_logger("eventbus")

TURN: Final = 0.005
"""Seconds for which plain functions are called before others have a chance."""
LOG_FAILURES_EVERY: Final = 1.0


class ScheduledHandler(Protocol):
    """What the scheduler needs of a handler."""

    def take_turn(self) -> None:
        """Handle what is in the mailbox, as far as the turn goes."""


class HandlerScheduler:
    """
    Calls the plain functions of a bus: in the task that fills their mailboxes while its turn lasts, else in its own.

    Attributes:
        node: its id.
        limits: of the mailboxes.
        until: when the turn ends: what comes after that is handled in the next one, so that other tasks can run.
        failures: how often a handler raised.
    """

    def __init__(
        self,
        node: str,
        limits: MailboxLimits[Mailbox],
        services: ServiceGroup,
        on_failure: Callable[[Event, Exception], None],
        on_loss: Callable[[str, Dropped | Gap], None],
        on_request: Callable[[Event, Mailbox], None],
        on_interrupted: Callable[[Event, str | None], None],
    ) -> None:
        self.node = node
        self.limits = limits
        self.until, self.failures = 0.0, 0
        self.contain = services.contain
        self.on_loss = on_loss
        self.on_request = on_request
        self.on_interrupted = on_interrupted
        self._services = services
        self._group: TaskGroup | None = None
        self._early: list[tuple[Service, Context]] = []
        self._worker = Worker(services, self._run)
        self._interrupted = False
        self._ended = Notifier()
        self._on_failure = on_failure
        self._context = CallContext(copy_context())  # in which the last handler was made
        self._in_turn = False
        self._ready: deque[ScheduledHandler] = deque()
        self._retiring: set[ScheduledHandler] = set()
        self._retired = Notifier()
        self._more = Notifier()
        self._log = LogLimit(LOG_FAILURES_EVERY)

    def present_context(self) -> CallContext:
        """Return the context of the caller; those who call this in the same one get the same object."""
        present, last = copy_context(), self._context  # handles of clients may be made in any thread
        if not last.holds(present):
            self._context = last = CallContext(present)
        return last

    async def _run(self) -> None:
        """Call plain functions, giving other tasks a chance between turns, until :meth:`interrupt` is called."""
        if self._interrupted:
            return
        try:
            async with anyio.create_task_group() as self._group:
                early, self._early = self._early, []
                for service, context in early:
                    self.start(service, context)
                while True:
                    if not self._ready:
                        await self._more.wait()
                    self.begin_turn()
                    self.run_ready()
                    if self._ready:
                        await checkpoint()
        finally:
            self._group = None
            self._ended.notify()

    async def interrupt(self) -> None:
        """Cancel the handlers at work and call none any more; ``on_interrupted`` gets the events they worked on."""
        self._interrupted = True
        if self._group is not None:
            self._group.cancel_scope.cancel()
            await self._ended.wait()

    def start(self, service: Service, context: Context) -> None:
        """Start *service*, which calls a function of the application, in a task of its own."""
        if self._group is None:
            self._early.append((service, context))
            self._worker.wake()
        else:
            self._services.start(service, context, self._group)

    def failed(self, name: str, event: Event, error: Exception) -> None:
        """Count and report that the handler *name* raised *error* for *event*; one failure a second is logged."""
        if self._log.allows():
            extra = {"node": self.node, "handler": name, "event_type": event.type, "event_id": event.id}
            logger.error("handler %s raised for %r", name, event, exc_info=error, extra=extra)
        self.failures += 1
        self._on_failure(event, error)

    def ready(self, handler: ScheduledHandler) -> None:
        """Have the plain function of *handler* called soon for what is in its mailbox."""
        self._ready.append(handler)
        if not self._in_turn:
            self._run_soon()

    def begin_turn(self) -> None:
        """
        Go on with the turn, or begin one if the last has ended; the caller then fills mailboxes and calls run_ready.

        That saves the switch to another task, and finds the events in the processor's cache.
        """
        self._in_turn = True
        if (now := monotonic()) >= self.until:
            self.until = now + TURN

    def turn_over(self) -> bool:
        """Return whether the turn has ended, so that other tasks must get a chance to run."""
        return monotonic() >= self.until

    def run_ready(self) -> None:
        """Call plain functions for what is in their mailboxes until the turn ends, and for the rest soon."""
        while self._ready and not self.turn_over():
            self._ready.popleft().take_turn()
        self._in_turn = False
        if self._ready:
            self._run_soon()

    def _run_soon(self) -> None:
        self._worker.wake()
        self._more.notify()

    def retire(self, handler: ScheduledHandler) -> None:
        """Note that *handler*, which gets no more events, still works on one."""
        self._retiring.add(handler)

    def retired(self, handler: ScheduledHandler) -> None:
        """Note that *handler* is done for good; does nothing on successive calls."""
        if handler in self._retiring:
            self._retiring.remove(handler)
            self._retired.notify()

    async def settled(self) -> None:
        """Return once every handler that was taken off has finished its event."""
        while self._retiring:
            await self._retired.wait()
