"""Nodes that consist of a transport alone, without a bus."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import attrs
import pytest
from anyio.lowlevel import checkpoint

from eventbus_core.api.discovery import load_backend
from eventbus_core.backend import (
    Directory,
    Frame,
    Interrupted,
    Partition,
    Terms,
    Transport,
    TransportURI,
    lane_partition,
)
from eventbus_core.options import option_names
from eventbus_core.testing.hosts import fresh_namespace
from eventbus_core.testing.waiting import tasks, within_deadline

LANE = lane_partition(7)
OTHER = lane_partition(8)
TERMS = Terms(wire_version=1, lanes=64)
SHOWN_FRAMES = 10
"""Missing frames that a failure names."""
SHOWN_BYTES = 40
"""Bytes of each that it shows."""


class BareNode:
    """
    A node that consists of a transport alone.

    Attributes:
        transport: open, unless the test has closed it.
        received: the frames that arrived.
        interruptions: how often the transport said that frames may have been lost.
        disturbed: the partitions that it named then; ``None`` stands for all.
        ended: set when ``receive`` has ended.
    """

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.received: list[Frame] = []
        self.interruptions = 0
        self.disturbed: set[Partition | None] = set()
        self.ended = anyio.Event()
        self._grew = anyio.Event()

    @property
    def directory(self) -> Directory:
        """The directory; a test that asks for it is skipped if the backend has none."""
        if self.transport.directory is None:
            pytest.skip("the backend has no directory")
        return self.transport.directory

    async def enter(self, lease: float = 60.0) -> int:
        """Enter the namespace with the terms that all bare nodes use."""
        return await self.directory.enter(self.transport.node, lease, TERMS)

    async def join(self, *partitions: Partition) -> None:
        """Join *partitions*."""
        await self.transport.join(partitions)

    async def publish(self, partition: Partition, *data: bytes) -> Sequence[int] | None:
        """Publish one frame for each *data* to *partition*, in one write."""
        return await self.transport.publish([Frame(partition, each) for each in data])

    async def write(self, *frames: Frame) -> Sequence[int] | None:
        """Publish *frames*, those of each route in one write; return the receivers of each."""
        counts: dict[int, int] = {}
        for route in dict.fromkeys(self.transport.route(frame.partition) for frame in frames):
            places = [place for place, frame in enumerate(frames) if self.transport.route(frame.partition) == route]
            counted = await self.transport.publish([frames[place] for place in places])
            if counted is None:
                return None
            counts.update(zip(places, counted, strict=True))
        return [counts[place] for place in range(len(frames))]

    def was_interrupted(self, *partitions: Partition) -> bool:
        """Return whether the transport said of each of *partitions* that frames may have been lost."""
        return None in self.disturbed or self.disturbed.issuperset(partitions)

    def of(self, partition: Partition) -> list[bytes]:
        """Return the frames of *partition* that arrived so far."""
        return [bytes(frame.data) for frame in self.received if frame.partition == partition]

    async def got(self, partition: Partition, *data: bytes) -> None:
        """Return once each *data* came from *partition*; fail at the deadline, and say which frames are missing."""
        missing = wanted = set(data)
        try:
            with within_deadline(f"{self.transport.node} received the frames published to {partition!r}"):
                while missing := wanted.difference(self.of(partition)):
                    await self._grew.wait()
        except AssertionError as error:
            shown = ", ".join(repr(each[:SHOWN_BYTES]) for each in sorted(missing, key=data.index)[:SHOWN_FRAMES])
            more = f" and {len(missing) - SHOWN_FRAMES} more" if len(missing) > SHOWN_FRAMES else ""
            came = f"{len(wanted) - len(missing)} of {len(wanted)} came"
            raise AssertionError(f"{error}: {came}, missing are {shown}{more}") from None

    async def run(self, ready: anyio.Event | None = None) -> None:
        """Receive until the transport is closed; if *ready* is given, wait for it after the first frame."""
        async for item in self.transport.receive():
            if isinstance(item, Frame):
                self.received.append(item)
            elif isinstance(item, Interrupted):
                self.interruptions += 1
                self.disturbed.update([None] if item.partitions is None else item.partitions)
            self._grew.set()
            self._grew = anyio.Event()
            if ready is not None:
                await ready.wait()
        self.ended.set()


def transport_at(uri: str, node: str, namespace: str) -> Transport:
    """Return a transport of *node* that is not open yet; it ignores options of the bus in *uri*."""
    place = TransportURI.parse(uri)
    backend = load_backend(place.scheme)
    known = option_names(backend.Options)
    options = {name: value for name, value in place.options.items() if name in known}
    return backend(attrs.evolve(place, namespace=namespace, options=options), node)


@asynccontextmanager
async def bare_nodes(
    uri: str, *nodes: str, namespace: str = "", receiving: bool = True
) -> AsyncIterator[Sequence[BareNode]]:
    """Open a transport for each of *nodes* (by default ``n0`` and ``n1``) in *namespace* (by default a fresh one)."""
    space = namespace or fresh_namespace()
    async with tasks() as group, AsyncExitStack() as stack:
        opened = []
        for node in nodes or ("n0", "n1"):
            bare = BareNode(await stack.enter_async_context(transport_at(uri, node, space)))
            opened.append(bare)
            if receiving:
                group.start_soon(bare.run)
        yield opened


def numbered(count: int, prefix: str = "") -> list[bytes]:
    """Return *count* frame contents, each of them different."""
    return [f"{prefix}{number}".encode() for number in range(count)]


async def cancelled_after(turns: int, operation: Callable[[], Awaitable[object]]) -> None:
    """Await *operation*, and cancel it after *turns* turns of the event loop unless it has ended by then."""

    async def run() -> None:
        await operation()
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        for _ in range(turns):
            await checkpoint()
        group.cancel_scope.cancel()
