"""What a node of a demo sends: numbered events to all clients, to topics and to everyone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import count, cycle, islice
from time import monotonic_ns
from typing import Final

import anyio
from anyio.lowlevel import checkpoint

from eventbus_core.bus import Bus
from eventbus_core.cli.demo.check import body_of
from eventbus_core.cli.demo.plan import BROADCAST_TYPE, EVENT_TYPE, Plan, client_name
from eventbus_core.errors import ClientNotFound, TransportUnavailable

BURST: Final = 256  # events to clients between two looks at the clock
TOPICS_PER_BURST: Final = 2
BURSTS_PER_BROADCAST: Final = 4
SAMPLED: Final = 16  # one event in so many carries its time
AFTER_REFUSAL: Final = 0.05

Data = tuple[int, int, int, str]


class Sender:
    """
    Sends from one node, as fast as the bus takes it.

    May be cancelled: a send that waits at that moment is not accepted, and not counted.

    Attributes:
        accepted: how many events the bus has accepted for each receiver.
        refusals: sends that raised, by the message.
    """

    def __init__(self, plan: Plan, node: int, bus: Bus) -> None:
        self.accepted = [0] * plan.receivers
        self.refusals: Counter[str] = Counter()
        self._plan = plan
        self._node = node
        self._bus = bus
        self._first_stream = plan.stream(node, 0)
        self._clients = [(client, client_name(client)) for client in plan.rounds(node)]

    async def run(self, end: int) -> None:
        """Send until the monotonic time *end*, in nanoseconds."""
        await self._greet()
        targets = cycle(self._clients)
        topics = cycle(range(self._plan.clients, self._plan.everyone))
        for burst in count():
            await self._send(list(islice(targets, BURST)))
            await self._publish(list(islice(topics, TOPICS_PER_BURST)), broadcast=burst % BURSTS_PER_BROADCAST == 0)
            await checkpoint()  # a send does not wait while there is room; others want their turn
            if monotonic_ns() >= end:
                return

    async def _greet(self) -> None:
        """Send one event to each client of other nodes, all at once, as the bus has to look up where they are."""
        here = self._plan.clients_of(self._node)
        async with anyio.create_task_group() as tasks:
            for target in self._clients:
                if target[0] not in here:
                    tasks.start_soon(self._send, [target])

    async def _send(self, targets: Sequence[tuple[int, str]]) -> None:
        send, accepted, data = self._bus.send, self.accepted, self._data
        try:
            for receiver, name in targets:
                await send(name, EVENT_TYPE, data(receiver))
                accepted[receiver] += 1
        except (ClientNotFound, TransportUnavailable) as error:
            await self._refused(error)

    async def _publish(self, topics: Sequence[int], *, broadcast: bool) -> None:
        everyone = self._plan.everyone
        try:
            for topic in topics:
                await self._bus.publish(self._plan.topic(topic), self._data(topic))
                self.accepted[topic] += 1
            if broadcast:
                await self._bus.broadcast(BROADCAST_TYPE, self._data(everyone))
                self.accepted[everyone] += 1
        except TransportUnavailable as error:
            await self._refused(error)

    async def _refused(self, error: Exception) -> None:
        self.refusals[str(error)] += 1
        await anyio.sleep(AFTER_REFUSAL)

    def _data(self, receiver: int) -> Data:
        """Return the data of the next event for *receiver*."""
        number = self.accepted[receiver]
        stream = self._first_stream + receiver
        sent_at = 0 if (receiver + number) % SAMPLED else monotonic_ns()
        return stream, number, sent_at, body_of(stream, number)
