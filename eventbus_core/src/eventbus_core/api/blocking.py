"""The bus for code without an event loop: each call waits until the asynchronous one behind it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Generic, ParamSpec, Self, TypeVar, Unpack

import anyio

from eventbus_core.api.blocking_call import Blocking, InThread, in_thread, waits
from eventbus_core.api.bus import Bus
from eventbus_core.api.client import Client
from eventbus_core.api.connect import connect
from eventbus_core.api.connect_options import ConnectOptions
from eventbus_core.api.handling import Registration
from eventbus_core.api.open_bus import OpenBus
from eventbus_core.api.portal import Portal
from eventbus_core.api.queue import Consumer, Queue
from eventbus_core.api.registering import registers
from eventbus_core.backend import Partition
from eventbus_core.errors import RequestTimeout
from eventbus_core.mailbox.handler import HandlerFunction
from eventbus_core.model.event import Event
from eventbus_core.node.hooks import Hook
from eventbus_core.observability.stats import Stats
from eventbus_core.options import Overflow, check_seconds
from eventbus_core.routing.sender import Headers

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[[Event], object])


def connect_blocking(uri: str = "memory://", **options: Unpack[ConnectOptions]) -> BlockingBus:
    """Return a bus to be opened with ``with``; see :func:`connect`."""
    return BlockingBus(connect(uri, **options))


class BlockingHook(Generic[P]):
    """A place to register functions, which may block; also a decorator. See :class:`Hook`."""

    def __init__(self, hook: Hook[P]) -> None:
        self._hook = hook

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Register *function* and return it."""
        self._hook(in_thread(function))
        return function


class _Sending(Blocking):
    """What the bus and the handles of clients share."""

    send = waits(OpenBus.send)
    publish = waits(OpenBus.publish)
    request = waits(OpenBus.request)
    reply = waits(OpenBus.reply)


class BlockingBus(_Sending):
    """
    A :class:`Bus` whose methods block; made by :func:`connect_blocking`, safe to use from many threads.

    What its methods do and raise, and when its hooks are called, is what those of the same name
    say there. Handlers and hooks are plain functions that are called in worker threads, so that
    they may block, each for one event after the other. Closing does not wait for a handler beyond
    ``close_timeout``: its thread is left, and ends with the interpreter.
    """

    def __init__(self, bus: Bus) -> None:
        super().__init__(bus)
        self._bus = bus
        self.on_error = BlockingHook(bus.on_error)
        self.on_undeliverable = BlockingHook(bus.on_undeliverable)
        self.on_gap = BlockingHook(bus.on_gap)
        self.on_dropped = BlockingHook(bus.on_dropped)
        self.on_lease_lost = BlockingHook(bus.on_lease_lost)
        self.on_disconnected = BlockingHook(bus.on_disconnected)
        self.on_reconnected = BlockingHook(bus.on_reconnected)

    @property
    def node(self) -> str:
        """The id of this node."""
        return self._bus.node

    @property
    def address(self) -> str:
        """The address of this node, ``@node``."""
        return self._bus.address

    @property
    def namespace(self) -> str:
        """The namespace that this node is in."""
        return self._bus.namespace

    @property
    def max_event_size(self) -> int:
        """The bytes that the data and headers of an event may take; see :attr:`Bus.max_event_size`."""
        return self._bus.max_event_size

    @property
    def state(self) -> str:
        """Whether the bus is open; see :attr:`Bus.state`."""
        return self._bus.state

    def portal(self) -> Portal:
        """
        Return this bus for any event loop: its methods can be awaited there.

        So a bus that :meth:`open` opened once in the process serves every event loop in it.
        """
        return Portal(self._bus)

    def client(
        self,
        name: str,
        *,
        takeover: bool = True,
        linger: float = 0.0,
        handler: Callable[[Event], object] | None = None,
        overflow: Overflow | None = None,
        since: str | None = None,
    ) -> BlockingClient:
        """Return a handle that holds the client *name* within ``with``; iterating waits for its events."""
        called = None if handler is None else in_thread(handler)
        return BlockingClient(
            self._bus.client(name, takeover=takeover, linger=linger, handler=called, overflow=overflow, since=since)
        )

    def queue(self, name: str) -> BlockingQueue:
        """Return the queue *name*; see :meth:`Bus.queue`."""
        return BlockingQueue(self, self._bus.queue(name))

    subscribe = waits(OpenBus.subscribe)
    unsubscribe = waits(OpenBus.unsubscribe)
    broadcast = waits(OpenBus.broadcast)
    emit = waits(OpenBus.emit)
    flush = waits(OpenBus.flush)
    drain = waits(OpenBus.drain)
    drained = waits(OpenBus.drained)
    drain_node = waits(OpenBus.drain_node)

    wait_for = waits(OpenBus.wait_for)
    locate = waits(OpenBus.locate)
    explain = waits(OpenBus.explain)
    nodes = waits(OpenBus.nodes)
    node_stats = waits(OpenBus.node_stats)
    history = waits(OpenBus.history)

    @registers(lambda: BlockingRegistration)
    def on(
        self,
        pattern: str,
        function: Callable[[Event], object] | None = None,
        *,
        data: Any = None,
        local: bool = False,
    ) -> Callable[[F], F] | BlockingRegistration:
        """Do what :meth:`Bus.on` does, and wait until events of other nodes arrive for the handler."""
        return self._registering(self._bus.on, function, pattern, data=data, local=local)

    @registers(lambda: BlockingRegistration)
    def once(
        self,
        pattern: str,
        function: Callable[[Event], object] | None = None,
        *,
        data: Any = None,
        local: bool = False,
    ) -> Callable[[F], F] | BlockingRegistration:
        """Do what :meth:`on` does, for the first event alone."""
        return self._registering(self._bus.once, function, pattern, data=data, local=local)

    def _registering(
        self, add: Callable[..., Any], function: Callable[[Event], object] | None, pattern: str, **options: Any
    ) -> Callable[[F], F] | BlockingRegistration:
        if function is None:
            add(pattern, **options)  # raises before the decorator is applied
            return partial(self._decorate, partial(add, pattern, **options))
        return self._register(partial(add, pattern, **options), function)

    def _decorate(self, add: Callable[[HandlerFunction], Registration], function: F) -> F:
        self._register(add, function)
        return function

    def _register(
        self, add: Callable[[HandlerFunction], Registration], function: Callable[[Event], object]
    ) -> BlockingRegistration:
        handler = in_thread(function)

        async def register() -> Registration:
            return await add(handler).__aenter__()

        return BlockingRegistration(self, self._call(register))

    def off(self, function: Callable[[Event], object]) -> None:
        """Undo every :meth:`on` and :meth:`once` of *function*."""

        async def remove() -> None:
            self._bus.off(InThread(function))

        self._call(remove)

    def partition_of(self, topic: str) -> Partition:
        """Return the partition by which events of *topic* go to other nodes."""
        return self._bus.partition_of(topic)

    def clients(self, node: str | None = None, *, prefix: str = "") -> list[str]:
        """Return the names of all clients (of *node*) that begin with *prefix*."""

        async def collect() -> list[str]:
            return [client async for client in self._bus.clients(node, prefix=prefix)]

        return self._call(collect)

    def stats(self) -> Stats:
        """Return what the bus has counted so far."""
        return self._bus.stats()


class BlockingRegistration:
    """A :class:`Registration` whose methods block; leaving ``with`` takes the handler off."""

    def __init__(self, bus: BlockingBus, registration: Registration) -> None:
        self.pattern = registration.pattern
        self._bus = bus
        self._registration = registration

    def off(self) -> None:
        """Do what :meth:`Registration.off` does."""

        async def remove() -> None:
            self._registration.off()

        self._bus._call(remove)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.off()


class _Receiving(Blocking):
    """What the handles of clients and consumers share."""

    _inner: Client | Consumer

    def receive(self, timeout: float | None = None) -> Event:
        """
        Return the next event.

        Raises:
            RequestTimeout: none came within *timeout* seconds.
            OptionError: *timeout* is no number of seconds.
        """
        check_seconds("timeout", timeout)

        async def wait() -> Event:
            with anyio.move_on_after(timeout):
                return await self._inner.receive()
            raise RequestTimeout(f"an event for {self._inner.name!r}", timeout or 0.0)

        return self._call(wait)

    def __iter__(self) -> Iterator[Event]:
        while True:
            yield self.receive()


class BlockingClient(_Receiving, _Sending):
    """A :class:`Client` whose methods block; what they do and raise is what those of the same name say there."""

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self._client = client
        self.name = client.name

    @property
    def epoch(self) -> int:
        """The epoch of the claim."""
        return self._client.epoch

    ended = waits(Client.ended)
    subscribe = waits(Client.subscribe)
    unsubscribe = waits(Client.unsubscribe)


class BlockingQueue:
    """A :class:`Queue` whose methods block; what they do and raise is what those of the same name say there."""

    def __init__(self, bus: BlockingBus, queue: Queue) -> None:
        self.name = queue.name
        self._bus = bus
        self._queue = queue

    def send(
        self,
        type: str,
        data: object = None,
        *,
        headers: Headers | None = None,
        expires: float | None = None,
        timeout: float | None = None,
    ) -> str:
        """Send an event to one consumer."""
        return self._bus._call(partial(self._queue.send, type, data, headers=headers, expires=expires, timeout=timeout))

    @property
    def waiting(self) -> int:
        """How many events no consumer is known to have handled; see :attr:`Queue.waiting`."""
        return self._queue.waiting

    def consume(self, function: Callable[[Event], object] | None = None, *, concurrency: int = 1) -> BlockingConsumer:
        """Return a consumer that calls *function* in worker threads within ``with``; see :meth:`Queue.consume`."""
        called = None if function is None else in_thread(function)
        return BlockingConsumer(self._queue.consume(called, concurrency=concurrency))

    def __repr__(self) -> str:
        return f"<BlockingQueue {self.name!r} of node {self._bus.node!r}>"


class BlockingConsumer(_Receiving):
    """A :class:`Consumer`; open within ``with``, or from :meth:`open` to :meth:`close`."""

    def __init__(self, consumer: Consumer) -> None:
        super().__init__(consumer)
        self.name = consumer.name
