"""The base of transports that wrap another transport."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, ClassVar, Final, TypeVar

import attrs

from eventbus_core.backend import Disconnected, Finding, Frame, Interrupted, Partition, Transport, TransportURI
from eventbus_core.options import option_names

CHAOS: Final = "chaos+"
"""Prefix of the scheme of a transport with injected faults."""

W = TypeVar("W", bound="WrappedTransport")


class WrappedTransport(Transport):
    """Passes every call on to a transport of the class ``inner``; subclasses override some of them."""

    inner: ClassVar[type[Transport]]

    def __init__(self, uri: TransportURI, node: str) -> None:
        super().__init__(uri, node)
        known = option_names(self.inner.Options)
        options = {name: value for name, value in uri.options.items() if name in known}
        self._inner = self.inner(attrs.evolve(uri, scheme=uri.scheme.removeprefix(CHAOS), options=options), node)
        self.directory = self._inner.directory
        self.history = self._inner.history

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

    def route(self, partition: Partition) -> str:
        """See :class:`Transport`."""
        return self._inner.route(partition)

    def receive(self) -> AsyncIterator[Frame | Interrupted | Disconnected]:
        """See :class:`Transport`."""
        return self._inner.receive()

    async def diagnose(self) -> list[Finding]:
        """See :class:`Transport`."""
        return await self._inner.diagnose()


def wrapped(wrapper: type[W], inner: type[Transport], **members: Any) -> type[W]:
    """Return the class *wrapper* around *inner*, with the options and capabilities of *inner*."""
    defaults = {"inner": inner, "Options": inner.Options, "capabilities": inner.capabilities}
    return type(
        f"{wrapper.__name__}Of{inner.__name__}", (wrapper,), {**defaults, **members, "__doc__": wrapper.__doc__}
    )
