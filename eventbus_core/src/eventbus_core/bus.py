"""The bus, as applications see it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Self, TypeVar

from eventbus_core.client import Client
from eventbus_core.errors import BusClosed, RequestTimeout
from eventbus_core.event import Event
from eventbus_core.explanation import Explanation
from eventbus_core.handlers import Handler, HandlerFunction
from eventbus_core.hooks import Hook
from eventbus_core.life import Life
from eventbus_core.losses import Dropped, Gap, Undeliverable
from eventbus_core.names import check_client, check_identifier, check_pattern, check_topic
from eventbus_core.node import LocalNode
from eventbus_core.options import BusOptions, Overflow, check_overflow, check_seconds
from eventbus_core.requests import Pending
from eventbus_core.sender import Headers
from eventbus_core.stats import Stats
from eventbus_core.topics import lane_of
from eventbus_core.transport import Node, Owner, Partition, Transport, lane_partition

F = TypeVar("F", bound=HandlerFunction)


class Bus:
    """
    The bus of one node; made by :func:`connect`, open within ``async with``.

    Methods that send return once the event is accepted: from then on it is handled by every
    receiver it is for, or its fate is reported. They wait while receivers or the broker take
    nothing, and raise :class:`TransportUnavailable` after ``send_timeout``; an event for which
    they raise was not accepted. All raise :class:`BusClosed` outside of ``async with``,
    :class:`InvalidName` for a name against the rules, :class:`EventDataError` for data that
    MessagePack cannot hold, and :class:`EventTooLarge` for too much of it.

    Attributes:
        on_error: hook ``(event, exception)``: a handler raised.
        on_undeliverable: hook ``(Undeliverable)``: an event accepted here will not be handled.
        on_gap: hook ``(Gap)``: events of another node were lost for good on the way here.
        on_dropped: hook ``(name, Dropped)``: a client or handler left too much waiting.
        on_lease_lost: hook ``()``: others could have claimed our clients; we have entered anew.
        on_disconnected: hook ``(reason)``: the broker takes nothing; events for other nodes wait.
            Or it was not there at the start, and this node is alone.
        on_reconnected: hook ``()``: it takes them again; a node that was alone has joined the others.
    """

    def __init__(self, transport: Transport, options: BusOptions) -> None:
        self._node = node = LocalNode(transport, options)
        self._sender = node.sender
        self._address = node.router.address
        self._life = Life(node).run()
        self._used = False
        self.on_error: Hook[Event, Exception] = node.on_error
        self.on_undeliverable: Hook[Undeliverable] = node.on_undeliverable
        self.on_gap: Hook[Gap] = node.on_gap
        self.on_dropped: Hook[str, Dropped] = node.on_dropped
        self.on_lease_lost: Hook[[]] = node.on_lease_lost
        self.on_disconnected: Hook[str] = node.on_disconnected
        self.on_reconnected: Hook[[]] = node.on_reconnected

    async def __aenter__(self) -> Self:
        """
        Join the namespace; when this returns, events of other nodes arrive.

        Raises:
            TransportUnavailable: the broker cannot be reached; with ``wait_for_broker=False`` the node is
                ``alone`` instead, and joins the others later. What it then finds raises out of the body:
            NodeAlreadyPresent: a live node has this id.
            NamespaceMismatch: the namespace was founded with other terms.
        """
        if self._used:
            raise BusClosed("a bus can be opened once; connect again for another")
        self._used = True
        await self._life.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """
        Let what was accepted be handled, for at most ``close_timeout``, and leave; clients are released.

        What the broker has not taken by then is counted, and told to ``on_undeliverable``: ``bus closed``.
        """
        await self._life.__aexit__(kind, error, traceback)

    def __repr__(self) -> str:
        return f"<Bus node={self.node!r} namespace={self.namespace!r} at {self._node.transport.uri}>"

    @property
    def node(self) -> str:
        """The id of this node."""
        return self._node.id

    @property
    def address(self) -> str:
        """The address of this node, ``@node``, as other nodes can send to it."""
        return self._address

    @property
    def state(self) -> str:
        """
        ``new``, ``open``, ``disconnected``, ``alone`` or ``closed``.

        When *disconnected* it is open, but the broker takes nothing. *Alone* it is open too, but the
        broker was not there at the start and ``wait_for_broker`` is off: it has not joined the others
        yet. Then sends, topics and broadcasts work within this node, and nothing of them is kept for
        others; what would ask about others raises :class:`TransportUnavailable`.
        """
        return self._node.state

    @property
    def namespace(self) -> str:
        """The namespace that this node is in."""
        return self._node.options.namespace

    def client(
        self,
        name: str,
        *,
        takeover: bool = True,
        linger: float = 0.0,
        handler: HandlerFunction | None = None,
        overflow: Overflow | None = None,
    ) -> Client:
        """
        Return a handle that holds the client *name* within ``async with``.

        Its events come by iterating, or one by one to *handler*. A client that another handle
        holds, on whatever node, is moved here, unless *takeover* is false. What is sent to it
        within *linger* seconds after the handle was left is kept (within the bounds of a mailbox),
        and goes in order to whoever claims the client by then; later it is reported to its senders.
        Topics are not kept. Until then the client counts as held.

        A client that lags and has more waiting than ``mailbox_events`` or ``mailbox_size`` loses the
        oldest events (*overflow* ``drop_oldest``) or those that come (``drop_newest``), and is told
        in their place; or its handle ends with :class:`LimitExceeded` (``close``): the client is released,
        and what waited is reported to its senders. If not given, the option of the bus counts.

        Raises:
            InvalidName: *name* is neither ``name`` nor ``tenant/name``.
            OptionError: *overflow* is none of these, or *linger* no number of seconds.
        """
        check_seconds("linger", linger)
        policy = check_overflow(overflow)
        return Client(self._node, name, takeover=takeover, linger=linger, handler=handler, overflow=policy)

    async def send(
        self,
        target: str,
        type: str,
        data: object = None,
        *,
        headers: Headers | None = None,
        expires: float | None = None,
    ) -> None:
        """
        Send to a client, or to a node by its address ``@node``.

        After *expires* seconds it is not handled any more but reported; the clocks of both hosts count.

        Raises:
            ClientNotFound: nobody owns the client, or the node is not on the bus.
        """
        wait = self._sender.send(self._address, target, type, data, headers, expires)
        if wait is not None:
            await wait

    async def publish(self, topic: str, data: object = None, *, headers: Headers | None = None) -> None:
        """Send to every subscriber of *topic*, handlers and clients, on every node; the topic is the event's type."""
        wait = self._sender.publish(self._address, topic, data, headers)
        if wait is not None:
            await wait

    async def broadcast(
        self, type: str, data: object = None, *, headers: Headers | None = None, include_self: bool = True
    ) -> None:
        """Send to the handlers of every node; of this one only with *include_self*."""
        wait = self._sender.broadcast(self._address, type, data, headers, include_self=include_self)
        if wait is not None:
            await wait

    async def emit(self, type: str, data: object = None, *, headers: Headers | None = None) -> None:
        """Hand to the handlers of this node alone; nothing leaves it."""
        wait = self._sender.emit(type, data, headers)
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
        """
        Send a request to a client or a node, and return the event that answers it.

        Raises:
            ClientNotFound: nobody owns the client, or the node is not on the bus.
            RequestTimeout: no answer came within *timeout* seconds.
            RequestFailed: none will come: the receiver is gone, or its handler raised.
            LimitExceeded: as many requests as may wait for their answers.
        """
        return await self._sender.request(self._address, target, type, data, timeout, headers)

    async def reply(self, request: Event, data: object = None, *, headers: Headers | None = None) -> None:
        """
        Answer *request*.

        Raises:
            EventBusError: it is no request.
            ClientNotFound: the node that asked is gone.
        """
        wait = self._sender.reply(self._address, request, data, headers)
        if wait is not None:
            await wait

    def on(self, pattern: str, *, data: Any = None, local: bool = False) -> Callable[[F], F]:
        """
        Return a decorator that registers a handler, a plain or an async function of one event.

        It gets the topics that match *pattern*, and events sent to this node or broadcast whose
        type does; in order, one after the other. What it raises is logged, counted and told to
        ``on_error``. To be sure that events of other nodes arrive, await :meth:`ready`.

        Args:
            pattern: a topic in which ``*`` stands for one token, and a last ``>`` for one or more.
            data: a type that the data must have, any that msgspec can decode; ``event.data`` is one.
            local: handle only what this node itself emits, publishes or broadcasts.

        Raises:
            InvalidName: *pattern* is none.
            LimitExceeded: this node has as many patterns as it may.
        """

        def register(function: F) -> F:
            self._node.add_handler(Handler(self._node.handler_context, pattern, function, data=data, local=local))
            return function

        check_pattern(pattern)
        return register

    def once(self, pattern: str, *, data: Any = None, local: bool = False) -> Callable[[F], F]:
        """Do what :meth:`on` does, for the first event alone."""
        check_pattern(pattern)

        def register(function: F) -> F:
            handler = Handler(self._node.handler_context, pattern, function, data=data, local=local)
            handler.before = lambda: self._node.remove_handler(handler)
            self._node.add_handler(handler)
            return function

        return register

    def off(self, function: HandlerFunction) -> None:
        """Undo every :meth:`on` and :meth:`once` of *function*; does nothing if there is none."""
        for handler in [handler for handler in self._node.handlers if handler.function == function]:
            self._node.remove_handler(handler)

    async def wait_for(
        self, pattern: str, *, match: Callable[[Event], bool] | None = None, timeout: float | None = None
    ) -> Event:
        """
        Return the next event that a handler of *pattern* would get and for which *match* is true.

        Raises:
            RequestTimeout: none came within *timeout* seconds.
            InvalidName: *pattern* is none.
        """
        pending = Pending()

        def settle(event: Event) -> None:
            try:
                if match is None or match(event):
                    pending.settle(event)
            except Exception as error:
                pending.settle(error)

        handler = Handler(self._node.handler_context, check_pattern(pattern), settle)
        self._sender.check_open()
        self._node.add_handler(handler)
        try:
            with self._node.waits.within(
                timeout, lambda: RequestTimeout(f"an event that matches {pattern!r}", timeout or 0.0)
            ):
                return await pending.wait()
        finally:
            self._node.remove_handler(handler)

    async def ready(self) -> None:
        """Return once the events of other nodes arrive for every handler and subscription made so far."""
        await self._node.joined()

    async def locate(self, client: str) -> Owner | None:
        """Return the node that holds *client*, by the directory's word, or ``None``."""
        check_client(client)
        self._sender.check_open()
        return await self._node.router.locate(client)

    async def nodes(self) -> list[Node]:
        """Return the live nodes of the namespace, by id."""
        self._sender.check_open()
        self._node.ownership.check_entered()
        return sorted(await self._node.directory.nodes(), key=lambda node: node.id)

    def partition_of(self, topic: str) -> Partition:
        """
        Return the partition, a lane, by which events of *topic* go to other nodes.

        Raises:
            InvalidName: *topic* is none.
        """
        return lane_partition(lane_of(check_topic(topic), self._node.options.lanes))

    async def explain(self, client: str) -> Explanation:
        """Return where *client* is by the directory's word, and what this node believes."""
        check_client(client)
        self._sender.check_open()
        return await self._node.explain(client)

    async def node_stats(self, node: str, *, timeout: float = 5.0) -> Stats:
        """
        Return what another *node* has counted so far.

        Raises:
            ClientNotFound: there is no such node.
            RequestTimeout: it did not answer in time.
        """
        return await self._node.node_stats(check_identifier("node", node), timeout)

    async def clients(self, node: str | None = None, *, prefix: str = "") -> AsyncIterator[str]:
        """
        Yield the names of all clients (of *node*) that begin with *prefix*, page by page.

        Who comes or goes meanwhile may be missed.
        """
        self._sender.check_open()
        self._node.ownership.check_entered()
        if node is not None:
            check_identifier("node", node)
        async for client in self._node.directory.clients(node):
            if client.startswith(prefix):
                yield client

    async def flush(self) -> None:
        """
        Wait until the broker has taken every event that was accepted before.

        Raises:
            TransportUnavailable: it has not within ``send_timeout``; the message says how many it has not.
        """
        await self._node.flush()

    def stats(self) -> Stats:
        """Return what the bus has counted so far."""
        return self._node.stats()
