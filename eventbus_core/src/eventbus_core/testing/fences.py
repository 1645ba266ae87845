"""Fences: whoever comes later does not get what was sent before, since that has passed by then."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

import anyio

from eventbus_core.bus import Bus
from eventbus_core.event import Event
from eventbus_core.testing.waiting import within_deadline

FENCE: Final = "fence"


def is_fence(event: Event) -> bool:
    """Return whether *event* was sent by :class:`Fences`, and is nobody's business."""
    return event.type.startswith(FENCE)


class Fences:
    """
    Knows what may still be on its way to nodes where nobody is to get it.

    A handler that is made meanwhile may get it, and may not: no guarantee says so, and no model can.
    """

    def __init__(self) -> None:
        self._under_way: dict[str, dict[tuple[str, str | None], None]] = defaultdict(dict)
        self._numbers = itertools.count()

    def sent(self, sender: str, topic: str | None, nodes: Iterable[str]) -> None:
        """Take note that *sender* has published to *topic* (broadcast, if it is ``None``) while *nodes* were there."""
        for node in nodes:
            if node != sender:
                self._under_way[node][sender, topic] = None

    async def passed(self, node: str, buses: Mapping[str, Bus]) -> None:
        """Return once all of that has passed *node*; *buses* are those that are open, by node."""
        for sender, topic in self._under_way.pop(node, ()):
            if sender in buses:
                await self._raise(buses[sender], buses[node], topic)

    async def _raise(self, sender: Bus, receiver: Bus, topic: str | None) -> None:
        """Send one more event the same way, and wait for it."""
        names = (f"{FENCE}.{number}" for number in self._numbers)
        marker = next(
            name for name in names if topic is None or sender.partition_of(name) == sender.partition_of(topic)
        )
        came = anyio.Event()

        def lower(_event: Event) -> None:
            came.set()

        receiver.on(marker)(lower)
        await receiver.ready()
        if topic is None:
            await sender.broadcast(marker, include_self=False)
        else:
            await sender.publish(marker)
        with within_deadline(f"{marker!r} came from {sender!r} to {receiver!r}"):
            await came.wait()
        receiver.off(lower)
