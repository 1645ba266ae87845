"""Handlers: functions that are called for the events of a mailbox, one after the other."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeAlias

import anyio
import msgspec
from anyio.lowlevel import checkpoint

from eventbus_core.event import Event
from eventbus_core.losses import LOSS
from eventbus_core.mailbox import Mailbox, Mailboxes

logger = logging.getLogger("eventbus")

EVENTS_PER_TURN: Final = 256
HandlerFunction: TypeAlias = Callable[[Event], Awaitable[object] | object]


class HandlerContext:
    """
    What the handlers of a bus share.

    Attributes:
        mailboxes: of the node.
        start: starts a task of the bus.
        failed: called with the event and the exception when a handler raises.
        lost: called with the name of a handler and its :class:`Dropped` or :class:`Gap`.
    """

    def __init__(
        self,
        mailboxes: Mailboxes,
        start: Callable[[Callable[[], Coroutine[Any, Any, None]]], None],
        failed: Callable[[Event, Exception], None],
        lost: Callable[[str, Any], None],
    ) -> None:
        self.mailboxes = mailboxes
        self.start = start
        self.failed = failed
        self.lost = lost


class Handler:
    """
    A function with a mailbox and, from its first event on, a task.

    Events are handled in order, each after the one before has been; what the function raises is
    logged, counted and told to ``on_error``, and the next event is handled.

    Attributes:
        name: the pattern, or the client, that it handles.
        function: what is called.
        local: whether it handles only what this node itself sends.
        before: called before each call of the function.
        mailbox: where its events wait.
    """

    __slots__ = (
        "_busy",
        "_context",
        "_decoder",
        "_more",
        "_started",
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
    ) -> None:
        self.name = name
        self.function = function
        self.local = local
        self.before: Callable[[], None] | None = None
        self.mailbox = Mailbox(context.mailboxes, self._wake)
        self._context = context
        self._decoder = None if data is None else msgspec.msgpack.Decoder(data)
        self._more: anyio.Event | None = None
        self._started = False

    def _wake(self) -> None:
        if self._more is not None:
            self._more.set()
        elif not self._started and not self.mailbox.closed:
            self._started = True
            self._context.start(self._run)

    async def _run(self) -> None:
        mailbox = self.mailbox
        handled = 0
        while not mailbox.closed:
            event = mailbox.next()
            if event is None:
                self._more = anyio.Event()
                await self._more.wait()
                self._more = None
                continue
            await self._handle(event)
            handled += 1
            if handled % EVENTS_PER_TURN == 0:
                await checkpoint()

    async def _handle(self, event: Event) -> None:
        """Call the function; a plain one costs no wait."""
        if event.type == LOSS:
            self._context.lost(self.name, event.data)
            return
        if self.before is not None:
            self.before()
        try:
            if self._decoder is not None:
                event.read(self._decoder)
            result = self.function(event)
            if result is not None and inspect.isawaitable(result):
                await result
        except Exception as error:
            logger.exception("handler %s raised for %r", self.name, event)
            self._context.failed(event, error)
