"""A client that this node holds: sends in its own name, receives what is for it."""

from __future__ import annotations

from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

import anyio

from eventbus_core.errors import BusClosed, EventBusError, LimitExceeded
from eventbus_core.event import Event
from eventbus_core.handlers import Handler, HandlerFunction
from eventbus_core.holding import Holding
from eventbus_core.losses import LOSS, loss_of
from eventbus_core.mailbox import Mailbox
from eventbus_core.names import check_client, check_pattern
from eventbus_core.node import LocalNode
from eventbus_core.options import Overflow
from eventbus_core.sender import Headers


class Client:
    """
    The handle of a client; made by :meth:`Bus.client`, and an async context manager.

    Entering claims the client for this node: from then on its events come here, from wherever
    they are sent. Leaving releases it. Iterating yields its events in order; where events were
    lost, there comes one whose ``data`` is a :class:`Dropped` or a :class:`Gap`.

    Every method, and the iteration, raises :class:`ClientTakenOver` once the client has been
    claimed elsewhere, :class:`LimitExceeded` once it was closed since too much waited in it (see
    the option ``overflow``), and :class:`BusClosed` once the handle or the bus was closed.

    Attributes:
        name: of the client.
    """

    __slots__ = ("_entered", "_handler", "_holding", "_more", "_node", "_stopped", "_takeover", "name")

    def __init__(
        self,
        node: LocalNode,
        name: str,
        *,
        takeover: bool,
        linger: float,
        handler: HandlerFunction | None,
        overflow: Overflow | None,
    ) -> None:
        self.name = check_client(name)
        self._node = node
        self._takeover = takeover
        self._more: anyio.Event | None = None
        self._handler = None if handler is None else Handler(node.handler_context, name, handler, overflow=overflow)
        mailbox = Mailbox(node.mailboxes, self._wake, overflow) if self._handler is None else self._handler.mailbox
        self._holding = holding = Holding(name, mailbox, self._wake, linger)
        if mailbox.overflow == "close":
            mailbox.on_full = lambda: node.holdings.overflowed(holding)
        self._entered = self._stopped = False

    async def __aenter__(self) -> Self:
        """
        Claim the client.

        Raises:
            ClientAlreadyClaimed: another holds it, and the claim was made with ``takeover=False``.
            LimitExceeded: this node holds as many clients as it may.
            TransportUnavailable: the directory cannot be reached.
        """
        if self._entered or self._stopped:
            raise BusClosed(f"the handle of client {self.name!r} cannot be entered again; make another")
        await self._node.holdings.claim(self._holding, takeover=self._takeover)
        self._entered = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Release the client; does nothing on successive calls."""
        if self._stopped:
            return
        self._stopped = True
        await self._node.holdings.release(self._holding)

    @property
    def epoch(self) -> int:
        """
        The epoch of the claim; the largest epoch of a client owns it.

        0 while the bus is ``alone``: the client is held for the time being, and stays ours once this
        node has joined the others if none of them holds it; else the handle ends with :class:`ClientTakenOver`.
        """
        return self._holding.epoch

    async def send(
        self,
        target: str,
        type: str,
        data: object = None,
        *,
        headers: Headers | None = None,
        expires: float | None = None,
    ) -> None:
        """Do what :meth:`Bus.send` does, in the client's name."""
        wait = self._node.sender.send(self._source(), target, type, data, headers, expires)
        if wait is not None:
            await wait

    async def publish(self, topic: str, data: object = None, *, headers: Headers | None = None) -> None:
        """Do what :meth:`Bus.publish` does, in the client's name."""
        wait = self._node.sender.publish(self._source(), topic, data, headers)
        if wait is not None:
            await wait

    async def request(
        self,
        target: str,
        type: str,
        data: object = None,
        *,
        timeout: float = 5.0,
        headers: Headers | None = None,
    ) -> Event:
        """Do what :meth:`Bus.request` does, in the client's name."""
        return await self._node.sender.request(self._source(), target, type, data, timeout, headers)

    async def reply(self, request: Event, data: object = None, *, headers: Headers | None = None) -> None:
        """Do what :meth:`Bus.reply` does, in the client's name."""
        wait = self._node.sender.reply(self._source(), request, data, headers)
        if wait is not None:
            await wait

    async def subscribe(self, pattern: str) -> None:
        """
        Receive the topics that match *pattern*; returns once those published from now on will arrive.

        Does nothing if the client is subscribed to it already. An event that matches several
        patterns of the client comes once.

        Raises:
            InvalidName: *pattern* is none.
            LimitExceeded: the client or its node has as many patterns as it may.
        """
        self._source()
        patterns = self._holding.patterns = self._holding.patterns or {}
        limit = self._node.options.max_subscriptions
        if len(patterns) >= limit and pattern not in patterns:
            raise LimitExceeded(
                f"client {self.name!r} cannot subscribe to {pattern!r} too",
                *("max_subscriptions", limit),
                mend="unsubscribe from some, use wildcards, or raise it",
            )
        if self._node.subscriptions.subscribe(check_pattern(pattern), self._holding.mailbox):
            patterns[pattern] = 0
        waiting = patterns[pattern]
        if waiting is not None:
            patterns[pattern] = waiting + 1
        try:
            await self._node.joined(pattern)
        except BaseException:
            if waiting := patterns.get(pattern):
                patterns[pattern] = waiting - 1
                if waiting == 1:  # else somebody else still waits for it, or has it
                    self._unsubscribe(pattern)
            raise
        if pattern in patterns:
            patterns[pattern] = None

    async def unsubscribe(self, pattern: str) -> None:
        """Receive *pattern* no more; does nothing if the client is not subscribed to it."""
        self._source()
        self._unsubscribe(pattern)

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Coroutine[Any, Any, Event]:
        return self.receive()

    async def receive(self) -> Event:
        """
        Return the client's next event.

        Raises:
            EventBusError: the client has a handler, which takes its events.
        """
        if self._handler is not None:
            raise EventBusError(f"client {self.name!r} has a handler that takes its events; it cannot be iterated")
        while True:
            self._source()
            event = self._holding.mailbox.next()
            if event is not None:
                if event.type == LOSS and (loss := loss_of(event)) is not None:
                    self._node.lost(self.name, loss)
                return event
            if self._more is None:
                self._more = anyio.Event()
            await self._more.wait()

    def _source(self) -> str:
        """Return the name to send in, if the client is still ours."""
        if self._stopped or not self._entered:
            raise BusClosed(f"client {self.name!r} is not open: use it within 'async with bus.client(...)'")
        if self._holding.ended is not None:
            raise self._holding.ended.with_traceback(None)
        return self.name

    def _unsubscribe(self, pattern: str) -> None:
        if self._holding.patterns is not None:
            self._holding.patterns.pop(pattern, None)
        self._node.subscriptions.unsubscribe(pattern, self._holding.mailbox)

    def _wake(self) -> None:
        if self._more is not None:
            self._more.set()
            self._more = None
