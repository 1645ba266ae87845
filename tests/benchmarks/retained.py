"""What retained topics cost: publishing, memory of the server, readers that come back, and the time of one publish."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any, Final, TypeAlias

import msgspec
from redis.asyncio import Redis

import eventbus
from eventbus import Resumed, Retention
from tests.benchmarks.payload import Dictionary
from tests.benchmarks.peers.base import encode
from tests.servers import RedisServer

QUIET_LEASE: Final = 600.0  # seconds: no renewal falls into a measurement
KEPT: Final = 2000
RETAIN: Final = {"kept.>": Retention(events=KEPT, seconds=600)}
FRAMES: Final = (1, 10, 100)
RUNS: Final = 5
SECONDS: Final = 0.5
READERS: Final = 1000
MISSED: Final = 100
ALONE: Final = 50
PUBLISHES: Final = 500
STREAM: Final = "an entry for each event"
WAYS: Final = ("plain", "retained", STREAM)


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """
    One run of one way to publish.

    Attributes:
        way: ``plain``, ``retained``, or one by hand: XADD for each event, all of a burst in one pipeline.
        events: of a burst; the next burst begins when the server has taken the one before.
        rate: events received per second.
        nodes, server: microseconds of CPU for each event, of both nodes and of the server.
        memory: bytes of the server for each event that is kept; 0 if none is.
    """

    way: str
    events: int
    rate: float
    nodes: float
    server: float
    memory: float


class Came(msgspec.Struct, frozen=True, kw_only=True):
    """
    Readers that came back at once; each had missed :data:`MISSED` events.

    Attributes:
        streams, readers: how many.
        seconds: until all had their events.
        server: seconds of the server's CPU.
        calls: scripts that the server ran; readers of one node at one position share a read.
        alone: milliseconds of a reader that comes alone, the median.
    """

    streams: int
    readers: int
    seconds: float
    server: float
    calls: int
    alone: float


class Took(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds of one call, medians: a PING of redis-py, and the publishes of a bus."""

    ping: float
    plain: float
    retained: float
    durable: float


Figures: TypeAlias = Published | Came | Took
Burst: TypeAlias = Callable[[int], Awaitable[None]]
"""Publishes so many events, and returns once the server has them."""


class Server:
    """A server, two nodes on it, and what it counts."""

    def __init__(self, redis: Redis, reading: Redis, sender: eventbus.Bus, receiver: eventbus.Bus) -> None:
        self.redis = redis
        self.reading = reading
        self.sender = sender
        self.receiver = receiver

    async def cpu(self) -> float:
        """Return the seconds of CPU that the server has used."""
        told = await self.redis.info("cpu")
        return float(told["used_cpu_user"] + told["used_cpu_sys"])

    async def scripts(self) -> int:
        """Return how many scripts the server has run."""
        return int((await self.redis.info("commandstats")).get("cmdstat_evalsha", {}).get("calls", 0))

    async def memory(self) -> int:
        """Return the bytes of all keys of streams."""
        keys = [key async for key in self.redis.scan_iter("*") if key.endswith((b":e", b":p")) or key == b"by hand"]
        return sum([int(await self.redis.memory_usage(key, samples=0) or 0) for key in keys])


class Arrivals:
    """Counts the events that arrive."""

    def __init__(self) -> None:
        self._count = 0
        self._more = asyncio.Event()

    def add(self, events: int) -> None:
        """Count so many."""
        self._count += events
        self._more.set()

    async def wait(self, events: int) -> None:
        """Wait until so many have arrived."""
        async with asyncio.timeout(30):
            while self._count < events:
                self._more.clear()
                await self._more.wait()


@asynccontextmanager
async def running() -> AsyncIterator[Server]:
    """Run a server with two nodes, both in this process."""
    with TemporaryDirectory() as directory, RedisServer(Path(directory)) as server:
        async with AsyncExitStack() as stack:
            redis, reading = (Redis(port=server.port, protocol=2, socket_timeout=None) for _ in range(2))
            one, other = (eventbus.connect(server.uri, retain=RETAIN, lease=QUIET_LEASE) for _ in range(2))
            for each in (redis, reading, one, other):
                await stack.enter_async_context(each)
            yield Server(redis, reading, one, other)


async def measure_publishing(server: Server, way: str, events: int, seconds: float = SECONDS) -> Published:
    """Publish bursts of so many *events* one *way* for so many *seconds*, until the last event is received."""
    await _drop_streams(server.redis)
    arrivals = Arrivals()
    topic = "kept.published" if way == "retained" else "plain.published"
    ways = _by_hand(server, arrivals) if way == STREAM else _on_the_bus(server, topic, arrivals)
    async with ways as burst:
        await burst(1)
        await arrivals.wait(1)
        sent, begun, own, before = 0, perf_counter(), process_time(), await server.cpu()
        while perf_counter() - begun < seconds:
            await burst(events)
            sent += events
        await arrivals.wait(1 + sent)
        took, own, used = perf_counter() - begun, process_time() - own, await server.cpu() - before
    memory = await server.memory() / min(1 + sent, KEPT)
    return Published(
        way=way, events=events, rate=sent / took, nodes=own / sent * 1e6, server=used / sent * 1e6, memory=memory
    )


async def measure_resuming(server: Server, streams: int, readers: int = READERS) -> Came:
    """Have so many clients of both nodes resume so many topics at once, and some of them one after the other."""
    topics = [f"kept.resumed.{number}" for number in range(streams)]
    make, buses = Dictionary().make, (server.sender, server.receiver)
    async with AsyncExitStack() as stack:
        for bus in buses:  # both nodes follow the topics, as they do while users come and go
            await stack.enter_async_context(bus.on("kept.resumed.*", lambda _event: None))
            await bus.ready()
        for topic in topics:
            for number in range(MISSED + 1):
                await server.sender.publish(topic, make(0, number, 0))
        await server.sender.flush()
        since = [(await server.sender.history(topic, limit=MISSED + 1))[0].position for topic in topics]
        clients = [
            await stack.enter_async_context(buses[number % 2].client(f"reader-{number}")) for number in range(readers)
        ]

        async def come(number: int) -> float:
            begun = perf_counter()
            answer = await clients[number].subscribe(topics[number % streams], since=since[number % streams])
            assert isinstance(answer, Resumed)
            assert answer.events == MISSED
            for _ in range(MISSED):
                await clients[number].receive()
            return perf_counter() - begun

        alone = []
        for number in range(min(readers, ALONE)):
            alone.append(await come(number))
            await clients[number].unsubscribe(topics[number % streams])
        begun, cpu, calls = perf_counter(), await server.cpu(), await server.scripts()
        await asyncio.gather(*map(come, range(readers)))
        came = Came(
            streams=streams,
            readers=readers,
            seconds=perf_counter() - begun,
            server=await server.cpu() - cpu,
            calls=await server.scripts() - calls,
            alone=median(alone) * 1000,
        )
    await _drop_streams(server.redis)
    return came


async def measure_latencies(server: Server, publishes: int = PUBLISHES) -> Took:
    """Time single calls on an idle bus, each kind in turn."""
    bus, data = server.sender, Dictionary().make(0, 0, 0)
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "ping": server.redis.ping,
        "plain": lambda: bus.publish("plain.timed", data),
        "retained": lambda: bus.publish("kept.timed", data),
        "durable": lambda: bus.publish("kept.timed", data, durable=True),
    }
    took: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(publishes):
        for name, call in calls.items():
            begun = perf_counter()
            await call()
            took[name].append(perf_counter() - begun)
            await bus.flush()
    return Took(**{name: median(times) * 1000 for name, times in took.items()})


async def measure_retained(runs: int = RUNS) -> list[Figures]:
    """Measure so many *runs* of each case in turn, and show them."""
    found: list[Figures] = []

    def note(one: Figures) -> None:
        found.append(one)
        print(one, flush=True)

    async with running() as server:
        for _ in range(runs):
            for events in FRAMES:
                for way in WAYS:
                    note(await measure_publishing(server, way, events))
            for streams in (1, READERS):
                note(await measure_resuming(server, streams))
            note(await measure_latencies(server))
    return found


def record_retained(path: Path) -> None:
    """Measure all cases, and record them at *path*."""
    found = asyncio.run(measure_retained())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(msgspec.json.encode({type(one).__name__: one}) + b"\n" for one in found))


def load_retained(path: Path) -> list[Figures]:
    """Return what was recorded at *path*."""
    kinds: dict[str, type[Figures]] = {kind.__name__: kind for kind in (Published, Came, Took)}
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [msgspec.convert(value, kinds[name]) for line in lines for name, value in msgspec.json.decode(line).items()]


@asynccontextmanager
async def _on_the_bus(server: Server, topic: str, arrivals: Arrivals) -> AsyncIterator[Burst]:
    make = Dictionary().make

    async def burst(events: int) -> None:
        for number in range(events):
            await server.sender.publish(topic, make(0, number, 0))
        await server.sender.flush()

    registration = server.receiver.on(topic, lambda _event: arrivals.add(1))
    await server.receiver.ready()
    try:
        yield burst
    finally:
        registration.off()


@asynccontextmanager
async def _by_hand(server: Server, arrivals: Arrivals) -> AsyncIterator[Burst]:
    make = Dictionary().make

    async def burst(events: int) -> None:
        pipeline = server.redis.pipeline(transaction=False)
        for number in range(events):
            pipeline.xadd("by hand", {"b": encode(make(0, number, 0))}, maxlen=KEPT)
        await pipeline.execute()

    async def read() -> None:
        last = b"0"
        while True:
            found: Any = await server.reading.xread({"by hand": last}, block=0, count=1000)
            for _, entries in found:
                arrivals.add(len(entries))
                last = entries[-1][0]

    reading = asyncio.create_task(read())
    try:
        yield burst
    finally:
        reading.cancel()
        await asyncio.wait([reading])


async def _drop_streams(redis: Redis) -> None:
    keys: Sequence[bytes] = [key async for key in redis.scan_iter("*:h:*")]
    await redis.delete("by hand", *keys)
