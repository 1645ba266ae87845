"""A node with thousands of clients, in a process of its own: ``python -m tests.faults.crowd URI NODE``."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from itertools import cycle
from time import monotonic, thread_time

from eventbus import Client, ClientNotFound, Event, EventBusError, TransportUnavailable, Undeliverable
from tests.processes.node import Program, main, say

BEAT = 0.01
AFTER_REFUSAL = 0.1
BATCH = 100  # events sent before others have their turn
TAKEN = 100  # clients claimed at once


def name(number: int) -> str:
    """Return the name of a client."""
    return f"crowd/{number}"


class Crowd(Program):
    """What the node does on command."""

    _handled: Counter[str]
    _reported: Counter[str]
    _stopped = False

    async def begin(self) -> None:
        """Count from here on."""
        self._handled = Counter()
        self._reported = Counter()

    async def hold(self, count: int, start: int = 0) -> None:
        """Claim so many clients, from number *start* on, a part at a time; say when half of them are held."""
        for first in range(0, count, TAKEN):
            numbers = range(start + first, start + min(count, first + TAKEN))
            await asyncio.gather(*(self._hold(name(number)) for number in numbers))
            if first <= count // 2 < first + TAKEN:
                say("holds half")

    async def send_each(self, count: int) -> int:
        """Send an event to each of so many clients; return how many sends were accepted."""
        accepted = 0
        for number in range(count):
            try:
                await self._bus.send(name(number), "hello")
            except ClientNotFound:
                continue
            accepted += 1
        await self._bus.flush()
        return accepted

    async def send_on(self, count: int) -> None:
        """Send to so many clients in turn, and measure how long this node stands still meanwhile."""
        self._stalls: list[tuple[float, float]] = []
        self._waits: list[tuple[int, float]] = []
        self._accepted = 0
        self._group.create_task(self._send_on(count))
        self._group.create_task(self._beat())

    async def stop(self) -> list[float]:
        """Send no more; return the longest standstill in seconds, and the most seconds of CPU in one."""
        self._stopped = True
        return [max(took for took, _ in self._stalls), max(cpu for _, cpu in self._stalls)]

    async def sends(self) -> tuple[int, list[tuple[int, float]]]:
        """Return how many events were accepted, and of each send that had to wait for room: to whom, how long."""
        return self._accepted, self._waits

    async def counts(self) -> tuple[int, int]:
        """Return how many events were handled here, and how many were reported."""
        return self._handled.total(), self._reported.total()

    async def open_clients(self) -> list[str]:
        """Return the clients whose handles are open."""
        return [client for client, handle in self._clients.items() if await _is_open(handle)]

    async def owners(self, count: int) -> dict[str, str]:
        """Return the owner of each client that has one."""
        found = await asyncio.gather(*(self._bus.locate(name(number)) for number in range(count)))
        return {name(number): owner.node for number, owner in enumerate(found) if owner is not None}

    def undeliverable(self, fate: Undeliverable) -> None:
        """Count it."""
        self._reported[fate.target] += 1

    async def _hold(self, client: str) -> None:
        handled = self._handled

        def handle(event: Event) -> None:
            handled[event.target] += 1

        handle_of = self._clients[client] = self._bus.client(client, handler=handle)
        await handle_of.__aenter__()

    async def _send_on(self, count: int) -> None:
        outbox = self._bus._node.outbox
        for turn, number in enumerate(cycle(range(count))):
            if self._stopped:
                return
            began, waited = monotonic(), outbox.waits
            try:
                await self._bus.send(name(number), "hello")
                self._accepted += 1
            except (ClientNotFound, TransportUnavailable):
                await asyncio.sleep(AFTER_REFUSAL)
            if outbox.waits > waited:
                self._waits.append((number, monotonic() - began))
            if not turn % BATCH:
                await asyncio.sleep(BEAT)

    async def _beat(self) -> None:
        while not self._stopped:
            began, worked = monotonic(), thread_time()
            await asyncio.sleep(BEAT)
            self._stalls.append((monotonic() - began - BEAT, thread_time() - worked))


async def _is_open(handle: Client) -> bool:
    try:
        await handle.unsubscribe("nothing")  # raises if the client is not held any more
    except EventBusError:
        return False
    return True


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Crowd)
