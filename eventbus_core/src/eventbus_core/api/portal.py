"""The bus for code of other event loops and threads: every method can be awaited in each of them."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial, wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from anyio.lowlevel import checkpoint

from eventbus_core.api.client import Client
from eventbus_core.api.handling import Registration
from eventbus_core.api.open_bus import OpenBus
from eventbus_core.api.queue import Consumer, Queue
from eventbus_core.concurrency.loop_entry import LoopEntry
from eventbus_core.errors import BusClosed, EventBusError
from eventbus_core.mailbox.handler import EVENTS_PER_TURN, HandlerFunction
from eventbus_core.model.event import Event
from eventbus_core.options import Overflow
from eventbus_core.routing.sender import Headers, Sent

P = ParamSpec("P")
R = TypeVar("R")


def carried(
    function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[_Ported, P], Coroutine[Any, Any, R]]:
    """Return a method that has *function*, a method of the twin, run in the event loop of the bus."""

    @wraps(function)
    async def call(self: _Ported, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._entry.run(partial(function, self._inner, *args, **kwargs))

    return call


class _Ported:
    """A twin of *inner*, whose methods run in the event loop of its bus."""

    _inner: OpenBus | Client | Queue | Consumer

    @property
    def _entry(self) -> LoopEntry:
        return self._inner._node.entry

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._inner!r}>"


class _Sending(_Ported):
    """What the bus and the handles of clients share."""

    def __init__(self, inner: OpenBus | Client) -> None:
        self._inner: OpenBus | Client = inner

    async def send(
        self,
        target: str,
        type: str,
        data: object = None,
        *,
        headers: Headers | None = None,
        expires: float | None = None,
        timeout: float | None = None,
    ) -> str:
        """Send to a client or a node; see :meth:`Bus.send`."""
        inner = self._inner

        def send() -> Sent:
            return inner._sender.send(inner._source, target, type, data, headers, expires, timeout)

        return await self._entry.run_at_once(send)

    async def publish(
        self,
        topic: str | Sequence[str],
        data: object = None,
        *,
        headers: Headers | None = None,
        expires: float | None = None,
        timeout: float | None = None,
        durable: bool = False,
    ) -> str:
        """Send to every subscriber of *topic*; see :meth:`Bus.publish`."""
        inner = self._inner

        def publish() -> Sent:
            if durable:
                return inner._sender.publish_durably(inner._source, topic, data, headers, timeout, expires)
            return inner._sender.publish(inner._source, topic, data, headers, timeout, expires)

        return await self._entry.run_at_once(publish)

    request = carried(OpenBus.request)
    reply = carried(OpenBus.reply)


class _Receiving(_Ported):
    """What the handles of clients and consumers share."""

    _inner: Client | Consumer

    async def open(self) -> Self:
        """Do what entering ``async with`` does; close with :meth:`aclose`."""
        await self._entry.run(self._inner.open, lambda _: self.aclose())
        return self

    async def aclose(self) -> None:
        """Do what leaving ``async with`` does; does nothing on successive calls."""
        with suppress(BusClosed):  # that ended it
            await self._entry.run(self._inner.aclose)

    async def ended(self) -> EventBusError:
        """Return why the handle has ended, once it has; see :meth:`Client.ended`."""
        try:
            return await self._entry.run(self._inner.ended)
        except BusClosed as closed:
            if self._inner._node.state.leaving:
                return closed
            raise

    async def receive(self) -> Event:
        """Return the next event; one that comes when the call is cancelled is returned by another call."""
        event = None if self._inner._node.state.forked else self._take_now()
        return await self._entry.run(self._inner.receive, self._keep) if event is None else event

    def _take_now(self) -> Event | None:
        """Return an event that came already, if any."""
        raise NotImplementedError

    async def _keep(self, event: Event) -> None:
        """Have another call return *event*, which came when its receiver had just been cancelled."""
        raise NotImplementedError

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        return await self.receive()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(BusClosed):
            await self._entry.run(partial(self._inner.__aexit__, kind, error, traceback))


class Portal(_Sending):
    """
    A :class:`Bus` for every event loop and thread of the process; made by :meth:`Bus.portal`.

    Its methods do and raise what those of the same name do there. Each call runs in the event loop of the bus, which
    must not be blocked meanwhile, in a copy of the caller's context; a cancellation reaches it. A call from that event
    loop itself runs at once. Handlers run in the event loop of the bus. The bus is opened and closed by its owner: once
    it is closed, calls raise :class:`BusClosed`.
    """

    def __init__(self, bus: OpenBus) -> None:
        super().__init__(bus)
        self._bus = bus

    @property
    def node(self) -> str:
        """The id of the node."""
        return self._bus.node

    @property
    def address(self) -> str:
        """The address of the node, ``@node``."""
        return self._bus.address

    @property
    def namespace(self) -> str:
        """The namespace that the node is in."""
        return self._bus.namespace

    @property
    def max_event_size(self) -> int:
        """The bytes that the data and headers of an event may take; see :attr:`Bus.max_event_size`."""
        return self._bus.max_event_size

    @property
    def state(self) -> str:
        """Whether the bus is open; see :attr:`Bus.state`."""
        return self._bus.state

    subscribe = carried(OpenBus.subscribe)
    unsubscribe = carried(OpenBus.unsubscribe)
    broadcast = carried(OpenBus.broadcast)
    emit = carried(OpenBus.emit)
    flush = carried(OpenBus.flush)
    drain = carried(OpenBus.drain)
    drained = carried(OpenBus.drained)
    drain_node = carried(OpenBus.drain_node)
    wait_for = carried(OpenBus.wait_for)
    ready = carried(OpenBus.ready)
    locate = carried(OpenBus.locate)
    explain = carried(OpenBus.explain)
    nodes = carried(OpenBus.nodes)
    node_stats = carried(OpenBus.node_stats)
    history = carried(OpenBus.history)

    async def clients(self, node: str | None = None, *, prefix: str = "") -> AsyncIterator[str]:
        """Yield the names of all clients (of *node*) that begin with *prefix*."""

        async def collect() -> list[str]:
            return [client async for client in self._bus.clients(node, prefix=prefix)]

        for client in await self._entry.run(collect):
            yield client

    def client(
        self,
        name: str,
        *,
        takeover: bool = True,
        linger: float = 0.0,
        handler: HandlerFunction | None = None,
        overflow: Overflow | None = None,
        since: str | None = None,
    ) -> PortalClient:
        """Return a handle that holds the client *name*, for every event loop and thread; see :meth:`Bus.client`."""
        made = partial(
            self._bus.client, takeover=takeover, linger=linger, handler=handler, overflow=overflow, since=since
        )
        return PortalClient(made(name))

    def queue(self, name: str) -> PortalQueue:
        """Return the queue *name*, for every event loop and thread; see :meth:`Bus.queue`."""
        return PortalQueue(self._bus.queue(name))

    async def on(
        self, pattern: str, function: HandlerFunction, *, data: Any = None, local: bool = False
    ) -> PortalRegistration:
        """Register *function*, which is called in the event loop of the bus; return once events of others arrive."""
        return await self._register(lambda: self._bus.on(pattern, function, data=data, local=local))

    async def once(
        self, pattern: str, function: HandlerFunction, *, data: Any = None, local: bool = False
    ) -> PortalRegistration:
        """Do what :meth:`on` does, for the first event alone."""
        return await self._register(lambda: self._bus.once(pattern, function, data=data, local=local))

    async def _register(self, add: Callable[[], Registration]) -> PortalRegistration:
        async def register() -> Registration:
            return await add().__aenter__()

        async def undo(registration: Registration) -> None:
            await PortalRegistration(registration, self._entry).off()

        return PortalRegistration(await self._entry.run(register, undo), self._entry)


class PortalRegistration:
    """A :class:`Registration` for every event loop and thread; leaving ``async with`` takes the handler off."""

    def __init__(self, registration: Registration, entry: LoopEntry) -> None:
        self.pattern = registration.pattern
        self._registration = registration
        self._entry = entry

    async def off(self) -> None:
        """Do what :meth:`Registration.off` does."""

        async def remove() -> None:
            self._registration.off()

        with suppress(BusClosed):  # that took it off
            await self._entry.run(remove)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.off()


class PortalClient(_Receiving, _Sending):
    """A :class:`Client` for every event loop and thread; its methods do and raise what those of the same name do."""

    _inner: Client

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self.name = client.name
        self._client = client
        self._late: deque[Event] = deque()

    @property
    def epoch(self) -> int:
        """The epoch of the claim."""
        return self._client.epoch

    def _take_now(self) -> Event | None:
        return self._late.popleft() if self._late else None

    async def _keep(self, event: Event) -> None:
        self._late.append(event)

    subscribe = carried(Client.subscribe)
    unsubscribe = carried(Client.unsubscribe)


class PortalQueue(_Ported):
    """A :class:`Queue` for every event loop and thread; its methods do and raise what those of the same name do."""

    def __init__(self, queue: Queue) -> None:
        self._inner: Queue = queue
        self.name = queue.name

    async def send(
        self,
        type: str,
        data: object = None,
        *,
        headers: Headers | None = None,
        expires: float | None = None,
        timeout: float | None = None,
    ) -> str:
        """Send an event to one consumer; see :meth:`Queue.send`."""
        return await self._entry.run_at_once(partial(self._inner._send, type, data, headers, expires, timeout))

    @property
    def waiting(self) -> int:
        """How many events no consumer is known to have handled; see :attr:`Queue.waiting`."""
        return self._inner.waiting

    def consume(self, function: HandlerFunction | None = None, *, concurrency: int = 1) -> PortalConsumer:
        """Return a consumer that calls *function* in the event loop of the bus; see :meth:`Queue.consume`."""
        return PortalConsumer(self._inner.consume(function, concurrency=concurrency))


class PortalConsumer(_Receiving):
    """A :class:`Consumer` for every event loop and thread; its methods do and raise what those of the same name do."""

    def __init__(self, consumer: Consumer) -> None:
        self._inner: Consumer = consumer
        self._calls = 0
        self.name = consumer.name

    async def receive(self) -> Event:
        """Return the next event; one that comes when the call is cancelled is returned by another call."""
        self._calls += 1
        if self._calls % EVENTS_PER_TURN == 0:
            await checkpoint()  # the bus, in another thread, may take events ahead as fast as they are received here
        return await super().receive()

    def _take_now(self) -> Event | None:
        return self._inner._take_now()

    async def _keep(self, event: Event) -> None:
        with suppress(BusClosed):  # else a call that waits gets it now
            await self._entry.run_at_once(partial(self._inner._take_back, event))
