"""A node under load, in a process of its own: ``python -m tests.faults.node URI NODE``."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from itertools import count, cycle
from pathlib import Path
from time import monotonic
from typing import Any, Final

import attrs

from eventbus import Bus, ClientNotFound, Event, EventBusError, Gap, TransportUnavailable, Undeliverable
from eventbus_core.cli.demo.check import BODIES, body_of
from eventbus_core.cli.demo.plan import Plan, client_name
from tests.faults.journal import Journal
from tests.processes.node import Program, main, say

EVERYTHING: Final = "load.everyone"
EVENT: Final = "n"
TICK: Final = 0.01
CATCH_UP: Final = 0.1  # seconds' worth of events that may be sent at once
BURST: Final = 64
AFTER_REFUSAL: Final = 0.05


def topic(plan: Plan, receiver: int) -> str:
    """Return the topic, or the type of the broadcasts, of *receiver*."""
    return EVERYTHING if receiver == plan.everyone else plan.topic(receiver)


class Loaded(Program):
    """What the node does on command; events are numbered per stream, see :class:`Plan`."""

    def __init__(self, bus: Bus, group: asyncio.TaskGroup) -> None:
        super().__init__(bus, group)
        bus.on_gap(lambda gap: self._gap(gap))
        bus.on_dropped(lambda name, dropped: say("dropped", name=name, missed=dropped.missed))
        bus.on_disconnected(lambda reason: say("disconnected", reason=reason))
        bus.on_reconnected(lambda: say("reconnected"))
        self._accepted: Counter[int] = Counter()
        self._refused: Counter[str] = Counter()
        self._rate: float | None = 0.0
        self._sending: list[asyncio.Task[None]] = []
        self._over = False

    async def begin(self, folder: str, clients: int, nodes: int) -> None:
        """Take part in a plan of so many *clients* and *nodes*, with journals in *folder*."""
        bus = self._bus
        self._plan = Plan(bus.namespace, nodes, clients, 0.0)
        self._clients_by_name = {client_name(client): client for client in range(clients)}
        self._first = self._plan.stream(int(bus.node.rpartition("-")[2]) - 1, 0)
        self._sent, self._handled, self._reported = (
            Journal(Path(folder, f"{bus.node}.{kind}")) for kind in ("sent", "handled", "reported")
        )

    async def hold(self, clients: list[int], delay: float = 0.0) -> None:
        """Claim *clients*; their handlers take so much *delay* for each event."""
        for client in clients:
            handler = self._handler(client)
            handle = self._bus.client(client_name(client), handler=_slow(handler, delay) if delay else handler)
            await handle.__aenter__()
            self._clients[handle.name] = handle

    async def listen(self) -> None:
        """Handle the topics and the broadcasts."""
        for receiver in range(self._plan.clients, self._plan.receivers):
            self._bus.on(topic(self._plan, receiver))(self._handler(receiver))
        await self._bus.ready()

    async def load(self, rate: float | None, groups: list[list[int]]) -> None:
        """Send so many events a second, or as many as go; what one group waits for holds up no other."""
        self._rate = rate
        total = sum(map(len, groups))
        for group in groups:
            self._sending.append(asyncio.create_task(self._send_on(group, len(group) / total)))

    async def pace(self, rate: float) -> None:
        """Go on with so many events a second."""
        self._rate = rate

    async def stop(self) -> dict[str, int]:
        """Send no more; return how many sends were refused, by the reason."""
        self._over = True
        await asyncio.gather(*self._sending)
        return self._refused

    async def churn(self, rate: float) -> None:
        """Have so many more clients a second connect, subscribe, get an event, and leave."""
        self._sending.append(asyncio.create_task(self._churn(rate)))

    async def stats(self) -> dict[str, Any]:
        """Return what the bus has counted."""
        return attrs.asdict(self._bus.stats())

    async def try_claim(self) -> None:
        """Claim some client, and leave it at once."""
        async with self._bus.client("someone"):
            pass

    def undeliverable(self, fate: Undeliverable) -> None:
        """Note which of the events that were sent will not be handled."""
        client = self._clients_by_name.get(fate.target)
        if client is not None:
            self._reported.add(self._first + client, int(fate.type.partition(".")[2]))

    def _gap(self, gap: Gap) -> None:
        say("gap", source=gap.source, partition=gap.partition, missed=gap.missed)

    def _handler(self, receiver: int) -> Callable[[Event], None]:
        add, receivers = self._handled.add, self._plan.receivers

        def handle(event: Event) -> None:
            stream, number, body = event.data
            if stream % receivers != receiver or body != BODIES[(stream + number) & 63]:
                say("damaged", receiver=receiver, data=event.data)
            add(stream, number)

        return handle

    async def _send_on(self, receivers: list[int], share: float) -> None:
        turns = cycle(receivers)
        owed, last = 0.0, monotonic()
        while not self._over:
            now = monotonic()
            if self._rate is None:
                owed = BURST
            else:
                rate = self._rate * share
                owed = min(owed + (now - last) * rate, max(1.0, rate * CATCH_UP))
            last = now
            while owed >= 1 and not self._over:
                owed -= 1
                await self._send(next(turns))
            await asyncio.sleep(0 if self._rate is None else TICK)

    async def _send(self, receiver: int) -> None:
        plan, bus = self._plan, self._bus
        stream, number = self._first + receiver, self._accepted[receiver]
        data = stream, number, body_of(stream, number)
        try:
            if receiver < plan.clients:
                await bus.send(client_name(receiver), f"{EVENT}.{number}", data)
            elif receiver < plan.everyone:
                await bus.publish(topic(plan, receiver), data)
            else:
                await bus.broadcast(EVERYTHING, data)
        except (ClientNotFound, TransportUnavailable) as error:
            self._refused[type(error).__name__] += 1
            await asyncio.sleep(AFTER_REFUSAL)
        else:
            self._accepted[receiver] = number + 1
            self._sent.add(stream, number)

    async def _churn(self, rate: float) -> None:
        began = monotonic()
        async with asyncio.TaskGroup() as visits:
            for number in count():
                await asyncio.sleep(max(0.0, began + number / rate - monotonic()))
                if self._over:
                    return
                visits.create_task(self._visit(f"guest/{self._bus.node}-{number}"))

    async def _visit(self, name: str) -> None:
        try:
            async with self._bus.client(name) as guest:
                await guest.subscribe(topic(self._plan, self._plan.clients))
                await self._bus.send(name, "hello")
                await guest.receive()
        except EventBusError as error:
            self._refused[f"visit: {type(error).__name__}"] += 1
        else:
            self._refused["visits"] += 1


def _slow(handle: Callable[[Event], None], delay: float) -> Callable[[Event], Coroutine[Any, Any, None]]:
    async def later(event: Event) -> None:
        await asyncio.sleep(delay)
        handle(event)

    return later


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Loaded)
