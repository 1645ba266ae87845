"""Buses whose link to the broker can be cut while they live on."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import attrs

from eventbus_core.api.bus import Bus
from eventbus_core.api.discovery import load_backend
from eventbus_core.backend import (
    Claim,
    Directory,
    Disconnected,
    Frame,
    Interrupted,
    Node,
    Owner,
    Partition,
    Terms,
    TransportURI,
)
from eventbus_core.errors import TransportUnavailable
from eventbus_core.options import BusOptions, option_names, parse_options
from eventbus_core.testing.hosts import fresh_namespace
from eventbus_core.testing.waiting import tasks
from eventbus_core.wrappers.base import WrappedTransport, wrapped


class Link:
    """The link of one node to the broker: calls over it fail while it is cut."""

    def __init__(self) -> None:
        self.is_cut = False

    def cut(self) -> None:
        """Have calls fail."""
        self.is_cut = True

    def restore(self) -> None:
        """Have calls work again."""
        self.is_cut = False

    def check(self) -> None:
        """
        Do nothing if the link works.

        Raises:
            TransportUnavailable: it is cut.
        """
        if self.is_cut:
            raise TransportUnavailable("the test has cut the link")


class CuttableTransport(WrappedTransport):
    """
    A transport whose link can be cut: meanwhile it loses incoming frames, and its calls fail.

    Run :meth:`pump` in a task: it takes in the frames, so that the transport can report :class:`Interrupted`
    as soon as the link is restored.
    """

    def __init__(self, uri: TransportURI, node: str) -> None:
        super().__init__(uri, node)
        self.link = Link()
        if self.directory is not None:
            self.directory = CuttableDirectory(self.directory, self.link)
        self._arrived: deque[Frame | Interrupted | Disconnected] = deque()
        self._arrival = anyio.Event()
        self._opened = anyio.Event()
        self._ended = False

    def cut(self) -> None:
        """Cut the link."""
        self.link.cut()

    def restore(self) -> None:
        """Restore the link."""
        self.link.restore()
        self._add(Interrupted("the test has restored the link"))

    async def pump(self) -> None:
        """Take in what arrives, until the transport is closed."""
        await self._opened.wait()
        async for item in self._inner.receive():
            if not self.link.is_cut:
                self._add(item)
        self._ended = True
        self._arrival.set()

    async def open(self) -> None:
        """See :class:`Transport`."""
        await super().open()
        self._opened.set()

    async def join(self, partitions: Sequence[Partition]) -> None:
        """See :class:`Transport`."""
        self.link.check()
        await super().join(partitions)

    async def publish(self, frames: Sequence[Frame]) -> Sequence[int] | None:
        """See :class:`Transport`."""
        self.link.check()
        return await super().publish(frames)

    async def receive(self) -> AsyncIterator[Frame | Interrupted | Disconnected]:
        """See :class:`Transport`."""
        while not self._ended:
            while self._arrived:
                yield self._arrived.popleft()
            self._arrival = anyio.Event()
            if not self._ended:
                await self._arrival.wait()

    def _add(self, item: Frame | Interrupted | Disconnected) -> None:
        self._arrived.append(item)
        self._arrival.set()


class CuttableDirectory(Directory):
    """Passes calls on while the link works."""

    def __init__(self, inner: Directory, link: Link) -> None:
        self._inner = inner
        self._link = link

    @property
    def last_loss(self) -> int | None:
        """See :class:`Directory`."""
        return self._inner.last_loss

    async def enter(self, node: str, lease: float, terms: Terms) -> int:
        """See :class:`Directory`."""
        self._link.check()
        return await self._inner.enter(node, lease, terms)

    async def renew(self) -> bool:
        """See :class:`Directory`."""
        self._link.check()
        return await self._inner.renew()

    async def leave(self) -> None:
        """See :class:`Directory`."""
        self._link.check()
        await self._inner.leave()

    async def claim(self, clients: Sequence[str], takeover: bool) -> Sequence[Claim | Owner]:
        """See :class:`Directory`."""
        self._link.check()
        return await self._inner.claim(clients, takeover)

    async def release(self, claims: Sequence[Claim]) -> None:
        """See :class:`Directory`."""
        self._link.check()
        await self._inner.release(claims)

    async def locate(self, clients: Sequence[str]) -> Sequence[Owner | None]:
        """See :class:`Directory`."""
        self._link.check()
        return await self._inner.locate(clients)

    async def nodes(self) -> Sequence[Node]:
        """See :class:`Directory`."""
        self._link.check()
        return await self._inner.nodes()

    async def clients(self, node: str | None = None) -> AsyncIterator[str]:
        """See :class:`Directory`."""
        self._link.check()
        async for client in self._inner.clients(node):
            yield client


@attrs.frozen
class CuttableNode:
    """A bus, and the transport on which its link can be cut."""

    bus: Bus
    transport: CuttableTransport


@asynccontextmanager
async def cuttable_buses(uri: str, count: int, *, lease: float) -> AsyncIterator[list[CuttableNode]]:
    """Open *count* buses, ``n0``, ``n1``, ..., in a namespace of their own."""
    parsed = TransportURI.parse(uri)
    backend = wrapped(CuttableTransport, load_backend(parsed.scheme))
    ours = {name: value for name, value in parsed.options.items() if name in option_names(BusOptions)}
    theirs = {name: value for name, value in parsed.options.items() if name not in ours}
    place = attrs.evolve(parsed, namespace=fresh_namespace(), options=theirs)
    async with tasks() as group, AsyncExitStack() as stack:
        opened = []
        for number in range(count):
            transport = backend(place, f"n{number}")
            group.start_soon(transport.pump)
            own = {"node": transport.node, "namespace": place.namespace, "lease": lease}
            bus = Bus(transport, parse_options(BusOptions, {**ours, **own}))
            opened.append(CuttableNode(await stack.enter_async_context(bus), transport))
        yield opened
