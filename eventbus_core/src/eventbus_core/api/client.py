"""A client that this node holds: sends in its own name, receives what is for it."""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial
from types import TracebackType
from typing import Any, Self, overload

from eventbus_core.api.messaging import Messaging
from eventbus_core.concurrency.notifier import Notifier
from eventbus_core.errors import BusClosed, EventBusError, fresh_copy
from eventbus_core.history.stream_names import inbox_of, not_retained
from eventbus_core.mailbox.handler import Handler, HandlerFunction
from eventbus_core.mailbox.loss_markers import LOSS, loss_of
from eventbus_core.mailbox.mailbox import Mailbox
from eventbus_core.membership.held_client import HeldClient
from eventbus_core.model.event import Event
from eventbus_core.model.names import check_client, check_pattern
from eventbus_core.model.reports import Gap, Resumed
from eventbus_core.node.node import LocalNode
from eventbus_core.options import Overflow


class Client(Messaging):
    """
    The handle of a client; made by :meth:`Bus.client`, open within ``async with``, or from :meth:`open` to
    :meth:`aclose`.

    Opening claims the client for this node: from then on its events come here, from wherever
    they are sent. Closing releases it. Iterating yields its events in order; where events were
    lost, there comes one whose ``data`` is a :class:`Dropped` or a :class:`Gap`.

    Every method, and the iteration, raises :class:`ClientTakenOver` once the client has been
    claimed elsewhere, :class:`LimitExceeded` once it was closed since too much waited in it (see
    the option ``overflow``), and :class:`BusClosed` once the handle or the bus was closed.

    Attributes:
        name: of the client.
        resumed: if the handle was made with ``since``: what the client missed; set when it is opened.
    """

    __slots__ = (
        "_entered",
        "_handler",
        "_held",
        "_more",
        "_node",
        "_sender",
        "_since",
        "_stopped",
        "_takeover",
        "name",
        "resumed",
    )

    def __init__(
        self,
        node: LocalNode,
        name: str,
        *,
        takeover: bool,
        linger: float,
        handler: HandlerFunction | None,
        overflow: Overflow | None,
        since: str | None = None,
    ) -> None:
        self.name = check_client(name)
        self.resumed: Resumed | Gap | None = None
        self._since = since
        self._node = node
        self._sender = node.sender
        self._takeover = takeover
        self._more = Notifier()
        full = self._overflowed
        if handler is None:
            self._handler, mailbox = None, Mailbox(node.pool.limits, self._more.notify, overflow, on_full=full)
        else:
            self._handler = Handler(node.scheduler, name, handler, overflow=overflow, on_full=full)
            mailbox = self._handler.mailbox
        self._held = HeldClient(name, mailbox, self._more.notify, linger)
        self._entered = self._stopped = False

    async def open(self) -> Self:
        """
        Claim the client, as entering ``async with`` does; close with :meth:`aclose`. Any task may call either.

        Returns:
            The handle.

        Raises:
            ClientAlreadyClaimed: another holds it, and the claim was made with ``takeover=False``.
            LimitExceeded: this node holds as many clients as it may.
            TransportUnavailable: the directory cannot be reached; or, with ``since``, the history.
            OptionError: ``since`` is given, and the client is not retained.
        """
        if self._entered or self._stopped:
            raise BusClosed(f"the handle of client {self.name!r} cannot be entered again; make another")
        self._node.state.check_waiting()
        with self._node.deadlines.within(None):  # a claim that is not granted when the bus closes is given up
            await self._node.client_lifecycle.claim(self._held, takeover=self._takeover)
        self._entered = True
        try:
            await self._receive_retained()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Release the client; does nothing on successive calls."""
        if self._stopped:
            return
        self._node.state.check_place()
        self._stopped = True
        await self._node.client_lifecycle.release(self._held)

    async def ended(self) -> EventBusError:
        """
        Return why the handle has ended, once it has; for the holder of a client with a handler, which never receives.

        The reason is what every other method raises from then on: :class:`ClientTakenOver`, :class:`LimitExceeded`
        (see ``overflow``), or :class:`BusClosed`, of the bus or of :meth:`aclose`.

        Raises:
            BusClosed: the handle was never opened.
        """
        if not self._entered:
            self._check_held()
        while (reason := self._held.ended) is None:
            self._node.state.check_place()
            await self._more.wait()
        return fresh_copy(reason)

    @property
    def epoch(self) -> int:
        """
        The epoch of the claim; the largest epoch of a client owns it.

        0 while the bus is ``alone``: the client is held for the time being, and stays ours once this
        node has joined the others if none of them holds it; else the handle ends with :class:`ClientTakenOver`.
        """
        return self._held.epoch

    @overload
    async def subscribe(self, pattern: str, *, since: None = None) -> None: ...

    @overload
    async def subscribe(self, pattern: str, *, since: str) -> Resumed | Gap: ...

    async def subscribe(self, pattern: str, *, since: str | None = None) -> Resumed | Gap | None:
        """
        Receive the topics that match *pattern*; returns once those published from now on will arrive.

        Does nothing if the client is subscribed to it already. An event that matches several
        patterns of the client comes once.

        With *since*, *pattern* is one retained topic, and the client first gets what was published to it after that
        position, then what is published from now on: each event once, in the order of the topic's history. A position
        is the text of ``event.position`` or ``Resumed.position``, which an end client keeps; an empty text stands for
        now.

        Returns:
            Without *since* nothing. Else :class:`Resumed` if the client misses nothing; otherwise a :class:`Gap`, and
            the client gets what the history still has.

        Raises:
            InvalidName: *pattern* is none, or has a wildcard and *since* is given.
            LimitExceeded: the client or its node has as many patterns as it may.
            ConfigurationError: the broker refuses a lane of *pattern* until its configuration changes.
            TopicNotRetained: *since* is given, and the topic is not retained.
            EventBusError: *since* is given, and the client receives the topic already.
            TransportUnavailable: *since* is given, and the history cannot be read now.
        """
        if since is None:
            await self._subscribe(check_pattern(pattern))
            return None
        self._check_held()
        topics, known = self._node.topics(pattern), pattern in self._held.patterns
        try:
            return await topics.resume(pattern, since, self._held.mailbox, partial(self._subscribe, pattern))
        except BaseException:
            if not known:
                self._node.client_subscriptions.unsubscribe(self._held, pattern)
            raise

    async def _receive_retained(self) -> None:
        """Receive what is sent to the client, if it is retained: with ``since``, first what it missed."""
        node, mailbox = self._node, self._held.mailbox
        if self._since is None and node.options.retain_clients.of(self.name) is None:
            return
        subscribe = partial(self._subscribe, inbox_of(self.name))
        if self._since is None:
            await subscribe()
        elif node.history is None:
            raise not_retained(self.name)
        else:
            self.resumed = await node.history.topics.resume_inbox(self.name, self._since, mailbox, subscribe)

    async def _subscribe(self, pattern: str) -> None:
        self._node.state.check_place()
        self._check_held()
        await self._node.client_subscriptions.join(self._held, pattern)
        self._check_held()  # it may have ended meanwhile

    async def unsubscribe(self, pattern: str) -> None:
        """Receive *pattern* no more; does nothing if the client is not subscribed to it."""
        self._node.state.check_place()
        self._check_held()
        self._node.client_subscriptions.unsubscribe(self._held, pattern)

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Coroutine[Any, Any, Event]:
        return self.receive()

    async def receive(self) -> Event:
        """
        Return the client's next event; a call that is cancelled, by ``anyio.move_on_after`` say, takes none.

        Raises:
            EventBusError: the client has a handler, which takes its events.
        """
        if self._handler is not None:
            raise EventBusError(f"client {self.name!r} has a handler that takes its events; it cannot be iterated")
        self._node.state.check_thread()
        while True:
            self._check_held()
            event = self._held.mailbox.next()
            if event is not None:
                if event.reply_to is not None:
                    self._node.requests.taken.add(event, self._held.mailbox)
                if event.type == LOSS and (loss := loss_of(event)) is not None:
                    self._node.lost(self.name, loss)
                return event
            self._node.state.check_place()
            await self._more.wait()

    @property
    def _source(self) -> str:
        """The name to send in, if the client is still ours."""
        self._check_held()
        return self.name

    def _check_held(self) -> None:
        """Do nothing if the client is still ours."""
        if self._stopped or not self._entered:
            raise BusClosed(f"client {self.name!r} is not open: open it with 'async with bus.client(...)'")
        if self._held.ended is not None:
            raise fresh_copy(self._held.ended)

    def _overflowed(self) -> None:
        self._node.client_lifecycle.overflowed(self._held)

    def __repr__(self) -> str:
        return f"<Client {self.name!r} of node {self._node.id!r}>"
