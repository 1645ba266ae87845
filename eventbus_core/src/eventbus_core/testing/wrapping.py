"""Transports around other transports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, ClassVar, TypeVar

import attrs

from eventbus_core.discovery import CHAOS
from eventbus_core.options import option_names
from eventbus_core.transport import Frame, Interrupted, Partition, Transport
from eventbus_core.uri import TransportURI

W = TypeVar("W", bound="WrappedTransport")


class WrappedTransport(Transport):
    """Does what a transport of the class ``inner`` does; a subclass says what it does otherwise."""

    inner: ClassVar[type[Transport]]

    def __init__(self, uri: TransportURI, node: str) -> None:
        super().__init__(uri, node)
        known = option_names(self.inner.Options)
        options = {name: value for name, value in uri.options.items() if name in known}
        self._inner = self.inner(attrs.evolve(uri, scheme=uri.scheme.removeprefix(CHAOS), options=options), node)
        self.directory = self._inner.directory

    async def open(self) -> None:
        """See :class:`Transport`."""
        await self._inner.open()

    async def aclose(self) -> None:
        """See :class:`Transport`."""
        await self._inner.aclose()

    async def join(self, partitions: Sequence[Partition]) -> None:
        """See :class:`Transport`."""
        await self._inner.join(partitions)

    async def leave(self, partitions: Sequence[Partition]) -> None:
        """See :class:`Transport`."""
        await self._inner.leave(partitions)

    async def publish(self, frames: Sequence[Frame]) -> Sequence[int] | None:
        """See :class:`Transport`."""
        return await self._inner.publish(frames)

    async def receive(self) -> AsyncIterator[Frame | Interrupted]:
        """See :class:`Transport`."""
        async for item in self._inner.receive():
            yield item


def wrapped(wrapper: type[W], inner: type[Transport], **members: Any) -> type[W]:
    """Return the class *wrapper* for transports of the class *inner*, whose options and capabilities it has."""
    defaults = {"inner": inner, "Options": inner.Options, "capabilities": inner.capabilities}
    return type(
        f"{wrapper.__name__}Of{inner.__name__}", (wrapper,), {**defaults, **members, "__doc__": wrapper.__doc__}
    )
