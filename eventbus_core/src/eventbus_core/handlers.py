"""Handlers: functions that are called for the events of a mailbox, one after the other."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from time import monotonic
from types import CoroutineType
from typing import Any, Final, TypeAlias

import anyio
import msgspec
from anyio.lowlevel import checkpoint

from eventbus_core.errors import EventBusError
from eventbus_core.event import Event
from eventbus_core.incoming import Ticket
from eventbus_core.log import get_logger
from eventbus_core.losses import LOSS, loss_of
from eventbus_core.mailbox import Mailbox
from eventbus_core.mailboxes import Mailboxes
from eventbus_core.options import Overflow

logger = get_logger("eventbus")

TURN: Final = 0.005
"""Seconds for which plain functions are called before others have a chance."""
EVENTS_PER_TURN: Final = 256
"""Events after which a function that is waited for gives others a chance."""
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
        until: when others are to have a chance again: what comes after that is handled in the next turn.
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
        self.until = 0.0
        self._attended = False
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
        if not self._attended:
            self._call_soon()

    def attend(self) -> None:
        """
        Go on with the turn, or begin one if the last is over: who fills mailboxes now calls :meth:`work` in the end.

        That saves the switch to another task, and finds the events in the cache of the processor.
        """
        self._attended = True
        if self.over():
            self.until = monotonic() + TURN

    def over(self) -> bool:
        """Return whether the turn is over: others are to have a chance."""
        return monotonic() >= self.until

    def work(self) -> None:
        """Call plain functions for what is in their mailboxes, as far as the turn goes, and for the rest soon."""
        while self._ready and not self.over():
            self._ready.popleft().take_turn()
        self._attended = False
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
            self.attend()
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
        "_begun",
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
        self._begun: tuple[Event | None, object] = None, None  # and what is to be awaited: it was not plain after all
        self._decoder = None if data is None else msgspec.msgpack.Decoder(data)
        self._more: anyio.Event | None = None
        called = function, type(function).__call__  # of an object that can be called, its method
        self._plain = not any(map(inspect.iscoroutinefunction, called))
        if self._plain:
            self.mailbox.at_once = self._handle_at_once
        self._running = False

    def take_turn(self) -> None:
        """Handle what is in the mailbox, as far as the turn goes."""
        mailbox, context = self.mailbox, self._context
        while (events := mailbox.take()) is not None:
            self._handle(events, mailbox.sender)
            if not self._plain:
                context.start(self._run)
                return
            if context.over():
                context.ready(self)
                return
        self._running = False
        context.retired(self)

    def _handle_at_once(self, events: list[Event], ticket: Ticket | None) -> int:
        """Handle *events* without a stay in the mailbox, as far as possible; see ``Mailbox.at_once``."""
        # What comes to one client is mostly a single event or a few: what it takes to queue them would cost more.
        mailbox, context = self.mailbox, self._context
        until = min(context.until, context.mailboxes.fresh_until)
        if self._running or mailbox.closed or mailbox.holds_back or monotonic() > until:
            return 0
        self._running = True
        handled = self._handle(events, None if ticket is None else ticket.node)
        if not self._plain:
            if not mailbox.closed:
                handled -= 1
                mailbox.occupy(events.pop(handled), ticket)
            context.start(self._run)
            return handled
        if mailbox.count:  # by the function itself, say in a task that began at once
            context.ready(self)
            return handled
        self._running = False
        context.retired(self)
        if handled == len(events):
            context.mailboxes.rest(mailbox)
        return handled

    def _handle(self, events: Iterable[Event], sender: str | None) -> int:
        """
        Call the function for *events* of *sender*, for at least one of them; return for how many.

        It ends with the events, the turn, or the mailbox, and with an event of which more is to be done in a task: then
        the function is not plain any more.
        """
        function, mailbox, until = self.function, self.mailbox, self._context.until
        prepare = self.before is not None or self._decoder is not None
        handled = 0
        for event in events:
            handled += 1
            try:
                done = event.expires is not None and mailbox.expired(event, sender)
                if not done and (prepare or event.type is LOSS):
                    done = not self._prepare(event)
                result = None if done else function(event)
            except Exception as error:
                self._failed(event, error)
            except anyio.get_cancelled_exc_class() as error:  # its own doing: nothing was awaited
                self._failed(event, _ended_itself(self.name, error))
            else:
                if result is not None and inspect.isawaitable(result):
                    self._plain, mailbox.at_once, self._begun = False, None, (event, result)
                    break
            if mailbox.closed or monotonic() > until:
                break
        return handled

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

    async def _run(self) -> None:
        """Handle events for ever, in a task of their own; first what remains to do of the one that was begun."""
        mailbox, function = self.mailbox, self.function
        event, result = self._begun
        self._begun = None, None
        handled = 0
        while True:
            if event is None:
                if mailbox.closed:
                    self._context.retired(self)
                    return
                event = mailbox.next()
                if event is None:
                    self._more = anyio.Event()
                    await self._more.wait()
                    continue
            try:
                if result is None and self._prepare(event):
                    result = function(event)
                if result.__class__ is CoroutineType or inspect.isawaitable(result):
                    await result
            except Exception as error:
                self._failed(event, error)
            except anyio.get_cancelled_exc_class() as error:
                if not self._context.is_open():  # the bus is cancelled, not what the function has brought upon itself
                    raise
                self._failed(event, _ended_itself(self.name, error))
            event = result = None
            handled += 1
            if handled % EVENTS_PER_TURN == 0:
                await checkpoint()

    def _prepare(self, event: Event) -> bool:
        """Do what comes before the function is called; return whether it is to be."""
        if event.type == LOSS and (loss := loss_of(event)) is not None:
            self._context.lost(self.name, loss)
            return False
        if self.before is not None:
            self.before()
        if self._decoder is not None:
            event.read(self._decoder)
        return True

    def _failed(self, event: Event, error: Exception) -> None:
        if self._context.may_log():
            extra = {"node": self._context.node, "handler": self.name, "event_type": event.type, "event_id": event.id}
            logger.error("handler %s raised for %r", self.name, event, exc_info=error, extra=extra)
        self._context.failed(event, error)


def _ended_itself(name: str, error: BaseException) -> EventBusError:
    return EventBusError(f"handler {name} ended with {type(error).__name__}")
