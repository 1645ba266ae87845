"""The bus for code without an event loop: each call waits until the asynchronous one behind it is done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

import anyio
from anyio import to_thread
from anyio.from_thread import BlockingPortal, BlockingPortalProvider

from eventbus_core.bus import Bus
from eventbus_core.client import Client
from eventbus_core.connect import connect
from eventbus_core.errors import BusClosed, RequestTimeout
from eventbus_core.event import Event
from eventbus_core.node import Headers
from eventbus_core.stats import Stats
from eventbus_core.transport import Node, Owner

P = ParamSpec("P")
R = TypeVar("R")

# One event loop for all of them, in a thread that lives while one is open.
_portals = BlockingPortalProvider()


def connect_blocking(uri: str = "memory://", **options: object) -> BlockingBus:
    """Return a bus to be opened with ``with``; see :func:`connect`."""
    return BlockingBus(connect(uri, **options))


class _Blocking:
    """Runs the calls of an asynchronous context manager in the common event loop."""

    def __init__(self, manager: Bus | Client) -> None:
        self._manager = manager
        self._stack = ExitStack()
        self._portal: BlockingPortal | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._portal = stack.enter_context(_portals)
            stack.enter_context(self._portal.wrap_async_context_manager(self._manager))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def _call(self, function: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs) -> R:
        if self._portal is None:
            raise BusClosed("it is not open: use it within 'with'")
        return self._portal.call(partial(function, *args, **kwargs))


class BlockingBus(_Blocking):
    """
    A :class:`Bus` whose methods block; made by :func:`connect_blocking`, safe to use from many threads.

    What its methods do and raise is what those of the same name do there. Handlers are called in
    worker threads, so that they may block, one event after the other.
    """

    def __init__(self, bus: Bus) -> None:
        super().__init__(bus)
        self._bus = bus
        self._wrapped: dict[Callable[[Event], object], Callable[[Event], Awaitable[object]]] = {}

    @property
    def node(self) -> str:
        """The id of this node."""
        return self._bus.node

    def client(self, name: str, *, takeover: bool = True) -> BlockingClient:
        """Return a handle that holds the client *name* within ``with``; iterating waits for its events."""
        return BlockingClient(self._bus.client(name, takeover=takeover))

    def send(self, target: str, type: str, data: object = None, *, headers: Headers | None = None) -> None:
        """Send to a client, or to a node."""
        self._call(self._bus.send, target, type, data, headers=headers)

    def publish(self, topic: str, data: object = None, *, headers: Headers | None = None) -> None:
        """Send to every subscriber of a topic."""
        self._call(self._bus.publish, topic, data, headers=headers)

    def broadcast(
        self, type: str, data: object = None, *, headers: Headers | None = None, include_self: bool = True
    ) -> None:
        """Send to the handlers of every node."""
        self._call(self._bus.broadcast, type, data, headers=headers, include_self=include_self)

    def emit(self, type: str, data: object = None, *, headers: Headers | None = None) -> None:
        """Hand to the handlers of this node alone."""
        self._call(self._bus.emit, type, data, headers=headers)

    def request(
        self,
        target: str,
        type: str,
        data: object = None,
        *,
        timeout: float = 5.0,
        headers: Headers | None = None,
    ) -> Event:
        """Send a request, and return the event that answers it."""
        return self._call(self._bus.request, target, type, data, timeout=timeout, headers=headers)

    def reply(self, request: Event, data: object = None, *, headers: Headers | None = None) -> None:
        """Answer a request."""
        self._call(self._bus.reply, request, data, headers=headers)

    def on(
        self, pattern: str, *, data: Any = None, local: bool = False
    ) -> Callable[[Callable[[Event], R]], Callable[[Event], R]]:
        """Return a decorator that registers a handler, and waits until events of other nodes arrive for it."""

        def register(function: Callable[[Event], R]) -> Callable[[Event], R]:
            async def add() -> None:
                self._bus.on(pattern, data=data, local=local)(in_thread)
                await self._bus.ready()

            async def in_thread(event: Event) -> object:
                return await to_thread.run_sync(function, event)

            self._call(add)
            self._wrapped[function] = in_thread
            return function

        return register

    def off(self, function: Callable[[Event], object]) -> None:
        """Undo :meth:`on`."""

        async def remove() -> None:
            if wrapped := self._wrapped.pop(function, None):
                self._bus.off(wrapped)

        self._call(remove)

    def wait_for(
        self, pattern: str, *, match: Callable[[Event], bool] | None = None, timeout: float | None = None
    ) -> Event:
        """Return the next event that matches; *match* must not block."""
        return self._call(self._bus.wait_for, pattern, match=match, timeout=timeout)

    def locate(self, client: str) -> Owner | None:
        """Return the node that holds a client, or ``None``."""
        return self._call(self._bus.locate, client)

    def nodes(self) -> list[Node]:
        """Return the live nodes of the namespace, by id."""
        return self._call(self._bus.nodes)

    def clients(self, node: str | None = None) -> list[str]:
        """Return the names of all claimed clients (of *node*)."""

        async def collect() -> list[str]:
            return [client async for client in self._bus.clients(node)]

        return self._call(collect)

    def flush(self) -> None:
        """Wait until the broker has taken every event that was accepted before."""
        self._call(self._bus.flush)

    def stats(self) -> Stats:
        """Return what the bus has counted so far."""
        return self._bus.stats()


class BlockingClient(_Blocking):
    """A :class:`Client` whose methods block; what they do and raise is what those of the same name do there."""

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self._client = client
        self.name = client.name

    def receive(self, timeout: float | None = None) -> Event:
        """
        Return the client's next event.

        Raises:
            RequestTimeout: none came within *timeout* seconds.
        """

        async def wait() -> Event:
            with anyio.move_on_after(timeout):
                return await self._client.receive()
            raise RequestTimeout(f"an event for {self.name!r}", timeout or 0.0)

        return self._call(wait)

    def __iter__(self) -> Iterator[Event]:
        while True:
            yield self.receive()

    def send(self, target: str, type: str, data: object = None, *, headers: Headers | None = None) -> None:
        """Send to a client or a node, in the client's name."""
        self._call(self._client.send, target, type, data, headers=headers)

    def publish(self, topic: str, data: object = None, *, headers: Headers | None = None) -> None:
        """Publish to a topic, in the client's name."""
        self._call(self._client.publish, topic, data, headers=headers)

    def request(
        self,
        target: str,
        type: str,
        data: object = None,
        *,
        timeout: float = 5.0,
        headers: Headers | None = None,
    ) -> Event:
        """Send a request in the client's name, and return the event that answers it."""
        return self._call(self._client.request, target, type, data, timeout=timeout, headers=headers)

    def reply(self, request: Event, data: object = None, *, headers: Headers | None = None) -> None:
        """Answer a request, in the client's name."""
        self._call(self._client.reply, request, data, headers=headers)

    def subscribe(self, pattern: str) -> None:
        """Receive the topics that match."""
        self._call(self._client.subscribe, pattern)

    def unsubscribe(self, pattern: str) -> None:
        """Receive them no more."""
        self._call(self._client.unsubscribe, pattern)
