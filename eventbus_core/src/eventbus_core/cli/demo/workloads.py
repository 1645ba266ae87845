"""The events that a node of a run sends: numbered, to clients, to topics and to all nodes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import count, cycle, islice
from time import monotonic_ns
from types import MappingProxyType
from typing import Final

import anyio
from anyio.lowlevel import checkpoint

from eventbus_core.api.bus import Bus
from eventbus_core.cli.demo.check import body_of
from eventbus_core.cli.demo.plan import BROADCAST_TYPE, EVENT_TYPE, Plan, Workload, client_name
from eventbus_core.errors import ClientNotFound, TransportUnavailable

EVENTS_PER_BURST: Final = 256  # to clients, between two checks of the time
TOPICS_PER_BURST: Final = 2
BURSTS_PER_BROADCAST: Final = 4
SAMPLING: Final = 16  # one event in so many carries the time at which it was sent
REFUSAL_PAUSE: Final = 0.05
PACE: Final = 2_000_000  # nanoseconds from one event of the unloaded workload to the next

Data = tuple[int, int, int, str]


class WorkloadSender(ABC):
    """
    Sends the events of one node.

    It may be cancelled: a send that waits at that moment is not accepted, and not counted.

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

    @abstractmethod
    async def run(self, end: int) -> None:
        """Send until the monotonic time *end*, in nanoseconds."""

    async def _send_first(self) -> None:
        """Send one event to each client of the other nodes, all at once, since the bus must look up their nodes."""
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

    async def _refused(self, error: Exception) -> None:
        self.refusals[str(error)] += 1
        await anyio.sleep(REFUSAL_PAUSE)

    def _data(self, receiver: int) -> Data:
        """Return the data of the next event for *receiver*."""
        number = self.accepted[receiver]
        stream = self._first_stream + receiver
        sent_at = 0 if (receiver + number) % SAMPLING else monotonic_ns()
        return stream, number, sent_at, body_of(stream, number)


class MixedSender(WorkloadSender):
    """Sends to all clients in turn, and some events to topics and to all nodes, as fast as the bus accepts them."""

    async def run(self, end: int) -> None:
        """Send until the monotonic time *end*, in nanoseconds."""
        await self._send_first()
        targets = cycle(self._clients)
        topics = cycle(range(self._plan.clients, self._plan.everyone))
        for burst in count():
            await self._send(list(islice(targets, EVENTS_PER_BURST)))
            await self._publish(list(islice(topics, TOPICS_PER_BURST)), broadcast=burst % BURSTS_PER_BROADCAST == 0)
            await checkpoint()  # a send does not suspend while there is room; other tasks must run
            if monotonic_ns() >= end:
                return

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


class SaturatingSender(WorkloadSender):
    """Sends to all clients in turn, as fast as the bus accepts it."""

    async def run(self, end: int) -> None:
        """Send until the monotonic time *end*, in nanoseconds."""
        await self._send_first()
        targets = cycle(self._clients)
        while monotonic_ns() < end:
            await self._send(list(islice(targets, EVENTS_PER_BURST)))
            await checkpoint()


class PacedSender(WorkloadSender):
    """On the first node, sends one event at a time to a client of the next node; on other nodes, sends nothing."""

    def __init__(self, plan: Plan, node: int, bus: Bus) -> None:
        super().__init__(plan, node, bus)
        self._timed = False

    async def run(self, end: int) -> None:
        """Send until the monotonic time *end*, in nanoseconds."""
        if self._node:
            return
        client = min(1, self._plan.clients - 1)
        target = [(client, client_name(client))]
        await self._send(target)  # not timed, since the bus must look up the client's node
        self._timed = True
        due = monotonic_ns() + PACE
        while due < end:
            await anyio.sleep(max(0, due - monotonic_ns()) / 1e9)
            await self._send(target)
            due += PACE

    def _data(self, receiver: int) -> Data:
        number = self.accepted[receiver]
        stream = self._first_stream + receiver
        return stream, number, monotonic_ns() if self._timed else 0, body_of(stream, number)


SENDERS: Final[Mapping[Workload, Callable[[Plan, int, Bus], WorkloadSender]]] = MappingProxyType(
    {"mixed": MixedSender, "saturated": SaturatingSender, "unloaded": PacedSender}
)


def sender_of(plan: Plan, node: int, bus: Bus) -> WorkloadSender:
    """Return the sender of the workload of *plan* for *node*."""
    return SENDERS[plan.workload](plan, node, bus)
