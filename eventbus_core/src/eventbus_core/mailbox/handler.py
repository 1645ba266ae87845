"""
One function of the application with its mailbox: it is called for the events there, one after the other.

A plain function is called in the turns of :class:`HandlerScheduler`, or at once if nothing precedes the event; one that
awaits has a task of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from contextvars import Context, copy_context
from time import monotonic
from types import CoroutineType
from typing import Any, Final, TypeAlias

from anyio.lowlevel import checkpoint

from eventbus_core.concurrency.notifier import Notifier
from eventbus_core.mailbox.call_context import differ
from eventbus_core.mailbox.handler_scheduler import HandlerScheduler
from eventbus_core.mailbox.loss_markers import LOSS, loss_of
from eventbus_core.mailbox.mailbox import Mailbox
from eventbus_core.model.decodable import decoder_into
from eventbus_core.model.event import Event
from eventbus_core.model.functions import check_function
from eventbus_core.options import Overflow
from eventbus_core.session.incoming import Ticket

EVENTS_PER_TURN: Final = 256
"""Events after which a function that is waited for gives others a chance."""
HandlerFunction: TypeAlias = Callable[[Event], Awaitable[object] | object]


class Handler:
    """
    A function with a mailbox.

    Events are handled in order, one after the other. An exception of the function is logged, counted and passed to
    ``on_error``; then the next event is handled. A function that awaits gets a task of its own with its first event,
    so that it delays no other handler. The function is called for each event in a copy of the context in which the
    handler was made; what it sets there reaches no other event.

    Attributes:
        name: the pattern, or the client, that it handles.
        function: what is called.
        local: whether it handles only what this node itself sends.
        mailbox: where its events wait.
    """

    __slots__ = (
        "_before",
        "_begun",
        "_context",
        "_data",
        "_decoder",
        "_more",
        "_plain",
        "_running",
        "_scheduler",
        "function",
        "local",
        "mailbox",
        "name",
    )

    def __init__(
        self,
        scheduler: HandlerScheduler,
        name: str,
        function: HandlerFunction,
        *,
        data: Any = None,
        local: bool = False,
        overflow: Overflow | None = None,
        on_full: Callable[[], None] | None = None,
        before: Callable[[Handler], None] | None = None,
    ) -> None:
        self.name = name
        self.function = check_function(function)
        self.local = local
        self._context = scheduler.present_context()
        self._before = before  # called with this handler before each call of the function
        self._scheduler = scheduler
        self._begun: tuple[Event | None, object] = None, None  # an event, and what to await: it was not plain after all
        self._data = data
        self._decoder = None if data is None else decoder_into(data)
        self._more = Notifier()
        called = function, type(function).__call__  # of an object that can be called, its method
        self._plain = not any(map(inspect.iscoroutinefunction, called))
        at_once = self._handle_at_once if self._plain else None
        self.mailbox = Mailbox(scheduler.limits, self._wake, overflow, on_full=on_full, at_once=at_once)
        self._running = False

    def renewed(self, scheduler: HandlerScheduler, before: Callable[[Handler], None]) -> Handler:
        """Return a handler of *scheduler* like this one, with *before* in the place of what was called before."""
        return Handler(
            scheduler,
            self.name,
            self.function,
            data=self._data,
            local=self.local,
            before=None if self._before is None else before,
        )

    def take_turn(self) -> None:
        """Handle what is in the mailbox, as far as the turn goes."""
        mailbox, scheduler = self.mailbox, self._scheduler
        while (events := mailbox.take()) is not None:
            context = self._context.copy()
            context.run(self._handle, events, mailbox.sender, context)
            if not self._plain:
                scheduler.start(self._run, context)
                return
            if scheduler.turn_over():
                scheduler.ready(self)
                return
        self._running = False
        scheduler.retired(self)

    def _handle_at_once(self, events: list[Event], ticket: Ticket | None) -> int:
        """Handle *events* without a stay in the mailbox, as far as possible; see ``Mailbox.at_once``."""
        # What comes to one client is mostly a single event or a few: what it takes to queue them would cost more.
        mailbox, scheduler = self.mailbox, self._scheduler
        limits, now = scheduler.limits, monotonic()
        if self._running or mailbox.holds_back or now > scheduler.until or now > limits.fresh_until:
            return 0
        self._running = True
        context = self._context.copy()
        handled = context.run(self._handle, events, None if ticket is None else ticket.node, context)
        if not self._plain:
            if not mailbox.closed:
                handled -= 1
                mailbox.occupy(events.pop(handled), ticket)
            scheduler.start(self._run, context)
            return handled
        if mailbox.count:  # by the function itself, say in a task that began at once
            scheduler.ready(self)
            return handled
        self._running = False
        if mailbox.closed:
            scheduler.retired(self)
        elif handled == len(events):
            limits.rest(mailbox)
        return handled

    def _handle(self, events: Iterable[Event], sender: str | None, context: Context) -> int:
        """
        Call the function for *events* of *sender*, for at least one of them; return for how many.

        It ends with the events, the turn, or the mailbox; once the function has set something in *context*, in which
        this runs; and with an event of which more is to be done in a task: then the function is not plain any more.
        """
        function, mailbox, until, fresh = self.function, self.mailbox, self._scheduler.until, self._context.made_in
        prepare = self._before is not None or self._decoder is not None
        handled = 0
        for event in events:
            handled += 1
            try:
                done = event.expires is not None and mailbox.expired(event, sender)
                if not done and (prepare or event.type is LOSS):
                    done = not self._prepare(event)
                if event.reply_to is not None and not done:
                    self._scheduler.on_request(event, mailbox)
                result = None if done else function(event)
                if result is not None and inspect.isawaitable(result):
                    self._plain, self._begun = False, (event, result)
                    mailbox.always_wait()
                    self._context.spoil()
                    break
            except BaseException as error:
                self._failed(event, error)
            try:
                if context != fresh:  # two contexts in which nothing was set since they were copied compare fast
                    self._context.spoil()
                    break
            except Exception:  # by values that cannot be compared: then it is another value
                self._context.spoil()
                break
            if mailbox.closed or monotonic() > until:
                break
        return handled

    def _wake(self) -> None:
        self._more.notify()
        if not self._running and not self.mailbox.closed:
            self._running = True
            if self._plain:
                self._scheduler.ready(self)
            else:
                self._scheduler.start(self._run, self._context.made_in)
        elif self._running and self.mailbox.closed:
            self._scheduler.retire(self)

    async def _run(self) -> None:
        """
        Handle events in a task of their own; first finish the one that was begun elsewhere.

        Once the function has set something in the context of the task, another task goes on.
        """
        mailbox, function = self.mailbox, self.function
        event, result = self._begun
        fresh = copy_context() if event is None else None  # what began elsewhere may have set something before
        self._begun = None, None
        handled = 0
        while True:
            if event is None:
                if mailbox.closed:
                    self._scheduler.retired(self)
                    return
                event = mailbox.next()
                if event is None:
                    try:
                        await self._more.wait()
                    except BaseException as error:  # by the function, which cancelled this task before it returned
                        self._scheduler.contain("", error)
                    continue
            try:
                if result is None and self._prepare(event):
                    if event.reply_to is not None:
                        self._scheduler.on_request(event, mailbox)
                    result = function(event)
                if result.__class__ is CoroutineType or inspect.isawaitable(result):
                    await result
            except BaseException as error:
                self._failed(event, error)
            event = result = None
            handled += 1
            if fresh is None or differ(copy_context(), fresh):
                self._scheduler.start(self._run, self._context.made_in)
                return
            if handled % EVENTS_PER_TURN == 0:
                await checkpoint()

    def _prepare(self, event: Event) -> bool:
        """Do what comes before the function is called; return whether it is to be."""
        if event.type == LOSS and (loss := loss_of(event)) is not None:
            self._scheduler.on_loss(self.name, loss)
            return False
        if self._before is not None:
            self._before(self)
        if self._decoder is not None:
            event.read(self._decoder)
        return True

    def _failed(self, event: Event, error: BaseException) -> None:
        try:
            failure = self._scheduler.contain(f"handler {self.name}", error)
        except BaseException:
            self._scheduler.on_interrupted(event, self.mailbox.sender)
            raise
        self._scheduler.failed(self.name, event, failure)
