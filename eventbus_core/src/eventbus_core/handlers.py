"""Handlers: functions that are called for the events of a mailbox, one after the other."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Final, TypeAlias

import anyio
import msgspec
from anyio.lowlevel import checkpoint

from eventbus_core.errors import EventBusError
from eventbus_core.event import Event
from eventbus_core.log import get_logger
from eventbus_core.losses import LOSS, loss_of
from eventbus_core.mailbox import Mailbox
from eventbus_core.mailboxes import Mailboxes
from eventbus_core.options import Overflow

logger = get_logger("eventbus")

EVENTS_PER_TURN: Final = 256
LOG_EVERY: Final = 1.0
HandlerFunction: TypeAlias = Callable[[Event], Awaitable[object] | object]


class HandlerContext:
    """
    What the handlers of a bus share: the task that calls plain functions, where the reader of frames does not.

    Attributes:
        node: its id.
        mailboxes: of the node.
        start: starts a task of the bus.
        failed: called with the event and the exception when a handler raises.
        lost: called with the name of a handler and its :class:`Dropped` or :class:`Gap`.
        is_open: returns whether the bus is open.
        attended: whether whoever fills mailboxes now calls :meth:`work` in the end.
    """

    def __init__(
        self,
        node: str,
        mailboxes: Mailboxes,
        start: Callable[[Callable[[], Coroutine[Any, Any, None]]], None],
        failed: Callable[[Event, Exception], None],
        lost: Callable[[str, Any], None],
        is_open: Callable[[], bool],
    ) -> None:
        self.node = node
        self.mailboxes = mailboxes
        self.start = start
        self.failed = failed
        self.lost = lost
        self.is_open = is_open
        self.attended = False
        self._ready: deque[Handler] = deque()
        self._retiring: set[Handler] = set()
        self._retired = anyio.Event()
        self._more: anyio.Event | None = None
        self._started = False
        self._logged_at = 0.0

    def may_log(self) -> bool:
        """Return whether it is time for another log entry: a failure a second is told in full, all are counted."""
        now = self.mailboxes.now
        if now - self._logged_at < LOG_EVERY:
            return False
        self._logged_at = now
        return True

    def ready(self, handler: Handler) -> None:
        """Have the plain function of *handler* called soon for what is in its mailbox."""
        self._ready.append(handler)
        if not self.attended:
            self._call_soon()

    def work(self) -> None:
        """
        Call plain functions for what is in their mailboxes now, ``EVENTS_PER_TURN`` times at the most, the rest soon.

        Who fills mailboxes from within a task of the bus saves the switch to another, and finds the events in the
        cache of the processor.
        """
        left = EVENTS_PER_TURN
        while self._ready and left > 0:
            left -= self._ready.popleft().take_turn(left)
        if self._ready:
            self._call_soon()

    def _call_soon(self) -> None:
        if self._more is not None:
            self._more.set()
            self._more = None
        elif not self._started:
            self._started = True
            self.start(self._run)

    def retire(self, handler: Handler) -> None:
        """Take note that *handler*, which gets nothing more, is still at work on an event."""
        self._retiring.add(handler)

    def retired(self, handler: Handler) -> None:
        """Take note that *handler* is done for good; does nothing on successive calls."""
        if handler in self._retiring:
            self._retiring.remove(handler)
            self._retired.set()

    async def settled(self) -> None:
        """Return once no handler that was taken off is at work any more."""
        while self._retiring:
            self._retired = anyio.Event()
            await self._retired.wait()

    async def _run(self) -> None:
        """Call plain functions for ever, with a chance for others in between."""
        while True:
            if not self._ready:
                self._more = anyio.Event()
                await self._more.wait()
            self.work()
            if self._ready:
                await checkpoint()


class Handler:
    """
    A function with a mailbox.

    Events are handled in order, each after the one before has been; what the function raises is
    logged, counted and told to ``on_error``, and the next event is handled. A function that waits
    gets a task of its own with its first event, so that it holds up no other.

    Attributes:
        name: the pattern, or the client, that it handles.
        function: what is called.
        local: whether it handles only what this node itself sends.
        before: called before each call of the function.
        mailbox: where its events wait.
    """

    __slots__ = (
        "_context",
        "_decoder",
        "_more",
        "_plain",
        "_running",
        "before",
        "function",
        "local",
        "mailbox",
        "name",
    )

    def __init__(
        self,
        context: HandlerContext,
        name: str,
        function: HandlerFunction,
        *,
        data: Any = None,
        local: bool = False,
        overflow: Overflow | None = None,
    ) -> None:
        self.name = name
        self.function = function
        self.local = local
        self.before: Callable[[], None] | None = None
        self.mailbox = Mailbox(context.mailboxes, self._wake, overflow)
        self._context = context
        self._decoder = None if data is None else msgspec.msgpack.Decoder(data)
        self._more: anyio.Event | None = None
        self._plain = not inspect.iscoroutinefunction(function)
        self._running = False

    def take_turn(self, most: int) -> int:
        """Handle what is in the mailbox, *most* events at the most; return how many."""
        for count in range(most):
            event = self.mailbox.next()
            if event is None:
                self._running = False
                self._context.retired(self)
                return count + 1
            result = self._call(event)
            if result is not None:  # it is not plain after all
                self._plain = False
                self._context.start(partial(self._run, event, result))
                return count + 1
        self._context.ready(self)
        return most

    def _wake(self) -> None:
        if self._more is not None:
            self._more.set()
            self._more = None
        elif not self._running and not self.mailbox.closed:
            self._running = True
            if self._plain:
                self._context.ready(self)
            else:
                self._context.start(self._run)
        elif self._running and self.mailbox.closed:
            self._context.retire(self)

    async def _run(self, event: Event | None = None, result: Awaitable[object] | None = None) -> None:
        """Handle events for ever, in a task of their own; *result* is what remains to do of *event*."""
        mailbox = self.mailbox
        handled = 0
        while True:
            if event is not None and result is not None:
                try:
                    await result
                except Exception as error:
                    self._failed(event, error)
                except anyio.get_cancelled_exc_class() as error:
                    self._cancelled(event, error)
            if mailbox.closed:
                self._context.retired(self)
                return
            event = mailbox.next()
            if event is None:
                self._more = anyio.Event()
                await self._more.wait()
                continue
            result = self._call(event)
            handled += 1
            if handled % EVENTS_PER_TURN == 0:
                await checkpoint()

    def _call(self, event: Event) -> Awaitable[object] | None:
        """Call the function; return what is still to be awaited, if anything."""
        if event.type == LOSS and (loss := loss_of(event)) is not None:
            self._context.lost(self.name, loss)
            return None
        if self.before is not None:
            self.before()
        try:
            if self._decoder is not None:
                event.read(self._decoder)
            function = self.function
            result = function(event)
        except Exception as error:
            self._failed(event, error)
            return None
        except anyio.get_cancelled_exc_class() as error:  # its own doing: nothing was awaited
            self._failed(event, EventBusError(f"handler {self.name} ended with {type(error).__name__}"))
            return None
        return result if result is not None and inspect.isawaitable(result) else None

    def _cancelled(self, event: Event, error: BaseException) -> None:
        """Tell a cancellation of the bus, which goes on, from one that the function has brought upon itself."""
        if not self._context.is_open():
            raise error
        self._failed(event, EventBusError(f"handler {self.name} ended with {type(error).__name__}"))

    def _failed(self, event: Event, error: Exception) -> None:
        if self._context.may_log():
            extra = {"node": self._context.node, "handler": self.name, "event_type": event.type, "event_id": event.id}
            logger.error("handler %s raised for %r", self.name, event, exc_info=error, extra=extra)
        self._context.failed(event, error)
