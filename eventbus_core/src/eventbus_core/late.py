"""A transport that need not be there from the start."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Final

import anyio

from eventbus_core.errors import TransportUnavailable
from eventbus_core.transport import (
    Claim,
    Directory,
    Frame,
    Interrupted,
    Node,
    Owner,
    Partition,
    Terms,
    Transport,
)

FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 2.0


class LateTransport(Transport):
    """
    Opens whether or not the broker is there; until it is, every call raises :class:`TransportUnavailable`.

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
        self.directory = None if inner.directory is None else LateDirectory(self)

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

    async def receive(self) -> AsyncIterator[Frame | Interrupted]:
        pause = FIRST_PAUSE
        while self._fault is not None:
            await anyio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_PAUSE)
            if self._closed:
                return
            await self.open()
        items = self._inner.receive()
        try:
            async for item in items:
                yield item
        finally:
            if isinstance(items, AsyncGenerator):
                await items.aclose()


class LateDirectory(Directory):
    """The directory of whatever transport is within."""

    def __init__(self, transport: LateTransport) -> None:
        self._transport = transport

    @property
    def _there(self) -> Directory:
        return self._transport.there.directory  # type: ignore[return-value]  # else there was no LateDirectory

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

    async def locate(self, clients: Sequence[str]) -> Sequence[Owner | None]:
        return await self._there.locate(clients)

    async def nodes(self) -> Sequence[Node]:
        return await self._there.nodes()

    async def clients(self, node: str | None = None) -> AsyncIterator[str]:
        async for client in self._there.clients(node):
            yield client
