"""
A transport that injects the faults of networks, reproducibly from a seed.

``chaos+memory://name?drop=0.05&cut=0.01&seed=7`` is ``memory://name`` with faults; so is any other
backend's URI. Whether a frame is affected depends on the seed, the receiving node's id, and the frame's
place among those of its partition: the same frames under the same names get the same faults.
"""

from __future__ import annotations

import functools
import logging
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import anyio
import attrs

from eventbus_core.backend import Disconnected, Frame, Interrupted, NoOptions, Partition, Transport, TransportURI
from eventbus_core.concurrency.closing_iterator import closing_iterator
from eventbus_core.errors import TransportUnavailable
from eventbus_core.options import option
from eventbus_core.wrappers.base import WrappedTransport, wrapped

logger = logging.getLogger("eventbus.chaos")

OVERTAKEN_BY: Final = 3


@attrs.frozen(slots=False)
class Chaos:
    """The faults; chances are from 0 to 1, and are drawn for each receiver separately."""

    drop: float = option(0.0, "chance that a frame is lost", minimum=0.0, maximum=1.0)
    double: float = option(0.0, "chance that a frame comes twice", minimum=0.0, maximum=1.0)
    reorder: float = option(0.0, "chance that a frame is overtaken by the next ones", minimum=0.0, maximum=1.0)
    cut: float = option(0.0, "chance that the connection breaks at a frame, or in a write", minimum=0.0, maximum=1.0)
    delay: float = option(0.0, "seconds by which a frame, and all behind it, is late at most", minimum=0.0)
    seed: int | None = option(None, "seed of the faults; drawn, and logged, if not given")


class ChaosTransport(WrappedTransport):
    """
    Wraps a transport, and injects faults between it and the receiver; made by :func:`chaos_around`.

    A reordered frame arrives after the next one to three of its node. A cut loses the frame that arrives, and reports
    :class:`Interrupted`; a cut write may have published any number of its frames.
    """

    def __init__(self, uri: TransportURI, node: str) -> None:
        super().__init__(uri, node)
        self._seed = _seed_of_this_process() if self.options.seed is None else self.options.seed
        self._luck: dict[Partition | None, random.Random] = {}
        self._overtaken: list[Frame] = []
        self._until = 0

    async def publish(self, frames: Sequence[Frame]) -> Sequence[int] | None:
        """See :class:`Transport`."""
        luck = self._luck_of(None)
        cut, taken = luck.random() < self.options.cut, luck.randint(0, len(frames))
        if not cut:
            return await self._inner.publish(frames)
        if taken:
            await self._inner.publish(frames[:taken])
        raise TransportUnavailable(f"chaos cut the connection (seed={self._seed})")

    async def receive(self) -> AsyncIterator[Frame | Interrupted | Disconnected]:
        """See :class:`Transport`."""
        async with closing_iterator(self._inner.receive()) as items:
            async for item in items:
                if not isinstance(item, Frame):
                    yield item
                    continue
                luck = self._luck_of(item.partition)
                if pause := luck.random() * self.options.delay:
                    await anyio.sleep(pause)
                for outcome in self._outcome(item, luck):
                    yield outcome

    def _outcome(self, frame: Frame, luck: random.Random) -> list[Frame | Interrupted]:
        options = self.options
        # All are drawn in any case, so that changing one chance does not change the draws of the others.
        cut, drop, double, reorder = (
            luck.random() < chance for chance in (options.cut, options.drop, options.double, options.reorder)
        )
        behind = luck.randint(1, OVERTAKEN_BY)
        if cut:
            self._overtaken.clear()
            return [Interrupted(f"chaos cut the connection (seed={self._seed})")]
        if reorder and not drop:
            self._overtaken.append(frame)
            self._until = max(self._until, behind)
            return []
        return [*([] if drop else [frame] * (1 + double)), *self._late()]

    def _late(self) -> list[Frame]:
        """Return the frames that enough others have overtaken, the last one first."""
        self._until -= 1
        if self._until > 0:
            return []
        late = self._overtaken[::-1]
        self._overtaken.clear()
        return late

    def _luck_of(self, partition: Partition | None) -> random.Random:
        luck = self._luck.get(partition)
        if luck is None:
            luck = self._luck[partition] = random.Random(f"{self._seed}/{self.node}/{partition}")
        return luck


@functools.cache
def chaos_around(inner: type[Transport]) -> type[ChaosTransport]:
    """Return the transport class *inner* with faults; it has the options of both."""
    bases: tuple[type[Any], ...] = (Chaos,) if inner.Options is NoOptions else (Chaos, inner.Options)
    return wrapped(
        ChaosTransport,
        inner,
        Options=attrs.make_class("ChaosOptions", {}, bases=bases, frozen=True, slots=False),
        capabilities=attrs.evolve(inner.capabilities, ordered=False, durable=False),
    )


@functools.cache
def _seed_of_this_process() -> int:
    seed = random.randrange(2**32)
    logger.warning("faults are drawn from seed=%d: give it as an option to see the same ones again", seed)
    return seed
