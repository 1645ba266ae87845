"""Transports in use, without a bus on top of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import attrs
import pytest

from eventbus_core.discovery import load_backend
from eventbus_core.options import option_names
from eventbus_core.testing.hosts import fresh_namespace
from eventbus_core.testing.waiting import tasks, within_deadline
from eventbus_core.transport import Directory, Frame, Partition, Terms, Transport
from eventbus_core.uri import TransportURI

TERMS = Terms(wire_version=1, lanes=64)


class Party:
    """
    A node that has a transport and nothing else.

    Attributes:
        transport: open, unless the test has closed it.
        received: the frames that came.
        interruptions: how often the transport said that frames may have been lost.
        ended: set when ``receive`` has ended.
    """

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.received: list[Frame] = []
        self.interruptions = 0
        self.ended = anyio.Event()
        self._grew = anyio.Event()

    @property
    def directory(self) -> Directory:
        """The directory; a test that asks for it is skipped if the backend has none."""
        if self.transport.directory is None:
            pytest.skip("the backend has no directory")
        return self.transport.directory

    async def enter(self, lease: float = 60.0) -> int:
        """Enter the namespace with the terms of all parties."""
        return await self.directory.enter(self.transport.node, lease, TERMS)

    async def join(self, *partitions: Partition) -> None:
        """Join *partitions*."""
        await self.transport.join(partitions)

    async def publish(self, partition: Partition, *data: bytes) -> Sequence[int] | None:
        """Publish a frame of each *data* to *partition*, in one write."""
        return await self.transport.publish([Frame(partition, each) for each in data])

    def of(self, partition: Partition) -> list[bytes]:
        """Return what came from *partition* so far."""
        return [bytes(frame.data) for frame in self.received if frame.partition == partition]

    async def got(self, partition: Partition, *data: bytes) -> None:
        """Return once each *data* came from *partition*; fail if it does not by the deadline."""
        with within_deadline(f"{self.transport.node} received the frames published to {partition!r}"):
            while missing := set(data).difference(self.of(partition)):
                await self._grew.wait()
        assert not missing

    async def run(self) -> None:
        """Receive until the transport is closed."""
        async for item in self.transport.receive():
            if isinstance(item, Frame):
                self.received.append(item)
            else:
                self.interruptions += 1
            self._grew.set()
            self._grew = anyio.Event()
        self.ended.set()


def transport_at(uri: str, node: str, namespace: str) -> Transport:
    """Return a transport of *node* that is not open; options of the bus in *uri* are not for it."""
    place = TransportURI.parse(uri)
    backend = load_backend(place.scheme)
    known = option_names(backend.Options)
    options = {name: value for name, value in place.options.items() if name in known}
    return backend(attrs.evolve(place, namespace=namespace, options=options), node)


@asynccontextmanager
async def parties(uri: str, *nodes: str, namespace: str = "", receiving: bool = True) -> AsyncIterator[Sequence[Party]]:
    """Open a transport for each of *nodes*, ``n0`` and ``n1`` if none is named, in a fresh namespace if none is."""
    space = namespace or fresh_namespace()
    async with tasks() as group, AsyncExitStack() as stack:
        opened = []
        for node in nodes or ("n0", "n1"):
            party = Party(await stack.enter_async_context(transport_at(uri, node, space)))
            opened.append(party)
            if receiving:
                group.start_soon(party.run)
        yield opened


def numbered(count: int, prefix: str = "") -> list[bytes]:
    """Return *count* different contents of frames."""
    return [f"{prefix}{number}".encode() for number in range(count)]
