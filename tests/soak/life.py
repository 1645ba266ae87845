"""What comes and goes in a soak: nodes, clients, subscriptions, requests, and faults."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel
import attrs
import redis.asyncio
from redis.exceptions import RedisError

import eventbus
from eventbus import Bus, Event, EventBusError
from eventbus_core.api.bus import Bus as CoreBus
from eventbus_core.api.discovery import load_backend
from eventbus_core.backend import TransportURI
from eventbus_core.model.names import check_topic
from eventbus_core.options import BusOptions
from eventbus_core.routing.undeliverable import MAX_TOLD
from eventbus_core.testing.hosts import fresh_namespace
from eventbus_core.testing.simulation.cut_links import CuttableTransport
from eventbus_core.testing.waiting import tasks
from eventbus_core.wrappers.base import wrapped

RESIDENTS = 3
VISITORS = 6
FAULTS = "drop=0.01&double=0.01&reorder=0.01&cut=0.0005"
# Small, so that what is bounded reaches its bounds while the run is young.
BOUNDS: dict[str, Any] = {
    "lanes": 8,
    "lease": 1.0,
    "owner_cache": 200,
    "resend_size": 64 * 1024,
    "resend_age": 3.0,
    "presence": True,
}
KILL_EVERY = 5.0


@attrs.define
class Life:
    """
    The comings and goings in one namespace at *uri*.

    Attributes:
        done: operations so far, by kind.
        failed: those that ended with an error of the bus, as faults make them.
    """

    uri: str
    seed: int = 0
    done: Counter[str] = attrs.field(factory=Counter)
    failed: Counter[str] = attrs.field(factory=Counter)
    _namespace: str = attrs.field(factory=fresh_namespace)
    _residents: list[Bus] = attrs.field(factory=list)
    _numbers: Any = attrs.field(factory=lambda: itertools.count(1))
    _luck: random.Random = attrs.field(factory=random.Random)

    @property
    def operations(self) -> int:
        """How many operations were done so far."""
        return self.done.total()

    async def run(self) -> None:
        """Live until cancelled."""
        self._luck.seed(self.seed)
        async with anyio.create_task_group() as group, self._resident(0), self._resident(1), self._resident(2):
            await self._fill_caches()
            for _ in range(VISITORS):
                group.start_soon(self._repeat, self._visit)
            group.start_soon(self._repeat, self._passing_node)
            group.start_soon(self._repeat, self._dying_node)
            if self.uri.startswith("redis"):
                group.start_soon(self._kill_connections)
            await anyio.sleep_forever()

    async def _fill_caches(self) -> None:
        """Fill the caches of names and of reported events to their bounds, which a short run does not reach."""
        for number in range(5000):
            check_topic(f"event.of.long.ago.{number:020}")
        for bus in self._residents:
            for _ in range(MAX_TOLD):
                await bus.send(bus.address, "without.handler")

    def _resident(self, number: int) -> Bus:
        bus = self._connect(f"n{number}")
        bus.on("question")(bus.reply)
        bus.on("soak.>")(_take)
        self._residents.append(bus)
        return bus

    def _connect(self, node: str) -> Bus:
        uri = f"chaos+{self.uri}?{FAULTS}&seed={self.seed}"
        return eventbus.connect(uri, node=node, namespace=self._namespace, **BOUNDS)

    async def _repeat(self, operation: Callable[[], Awaitable[None]]) -> None:
        while True:
            with _tolerant(self.failed):
                await operation()
            await anyio.lowlevel.checkpoint()

    async def _do(self, kind: str, what: Awaitable[object]) -> None:
        self.done[kind] += 1
        with _tolerant(self.failed):
            await what

    async def _visit(self) -> None:
        """One client comes, does what clients do, and goes; or is taken over, cancelled, or left to linger."""
        home, away = self._luck.sample(self._residents, 2)
        name = f"tenant/client-{next(self._numbers)}"
        pattern = self._luck.choice((f"room.{name.replace('/', '.')}", "room.*", "room.>"))
        handled = self._luck.random() < 0.5
        lingers = self._luck.random() < 0.1
        self.done["claim"] += 1
        async with home.client(name, handler=_take if handled else None, linger=0.2 if lingers else 0.0) as client:
            await self._do("subscribe", client.subscribe(pattern))
            await self._do("send", away.send(name, "hello", {"text": name}, headers={"from": "afar"}))
            await self._do("publish", away.publish(f"room.{name.replace('/', '.')}", [name] * 10))
            await self._do("request", client.request(away.address, "question", timeout=1.0))
            await self._do("request without an answer", away.request(name, "question", timeout=0.01))
            await self._do("request to no client", away.request(f"{name}-not", "question", timeout=0.01))
            await self._do("handler", self._come_and_go(away, f"event.{next(self._numbers)}"))
            await self._do("cancelled claim", self._cancelled(away, name))
            if self._luck.random() < 0.3:
                await self._do("takeover", self._take_over(away, name))
            if self._luck.random() < 0.1:
                await self._do("broadcast", client.send(home.address, "soak.note"))
                await self._do("broadcast", home.broadcast("soak.all", name))
            await self._do("unsubscribe", client.unsubscribe(pattern))
        self.done["release"] += 1

    async def _come_and_go(self, bus: Bus, pattern: str) -> None:
        bus.on(pattern)(handler := _Handler())
        await bus.emit(pattern, pattern)
        bus.off(handler)
        with anyio.move_on_after(0.001):
            await bus.wait_for(pattern)

    async def _cancelled(self, bus: Bus, name: str) -> None:
        with anyio.move_on_after(self._luck.random() * 0.002):
            async with bus.client(f"{name}-cancelled"):
                await anyio.sleep_forever()

    async def _take_over(self, bus: Bus, name: str) -> None:
        async with bus.client(name) as heir:
            with anyio.move_on_after(0.01):
                await heir.receive()

    async def _passing_node(self) -> None:
        """A node comes, takes part, and leaves in good order."""
        self.done["node"] += 1
        async with self._connect(f"passing-{next(self._numbers)}") as bus:
            await self._take_part(bus)

    async def _dying_node(self) -> None:
        """A node comes, takes part, and is cut off for good; its lease ends."""
        self.done["dead node"] += 1
        uri = attrs.evolve(TransportURI.parse(self.uri), namespace=self._namespace)
        transport = wrapped(CuttableTransport, load_backend(uri.scheme))(uri, f"dying-{next(self._numbers)}")
        options = BusOptions(node=transport.node, namespace=self._namespace, **BOUNDS)
        async with tasks() as group:
            group.start_soon(transport.pump)
            async with CoreBus(transport, options) as bus, bus.client(f"{transport.node}/client"):
                await self._take_part(bus)
                transport.cut()

    async def _take_part(self, bus: Bus) -> None:
        bus.on("soak.>")(_take)
        await self._do("broadcast", bus.broadcast("soak.all", bus.node))
        for resident in self._residents:
            await self._do("request", bus.request(resident.address, "question", timeout=1.0))
            await self._do("send", resident.send(bus.address, "soak.note"))
        await anyio.sleep(self._luck.random())

    async def _kill_connections(self) -> None:
        """Have the server kill all its connections now and then, ours among them."""
        kinds = itertools.cycle(("pubsub", "normal"))
        while True:
            await anyio.sleep(KILL_EVERY * self._luck.uniform(0.5, 1.5))
            with suppress(RedisError):
                async with redis.asyncio.from_url(self.uri) as server:
                    await server.execute_command(  # type: ignore[no-untyped-call]
                        "CLIENT", "KILL", "TYPE", next(kinds), "SKIPME", "yes"
                    )
                    self.done["kill"] += 1


class _Handler:
    """Does nothing with what it gets; each is another."""

    def __call__(self, event: Event) -> None:
        pass


async def _take(event: Event) -> None:
    pass


@attrs.frozen
class _tolerant:
    """Counts errors of the bus, which faults may bring about, and goes on."""

    failed: Counter[str]

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> bool:
        if kind is None or not issubclass(kind, EventBusError):
            return False
        self.failed[kind.__name__] += 1
        return True
