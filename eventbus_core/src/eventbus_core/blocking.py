"""The bus for code without an event loop: each call waits until the asynchronous one behind it is done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any, Final, Generic, ParamSpec, Self, TypeVar

import anyio
import attrs
from anyio import to_thread
from anyio.from_thread import BlockingPortal, BlockingPortalProvider

from eventbus_core.bus import Bus
from eventbus_core.client import Client
from eventbus_core.connect import connect
from eventbus_core.errors import BusClosed, RequestTimeout
from eventbus_core.event import Event
from eventbus_core.explanation import Explanation
from eventbus_core.hooks import Hook
from eventbus_core.options import Overflow, check_seconds
from eventbus_core.sender import Headers
from eventbus_core.stats import Stats
from eventbus_core.transport import Node, Owner, Partition

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[[Event], object])

# One event loop for all of them, in a thread that lives while one is open.
_portals: Final = BlockingPortalProvider()


def connect_blocking(uri: str = "memory://", **options: object) -> BlockingBus:
    """Return a bus to be opened with ``with``; see :func:`connect`."""
    return BlockingBus(connect(uri, **options))


@attrs.frozen
class _InThread:
    """Calls *function*, which may block, in a worker thread; equal for equal functions."""

    function: Callable[..., object]

    async def __call__(self, *args: Any, **kwargs: Any) -> None:
        await to_thread.run_sync(partial(self.function, *args, **kwargs))


class BlockingHook(Generic[P]):
    """A place to register functions, which may block; also a decorator. See :class:`Hook`."""

    def __init__(self, hook: Hook[P]) -> None:
        self._hook = hook

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Register *function* and return it."""
        self._hook(_InThread(function))
        return function


class _Blocking:
    """What the bus and the handles of clients share: they are open within ``with``, and send."""

    def __init__(self, inner: Bus | Client) -> None:
        self._inner = inner
        self._stack = ExitStack()
        self._portal: BlockingPortal | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._portal = stack.enter_context(_portals)
            stack.enter_context(self._portal.wrap_async_context_manager(self._inner))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._stack.__exit__(kind, error, traceback)
        finally:
            self._portal = None  # not sooner: handlers may still have something to say

    def send(
        self,
        target: str,
        type: str,
        data: object = None,
        *,
        headers: Headers | None = None,
        expires: float | None = None,
    ) -> None:
        """Send to a client, or to a node."""
        self._call(self._inner.send, target, type, data, headers=headers, expires=expires)

    def publish(self, topic: str, data: object = None, *, headers: Headers | None = None) -> None:
        """Send to every subscriber of a topic."""
        self._call(self._inner.publish, topic, data, headers=headers)

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
        return self._call(self._inner.request, target, type, data, timeout=timeout, headers=headers)

    def reply(self, request: Event, data: object = None, *, headers: Headers | None = None) -> None:
        """Answer a request."""
        self._call(self._inner.reply, request, data, headers=headers)

    def _call(self, function: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs) -> R:
        if self._portal is None:
            raise BusClosed("it is not open: use it within 'with'")
        return self._portal.call(partial(function, *args, **kwargs))


class BlockingBus(_Blocking):
    """
    A :class:`Bus` whose methods block; made by :func:`connect_blocking`, safe to use from many threads.

    What its methods do and raise, and when its hooks are called, is what those of the same name
    say there. Handlers and hooks are plain functions that are called in worker threads, so that
    they may block, each for one event after the other.
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
    def state(self) -> str:
        """Whether the bus is open; see :attr:`Bus.state`."""
        return self._bus.state

    def client(
        self,
        name: str,
        *,
        takeover: bool = True,
        linger: float = 0.0,
        handler: Callable[[Event], object] | None = None,
        overflow: Overflow | None = None,
    ) -> BlockingClient:
        """Return a handle that holds the client *name* within ``with``; iterating waits for its events."""
        in_thread = None if handler is None else _InThread(handler)
        return BlockingClient(
            self._bus.client(name, takeover=takeover, linger=linger, handler=in_thread, overflow=overflow)
        )

    def broadcast(
        self, type: str, data: object = None, *, headers: Headers | None = None, include_self: bool = True
    ) -> None:
        """Send to the handlers of every node."""
        self._call(self._bus.broadcast, type, data, headers=headers, include_self=include_self)

    def emit(self, type: str, data: object = None, *, headers: Headers | None = None) -> None:
        """Hand to the handlers of this node alone."""
        self._call(self._bus.emit, type, data, headers=headers)

    def on(self, pattern: str, *, data: Any = None, local: bool = False) -> Callable[[F], F]:
        """Return a decorator that registers a handler, and waits until events of other nodes arrive for it."""
        return partial(self._register, self._bus.on(pattern, data=data, local=local))

    def once(self, pattern: str, *, data: Any = None, local: bool = False) -> Callable[[F], F]:
        """Do what :meth:`on` does, for the first event alone."""
        return partial(self._register, self._bus.once(pattern, data=data, local=local))

    def off(self, function: Callable[[Event], object]) -> None:
        """Undo every :meth:`on` and :meth:`once` of *function*."""

        async def remove() -> None:
            self._bus.off(_InThread(function))

        self._call(remove)

    def wait_for(
        self, pattern: str, *, match: Callable[[Event], bool] | None = None, timeout: float | None = None
    ) -> Event:
        """Return the next event that matches; *match* must not block."""
        return self._call(self._bus.wait_for, pattern, match=match, timeout=timeout)

    def locate(self, client: str) -> Owner | None:
        """Return the node that holds a client, or ``None``."""
        return self._call(self._bus.locate, client)

    def partition_of(self, topic: str) -> Partition:
        """Return the partition by which events of *topic* go to other nodes."""
        return self._bus.partition_of(topic)

    def explain(self, client: str) -> Explanation:
        """Return where a client is, and what this node believes."""
        return self._call(self._bus.explain, client)

    def nodes(self) -> list[Node]:
        """Return the live nodes of the namespace, by id."""
        return self._call(self._bus.nodes)

    def node_stats(self, node: str, *, timeout: float = 5.0) -> Stats:
        """Return what another node has counted so far."""
        return self._call(self._bus.node_stats, node, timeout=timeout)

    def clients(self, node: str | None = None, *, prefix: str = "") -> list[str]:
        """Return the names of all clients (of *node*) that begin with *prefix*."""

        async def collect() -> list[str]:
            return [client async for client in self._bus.clients(node, prefix=prefix)]

        return self._call(collect)

    def flush(self) -> None:
        """Wait until the broker has taken every event that was accepted before."""
        self._call(self._bus.flush)

    def stats(self) -> Stats:
        """Return what the bus has counted so far."""
        return self._bus.stats()

    def _register(self, add: Callable[[_InThread], object], function: F) -> F:
        async def register() -> None:
            add(_InThread(function))
            await self._bus.ready()

        self._call(register)
        return function


class BlockingClient(_Blocking):
    """A :class:`Client` whose methods block; what they do and raise is what those of the same name say there."""

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self._client = client
        self.name = client.name

    @property
    def epoch(self) -> int:
        """The epoch of the claim."""
        return self._client.epoch

    def receive(self, timeout: float | None = None) -> Event:
        """
        Return the client's next event.

        Raises:
            RequestTimeout: none came within *timeout* seconds.
            OptionError: *timeout* is no number of seconds.
        """
        check_seconds("timeout", timeout)

        async def wait() -> Event:
            with anyio.move_on_after(timeout):
                return await self._client.receive()
            raise RequestTimeout(f"an event for {self.name!r}", timeout or 0.0)

        return self._call(wait)

    def __iter__(self) -> Iterator[Event]:
        while True:
            yield self.receive()

    def subscribe(self, pattern: str) -> None:
        """Receive the topics that match."""
        self._call(self._client.subscribe, pattern)

    def unsubscribe(self, pattern: str) -> None:
        """Receive them no more."""
        self._call(self._client.unsubscribe, pattern)
