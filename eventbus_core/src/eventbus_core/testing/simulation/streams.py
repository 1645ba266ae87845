"""Numbered events from all nodes to all nodes, and a record of those that arrived."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import anyio

from eventbus_core.api.bus import Bus
from eventbus_core.model.event import Event
from eventbus_core.model.reports import Gap
from eventbus_core.testing.waiting import until, within_deadline

TYPE: Final = "stream"
KINDS: Final = ("n", "l", "all")
NEXT_AFTER: Final = 5.0
"""Seconds after the last event until all probes for it have been sent, and a little more."""


class Stream(NamedTuple):
    """The events from one node to another on one kind of partition: ``n`` its own, ``l`` a topic's lane, ``all``."""

    sender: str
    receiver: str
    kind: str


class Streams:
    """
    Every node sends numbered events to every other node's address, to a topic, and to everyone.

    Attributes:
        got: the numbers that arrived, by stream.
        missed: the number of events that were reported as missed, by stream.
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
        """Have every node send *count* more events of each kind."""
        async with anyio.create_task_group() as group:
            for bus in self._nodes:
                group.start_soon(self._send, bus, range(self._sent, self._sent + count))
            self._sent += count

    async def settled(self) -> None:
        """
        Return once every event has come or was reported as missed; fail if one came twice, out of order, or neither.

        The last frames of a stream and all probes for them may be lost. Only the next event of that stream shows the
        loss then, so every node sends one more event of each kind whenever some are missing for ``NEXT_AFTER`` seconds.
        """
        try:
            with within_deadline("every event came or was reported as missed"):
                while self._incomplete():
                    with anyio.move_on_after(NEXT_AFTER):
                        await until(lambda: not self._incomplete())
                    if self._incomplete():
                        await self.send(1)
        except AssertionError as error:
            raise AssertionError(f"{error}; {'; '.join(self._incomplete())}") from None
        for stream in self._streams():
            numbers = self.got[stream]
            assert numbers == sorted(set(numbers)), f"{stream} came doubled or out of order: {numbers}"
            assert self._accounted(stream) == self._sent, (
                f"{stream}: {len(numbers)} came and {self.missed[stream]} were missed of {self._sent}"
            )

    def _incomplete(self) -> list[str]:
        """Return for each stream with events that neither came nor were reported as missed how many these are."""
        return [
            f"{stream}: {len(self.got[stream])} of {self._sent} came, {self.missed[stream]} were reported as missed, "
            f"these did not come: {sorted(set(range(self._sent)).difference(self.got[stream]))!r:.200}"
            for stream in self._streams()
            if self._accounted(stream) < self._sent
        ]

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
