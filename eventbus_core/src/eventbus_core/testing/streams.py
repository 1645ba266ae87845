"""Numbered events from all nodes to all nodes, and what came of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import anyio

from eventbus_core.bus import Bus
from eventbus_core.event import Event
from eventbus_core.losses import Gap
from eventbus_core.testing.waiting import until

TYPE: Final = "stream"
KINDS: Final = ("n", "l", "all")


class Stream(NamedTuple):
    """What one node sends another, by the kind of partition: ``n`` for its own, ``l`` for a topic's lane, ``all``."""

    sender: str
    receiver: str
    kind: str


class Streams:
    """
    Every node sends numbered events to every other node's address, to a topic, and to everyone.

    Attributes:
        got: the numbers that came, by stream.
        missed: how many events of a stream its receiver was told that it missed.
    """

    def __init__(self, nodes: Sequence[Bus]) -> None:
        self.got: dict[Stream, list[int]] = defaultdict(list)
        self.missed: dict[Stream, int] = defaultdict(int)
        self._nodes = nodes
        self._sent = 0

    async def begin(self) -> None:
        """Have every node listen."""
        for bus in self._nodes:
            bus.on(TYPE)(self._receiver(bus))
            bus.on_gap(self._told(bus))
            await bus.ready()

    async def send(self, count: int) -> None:
        """Have every node send *count* more of each kind."""
        async with anyio.create_task_group() as group:
            for bus in self._nodes:
                group.start_soon(self._send, bus, range(self._sent, self._sent + count))
            self._sent += count

    async def settled(self) -> None:
        """Return once every event has come or was missed; fail if one came twice, too late, or is lost in silence."""
        for stream in self._streams():
            await until(
                lambda stream=stream: self._accounted(stream) >= self._sent,  # type: ignore[misc]
                f"{stream} is accounted for",
            )
        for stream in self._streams():
            numbers = self.got[stream]
            assert numbers == sorted(set(numbers)), f"{stream} came doubled or out of order: {numbers}"
            assert self._accounted(stream) == self._sent, (
                f"{stream}: {len(numbers)} came and {self.missed[stream]} were missed of {self._sent}"
            )

    def _accounted(self, stream: Stream) -> int:
        return len(self.got[stream]) + self.missed[stream]

    def _streams(self) -> list[Stream]:
        names = [bus.node for bus in self._nodes]
        pairs = [(one, other) for one in names for other in names if one != other]
        return [Stream(one, other, kind) for one, other in pairs for kind in KINDS]

    async def _send(self, bus: Bus, numbers: range) -> None:
        for number in numbers:
            for other in self._nodes:
                if other is not bus:
                    await bus.send(other.address, TYPE, ["n", number])
            await bus.publish(TYPE, ["l", number])
            await bus.broadcast(TYPE, ["all", number], include_self=False)

    def _receiver(self, bus: Bus) -> Callable[[Event], None]:
        def receive(event: Event) -> None:
            kind, number = event.data
            self.got[Stream(event.source[1:], bus.node, kind)].append(number)

        return receive

    def _told(self, bus: Bus) -> Callable[[Gap], None]:
        def told(gap: Gap) -> None:
            self.missed[Stream(gap.source[1:], bus.node, gap.partition.partition(":")[0])] += gap.missed

        return told
