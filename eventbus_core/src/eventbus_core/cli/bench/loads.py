"""What a node of a bench sends: as much as the bus takes, or one event now and then."""

from __future__ import annotations

from itertools import cycle, islice
from time import monotonic_ns
from typing import Final, Literal, TypeAlias, get_args

import anyio
from anyio.lowlevel import checkpoint

from eventbus_core.bus import Bus
from eventbus_core.cli.demo.check import body_of
from eventbus_core.cli.demo.plan import Plan, client_name
from eventbus_core.cli.demo.sender import BURST, Data, Sender

Load: TypeAlias = Literal["saturated", "unloaded"]

LOADS: Final[tuple[Load, ...]] = get_args(Load)
PERIOD: Final = 2_000_000  # nanoseconds from one event to the next


class Saturating(Sender):
    """Sends to all clients in turn, as fast as the bus takes it."""

    async def run(self, end: int) -> None:
        """Send until the monotonic time *end*, in nanoseconds."""
        await self._greet()
        targets = cycle(self._clients)
        while monotonic_ns() < end:
            await self._send(list(islice(targets, BURST)))
            await checkpoint()


class Pacing(Sender):
    """From the first node, sends one event at a time to a client of the next node; others send nothing."""

    def __init__(self, plan: Plan, node: int, bus: Bus) -> None:
        super().__init__(plan, node, bus)
        self._timed = False

    async def run(self, end: int) -> None:
        """Send until the monotonic time *end*, in nanoseconds."""
        if self._node:
            return
        client = min(1, self._plan.clients - 1)
        target = [(client, client_name(client))]
        await self._send(target)  # the bus has to look up where it is
        self._timed = True
        due = monotonic_ns() + PERIOD
        while due < end:
            await anyio.sleep(max(0, due - monotonic_ns()) / 1e9)
            await self._send(target)
            due += PERIOD

    def _data(self, receiver: int) -> Data:
        number = self.accepted[receiver]
        stream = self._first_stream + receiver
        return stream, number, monotonic_ns() if self._timed else 0, body_of(stream, number)


def sender(load: Load, plan: Plan, node: int, bus: Bus) -> Sender:
    """Return what sends *load* from *node*."""
    return Saturating(plan, node, bus) if load == "saturated" else Pacing(plan, node, bus)
