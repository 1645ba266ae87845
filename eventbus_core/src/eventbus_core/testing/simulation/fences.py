"""Fences: a new handler gets no earlier event, because all earlier events have arrived by then."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

import anyio

from eventbus_core.api.bus import Bus
from eventbus_core.model.event import Event
from eventbus_core.testing.waiting import within_deadline

FENCE: Final = "fence"


def is_fence(event: Event) -> bool:
    """Return whether *event* was sent by :class:`Fences`, and is not part of the program."""
    return event.type.startswith(FENCE)


class Fences:
    """
    Keeps track of events that may still be in flight to nodes where no handler is meant to get them.

    A handler that is registered meanwhile may get such an event or not: the guarantees leave that open.
    """

    def __init__(self) -> None:
        self._in_flight: dict[str, dict[tuple[str, str | None], None]] = defaultdict(dict)
        self._numbers = itertools.count()

    def sent(self, sender: str, topic: str | None, nodes: Iterable[str]) -> None:
        """Record that *sender* published to *topic* (``None`` for a broadcast) while *nodes* were open."""
        for node in nodes:
            if node != sender:
                self._in_flight[node][sender, topic] = None

    async def passed(self, node: str, buses: Mapping[str, Bus]) -> None:
        """Return once all these events have passed *node*; *buses* are the open ones, by node."""
        for sender, topic in self._in_flight.pop(node, ()):
            if sender in buses:
                await self._raise(buses[sender], buses[node], topic)

    async def _raise(self, sender: Bus, receiver: Bus, topic: str | None) -> None:
        """Send one more event to the same partition, and wait for it."""
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
