"""How cost grows: what an event makes a server do, by reckoning, and counted by Redis itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal, TypeAlias

import anyio
import msgspec
import redis

import eventbus
from tests.benchmarks.payload import Dictionary
from tests.servers import RedisServer

Kind: TypeAlias = Literal["client", "topic", "everyone"]

EVENTS: Final = 1000
QUIET_LEASE: Final = 600.0  # seconds: no renewal falls into a measurement
FIXED_CHANNELS: Final = 3  # of each node: its own, that of all nodes, and that of its probes


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """
    What Redis counted for events of one kind, per event, beside what it should be.

    Attributes:
        nodes, subscribers: on the bus, and those among them that want what is published or broadcast.
        publishes: PUBLISH commands.
        bytes_in, bytes_out: at the server.
        copies: how often the server sends on what it gets; ``bytes_out`` by ``bytes_in``.
        expected: what *copies* should be.
        channels: subscriptions at the server, and what they should be.
    """

    kind: Kind
    nodes: int
    subscribers: int
    publishes: float
    bytes_in: float
    bytes_out: float
    copies: float
    expected: int
    channels: int
    expected_channels: int


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """The memory that the directory takes for clients, in bytes a client."""

    clients: int
    bytes_each: float


def copies(kind: Kind, nodes: int, subscribers: int) -> int:
    """Return how often the server sends on an event: to each node that is subscribed, the sender's included."""
    return {"client": 1, "topic": subscribers, "everyone": nodes}[kind]


def channels(nodes: int, subscribers: int, lanes: int = 1) -> int:
    """Return how many subscriptions the server keeps if each subscriber needs so many *lanes*."""
    return FIXED_CHANNELS * nodes + lanes * subscribers


def frames_per_event(nodes: int, batch: int) -> float:
    """Return how many frames an event needs if *batch* of them, at random for all other nodes, are written together."""
    others = nodes - 1
    return others * (1 - (1 - 1 / others) ** batch) / batch


async def count(server: redis.Redis, uri: str, kind: Kind, nodes: int, subscribers: int) -> Growth:
    """Send events of one *kind* from the first of *nodes*, and return what the server, which has no other work, did."""
    async with _buses(uri, kind, nodes, subscribers) as (buses, came):
        sender = buses[0]

        async def send(data: Any) -> None:
            match kind:
                case "client":
                    await sender.send(f"client-{nodes - 1}", "message", data)
                case "topic":
                    await sender.publish("topic", data)
                case "everyone":
                    await sender.broadcast("message", data)

        receivers = subscribers or 1
        await send(None)
        await _until(came, receivers)
        asking = _difference(_counters(server), _counters(server))  # to ask costs bytes too
        before = _counters(server)
        for number in range(EVENTS):
            await send(Dictionary().make(1, number, 0))
        await _until(came, receivers * (EVENTS + 1))
        done = _difference(asking, _difference(before, _counters(server)))
        publishes, bytes_in, bytes_out = (number / EVENTS for number in done)
        return Growth(
            kind=kind,
            nodes=nodes,
            subscribers=subscribers,
            publishes=publishes,
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            copies=bytes_out / bytes_in,
            expected=copies(kind, nodes, subscribers),
            channels=_subscriptions(server),
            expected_channels=channels(nodes, subscribers),
        )


async def weigh(server: redis.Redis, uri: str, clients: int) -> Held:
    """Claim so many *clients*, and return what the server keeps for each."""
    async with eventbus.connect(uri, node="holder", namespace=f"held-{clients}", lease=QUIET_LEASE) as bus:
        before = server.info("memory")["used_memory"]
        held = [bus.client(f"tenant/client-{number}") for number in range(clients)]
        await asyncio.gather(*(client.__aenter__() for client in held))
        return Held(clients=clients, bytes_each=(server.info("memory")["used_memory"] - before) / clients)


def record_growth(path: Path) -> None:
    """Count and weigh on a server of our own, show it, and record it at *path*."""
    found: list[Growth | Held] = []
    with TemporaryDirectory() as directory, RedisServer(Path(directory)) as running:
        server = redis.Redis(port=running.port)
        for kind, nodes, subscribers in _CASES:
            found.append(asyncio.run(count(server, running.uri, kind, nodes, subscribers)))
        found += [asyncio.run(weigh(server, running.uri, clients)) for clients in (100, 1000, 10_000)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in found))
    for one in found:
        print(one)


def load_growth(path: Path) -> tuple[list[Growth], list[Held]]:
    """Return what was recorded at *path*."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    return (
        [msgspec.json.decode(line, type=Growth) for line in lines if b'"kind"' in line],
        [msgspec.json.decode(line, type=Held) for line in lines if b'"kind"' not in line],
    )


_CASES: Final[tuple[tuple[Kind, int, int], ...]] = (
    *(("client", nodes, 0) for nodes in (2, 4, 8, 16)),
    *(("everyone", nodes, nodes) for nodes in (2, 4, 8, 16)),
    *(("topic", 16, subscribers) for subscribers in (1, 4, 16)),
)


@asynccontextmanager
async def _buses(
    uri: str, kind: Kind, nodes: int, subscribers: int
) -> AsyncIterator[tuple[list[eventbus.Bus], list[int]]]:
    """Open so many nodes with a client each, the last *subscribers* of which want more; what came is counted."""
    came = [0]

    def handle(event: eventbus.Event) -> None:
        came[0] += 1

    async with AsyncExitStack() as stack:
        buses: list[eventbus.Bus] = []
        for node in range(nodes):
            bus = await stack.enter_async_context(
                eventbus.connect(uri, node=f"node-{node}", namespace="growth", lease=QUIET_LEASE)
            )
            client = await stack.enter_async_context(bus.client(f"client-{node}", handler=handle))
            if node < nodes - subscribers:
                pass
            elif kind == "topic":
                await client.subscribe("topic")
            else:
                bus.on("message")(handle)
                await bus.ready()
            buses.append(bus)
        yield buses, came


async def _until(came: list[int], number: int) -> None:
    with anyio.fail_after(60):
        while came[0] < number:  # noqa: ASYNC110 - the number may be passed between two looks
            await asyncio.sleep(0.001)


def _counters(server: redis.Redis) -> list[int]:
    info = server.info("everything")
    publishes = info.get("cmdstat_publish", {"calls": 0})["calls"]
    return [publishes, info["total_net_input_bytes"], info["total_net_output_bytes"]]


def _difference(before: list[int], after: list[int]) -> list[int]:
    return [now - then for then, now in zip(before, after, strict=True)]


def _subscriptions(server: redis.Redis) -> int:
    return sum(int(client["sub"]) for client in server.client_list())
