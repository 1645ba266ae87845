"""A transport whose frames, rows and entries are sealed; no other part of the core knows of seals."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from time import time_ns
from typing import Final

import attrs
from anyio.lowlevel import checkpoint

from eventbus_core.backend import Disconnected, Finding, Frame, Interrupted, Outcome, Partition, Transport
from eventbus_core.concurrency.closing_iterator import closing_iterator
from eventbus_core.errors import FrameError
from eventbus_core.observability.rejections import Rejections
from eventbus_core.wrappers.seal import SEAL_SIZE, Seals, context_of
from eventbus_core.wrappers.sealed_directory import SealedDirectory
from eventbus_core.wrappers.sealed_history import SealedHistory

STALE_SEAL: Final = "stale seal"
CLOCK_TOLERANCE: Final = 5_000
"""Milliseconds by which the clocks of two hosts may differ; frames that are older than a join by more are rejected."""
REJECTED_PER_TURN: Final = 32


class SealedTransport(Transport):
    """
    Seals what *inner* carries and keeps, and passes on only what has the right seal.

    A frame is sealed each time that it is published, for the partition that it goes to. So a copy of it elsewhere, in
    another namespace or with any byte changed is rejected, and so is a copy from before this node joined the partition.
    What is rejected is counted by *rejections*, and is for the layers above a lost frame: they have it sent again.
    """

    def __init__(self, inner: Transport, seals: Seals, rejections: Rejections) -> None:
        self._inner = inner
        self._seals = seals
        self._rejections = rejections
        self._joined: dict[Partition, int] = {}
        self._not_begun: tuple[Sequence[Frame], list[Frame]] | None = None  # as given, and sealed
        self.uri, self.node, self.options = inner.uri, inner.node, inner.options
        known = inner.capabilities
        self.capabilities = attrs.evolve(known, max_frame_size=known.max_frame_size - SEAL_SIZE)  # type: ignore[misc]
        self.directory = None if inner.directory is None else SealedDirectory(inner.directory, seals, rejections)
        self.history = None if inner.history is None else SealedHistory(inner.history, seals, rejections)

    async def open(self) -> None:
        """See :class:`Transport`."""
        await self._inner.open()

    async def aclose(self) -> None:
        """See :class:`Transport`."""
        await self._inner.aclose()

    async def join(self, partitions: Sequence[Partition]) -> None:
        """See :class:`Transport`."""
        now = time_ns() // 1_000_000
        for partition in partitions:
            self._joined.setdefault(partition, now)
        await self._inner.join(partitions)

    async def leave(self, partitions: Sequence[Partition]) -> None:
        """See :class:`Transport`."""
        for partition in partitions:
            self._joined.pop(partition, None)
        await self._inner.leave(partitions)

    async def publish(self, frames: Sequence[Frame]) -> Sequence[int] | None:
        """See :class:`Transport`."""
        given, sealed = self._not_begun or (None, [])
        self._not_begun = None
        return await self._inner.publish(sealed if given is frames else self._seal(frames))

    def begin_publish(self, frames: Sequence[Frame]) -> Outcome | None:
        """See :class:`Transport`; what cannot be begun is not sealed once more to be published."""
        sealed = self._seal(frames)
        outcome = self._inner.begin_publish(sealed)
        self._not_begun = (frames, sealed) if outcome is None else None
        return outcome

    def route(self, partition: Partition) -> str:
        """See :class:`Transport`."""
        return self._inner.route(partition)

    async def receive(self) -> AsyncIterator[Frame | Interrupted | Disconnected]:
        """See :class:`Transport`."""
        rejected = 0
        async with closing_iterator(self._inner.receive()) as items:
            async for item in items:
                if not isinstance(item, Frame):
                    yield item
                    continue
                try:
                    data = self._open(item)
                except FrameError as error:
                    self._rejections.add(error.kind, error)
                    rejected += 1
                    if rejected % REJECTED_PER_TURN == 0:  # other tasks have their turn whatever comes
                        await checkpoint()
                else:
                    yield Frame(item.partition, data)

    async def diagnose(self) -> list[Finding]:
        """See :class:`Transport`."""
        return await self._inner.diagnose()

    def _seal(self, frames: Sequence[Frame]) -> list[Frame]:
        seal = self._seals.seal
        return [Frame(to, seal(_context(to), data)) for to, data in frames]

    def _open(self, frame: Frame) -> bytes:
        partition = frame.partition
        content, at = self._seals.open(_context(partition), frame.data)
        early = self._joined.get(partition, 0) - at
        if early > CLOCK_TOLERANCE and (now := time_ns() // 1_000_000) < self._joined[partition]:
            self._joined[partition] = now  # our clock was ahead as we joined, and was set back since
            early = now - at
        if early > CLOCK_TOLERANCE:
            raise FrameError(
                STALE_SEAL,
                f"it was sealed {early / 1000:,.0f} s before this node joined {partition}: a copy, or the clock of its "
                f"sender is behind",
            )
        return content


def _context(partition: Partition) -> bytes:
    return context_of("frame", partition)
