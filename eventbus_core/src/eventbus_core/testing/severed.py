"""Buses whose line to the broker can be cut while they live on."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import attrs

from eventbus_core.bus import Bus
from eventbus_core.discovery import load_backend
from eventbus_core.errors import TransportUnavailable
from eventbus_core.options import BusOptions, option_names, parse_options
from eventbus_core.testing.hosts import fresh_namespace
from eventbus_core.testing.waiting import tasks
from eventbus_core.testing.wrapping import WrappedTransport, wrapped
from eventbus_core.transport import Claim, Directory, Frame, Interrupted, Node, Owner, Partition, Terms
from eventbus_core.uri import TransportURI


class Line:
    """The line of one node: calls over it fail while it is cut."""

    def __init__(self) -> None:
        self.cut = False

    def check(self) -> None:
        """
        Do nothing if the line holds.

        Raises:
            TransportUnavailable: it is cut.
        """
        if self.cut:
            raise TransportUnavailable("the test has cut the line")


class SeverableTransport(WrappedTransport):
    """
    Loses what arrives while its line is cut, and takes nothing.

    Arrivals come by way of :meth:`pump`, to be run in a task, so that it can say :class:`Interrupted`
    at once when the line is mended.
    """

    def __init__(self, uri: TransportURI, node: str) -> None:
        super().__init__(uri, node)
        self.line = Line()
        if self.directory is not None:
            self.directory = SeverableDirectory(self.directory, self.line)
        self._arrived: deque[Frame | Interrupted] = deque()
        self._arrival = anyio.Event()
        self._opened = anyio.Event()
        self._ended = False

    def sever(self) -> None:
        """Cut the line."""
        self.line.cut = True

    def mend(self) -> None:
        """Let the line hold again."""
        self.line.cut = False
        self._add(Interrupted("the test has mended the line"))

    async def pump(self) -> None:
        """Take in what arrives, until the transport is closed."""
        await self._opened.wait()
        async for item in self._inner.receive():
            if not self.line.cut:
                self._add(item)
        self._ended = True
        self._arrival.set()

    async def open(self) -> None:
        """See :class:`Transport`."""
        await super().open()
        self._opened.set()

    async def join(self, partitions: Sequence[Partition]) -> None:
        """See :class:`Transport`."""
        self.line.check()
        await super().join(partitions)

    async def publish(self, frames: Sequence[Frame]) -> Sequence[int] | None:
        """See :class:`Transport`."""
        self.line.check()
        return await super().publish(frames)

    async def receive(self) -> AsyncIterator[Frame | Interrupted]:
        """See :class:`Transport`."""
        while not self._ended:
            while self._arrived:
                yield self._arrived.popleft()
            self._arrival = anyio.Event()
            if not self._ended:
                await self._arrival.wait()

    def _add(self, item: Frame | Interrupted) -> None:
        self._arrived.append(item)
        self._arrival.set()


class SeverableDirectory(Directory):
    """Passes calls on while the line holds."""

    def __init__(self, inner: Directory, line: Line) -> None:
        self._inner = inner
        self._line = line

    async def enter(self, node: str, lease: float, terms: Terms) -> int:
        """See :class:`Directory`."""
        self._line.check()
        return await self._inner.enter(node, lease, terms)

    async def renew(self) -> bool:
        """See :class:`Directory`."""
        self._line.check()
        return await self._inner.renew()

    async def leave(self) -> None:
        """See :class:`Directory`."""
        self._line.check()
        await self._inner.leave()

    async def claim(self, clients: Sequence[str], takeover: bool) -> Sequence[Claim | Owner]:
        """See :class:`Directory`."""
        self._line.check()
        return await self._inner.claim(clients, takeover)

    async def release(self, claims: Sequence[Claim]) -> None:
        """See :class:`Directory`."""
        self._line.check()
        await self._inner.release(claims)

    async def locate(self, clients: Sequence[str]) -> Sequence[Owner | None]:
        """See :class:`Directory`."""
        self._line.check()
        return await self._inner.locate(clients)

    async def nodes(self) -> Sequence[Node]:
        """See :class:`Directory`."""
        self._line.check()
        return await self._inner.nodes()

    async def clients(self, node: str | None = None) -> AsyncIterator[str]:
        """See :class:`Directory`."""
        self._line.check()
        async for client in self._inner.clients(node):
            yield client


@attrs.frozen
class Severable:
    """A bus, and the transport on which its line can be cut."""

    bus: Bus
    transport: SeverableTransport


@asynccontextmanager
async def severable_buses(uri: str, count: int, *, lease: float) -> AsyncIterator[list[Severable]]:
    """Open *count* buses, ``n0``, ``n1``, ..., in a namespace of their own."""
    parsed = TransportURI.parse(uri)
    backend = wrapped(SeverableTransport, load_backend(parsed.scheme))
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
            opened.append(Severable(await stack.enter_async_context(bus), transport))
        yield opened
