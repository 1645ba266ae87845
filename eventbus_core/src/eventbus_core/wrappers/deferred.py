"""A transport whose broker may be absent at the start."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

from eventbus_core.backend import (
    Claim,
    Directory,
    Disconnected,
    Frame,
    History,
    Interrupted,
    NewEntry,
    Node,
    Outcome,
    Owner,
    Page,
    Partition,
    Position,
    Terms,
    Transport,
)
from eventbus_core.concurrency.backoff import Backoff
from eventbus_core.concurrency.closing_iterator import closing_iterator
from eventbus_core.errors import TransportUnavailable


class DeferredTransport(Transport):
    """
    Opens whether or not the broker can be reached; until it can, every call raises :class:`TransportUnavailable`.

    Meanwhile :meth:`receive` tries again and again, each time with a new transport from *make*, as
    one can be opened only once.
    """

    def __init__(self, make: Callable[[], Transport]) -> None:
        self._make = make
        self._inner = inner = make()
        self._fault: TransportUnavailable | None = None
        self._closed = False
        self.uri, self.node, self.options = inner.uri, inner.node, inner.options
        self.capabilities = inner.capabilities  # type: ignore[misc]  # those of the one within
        directory = inner.directory
        self.directory = None if directory is None else DeferredDirectory(self, keeps_seals=directory.keeps_seals)
        self.history = None if inner.history is None else DeferredHistory(self)

    @property
    def there(self) -> Transport:
        """
        The transport within.

        Raises:
            TransportUnavailable: the broker has not been reached yet.
        """
        if self._fault is not None:
            raise TransportUnavailable(str(self._fault)) from self._fault
        return self._inner

    async def open(self) -> None:
        try:
            await self._inner.open()
        except TransportUnavailable as error:
            self._fault = error
            await self._inner.aclose()
            self._inner = self._make()
        else:
            self._fault = None

    async def aclose(self) -> None:
        self._closed = True
        await self._inner.aclose()

    async def join(self, partitions: Sequence[Partition]) -> None:
        await self.there.join(partitions)

    async def leave(self, partitions: Sequence[Partition]) -> None:
        await self.there.leave(partitions)

    async def publish(self, frames: Sequence[Frame]) -> Sequence[int] | None:
        return await self.there.publish(frames)

    def begin_publish(self, frames: Sequence[Frame]) -> Outcome | None:
        return None if self._fault is not None else self._inner.begin_publish(frames)

    def route(self, partition: Partition) -> str:
        return self._inner.route(partition)

    async def receive(self) -> AsyncIterator[Frame | Interrupted | Disconnected]:
        backoff = Backoff()
        while self._fault is not None:
            await backoff.pause()
            if self._closed:
                return
            await self.open()
        async with closing_iterator(self._inner.receive()) as items:
            async for item in items:
                yield item


class DeferredDirectory(Directory):
    """The directory of whatever transport is within."""

    def __init__(self, transport: DeferredTransport, *, keeps_seals: bool) -> None:
        self._transport = transport
        self.keeps_seals = keeps_seals

    @property
    def _there(self) -> Directory:
        return self._transport.there.directory  # type: ignore[return-value]  # else there was no DeferredDirectory

    @property
    def last_loss(self) -> int | None:
        return self._there.last_loss

    async def enter(self, node: str, lease: float, terms: Terms) -> int:
        return await self._there.enter(node, lease, terms)

    async def renew(self) -> bool:
        return await self._there.renew()

    async def leave(self) -> None:
        await self._there.leave()

    async def claim(self, clients: Sequence[str], takeover: bool) -> Sequence[Claim | Owner]:
        return await self._there.claim(clients, takeover)

    async def release(self, claims: Sequence[Claim]) -> None:
        await self._there.release(claims)

    async def attach(self, claims: Sequence[Claim], seals: Sequence[str]) -> None:
        await self._there.attach(claims, seals)

    async def locate(self, clients: Sequence[str]) -> Sequence[Owner | None]:
        return await self._there.locate(clients)

    async def confirm(self, claims: Sequence[Claim]) -> Sequence[bool]:
        return await self._there.confirm(claims)

    async def nodes(self) -> Sequence[Node]:
        return await self._there.nodes()

    async def clients(self, node: str | None = None) -> AsyncIterator[str]:
        async for client in self._there.clients(node):
            yield client


class DeferredHistory(History):
    """The history of whatever transport is within."""

    def __init__(self, transport: DeferredTransport) -> None:
        self._transport = transport

    @property
    def _there(self) -> History:
        return self._transport.there.history  # type: ignore[return-value]  # else there was no DeferredHistory

    async def append(self, entries: Sequence[NewEntry]) -> Sequence[Position]:
        return await self._there.append(entries)

    async def read(self, starts: Sequence[tuple[str, int]]) -> Sequence[Page | None]:
        return await self._there.read(starts)

    async def positions(self, streams: Sequence[str]) -> Sequence[Position | None]:
        return await self._there.positions(streams)
