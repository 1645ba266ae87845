"""What frames cost the servers of each topology, and the seed's case on each; the topologies take turns."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Final

import anyio
import msgspec

from eventbus_core.api.discovery import load_backend
from eventbus_core.backend import Frame, Partition, Transport, TransportURI, lane_partition
from tests.benchmarks.brokers import SERVERS, Broker, broker
from tests.benchmarks.cases import Case
from tests.benchmarks.measure import RunFailed, measure
from tests.servers import ServerError

LANES: Final = [lane_partition(lane) for lane in range(64)]
IN_A_WRITE: Final = 20
SIZES: Final = (10_240, 1024)
BYTES: Final = 200_000_000
"""Of frames of one size, in a measurement; at most :data:`FRAMES` of them."""
FRAMES: Final = 20_000
SEED: Final = Case(scenario="seed", traffic="addressed")


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """
    What frames of one size cost, each with one receiver.

    Attributes:
        cpu: microseconds of all servers for a frame.
        busiest: the same, of the server that had most to do.
        rate: frames a second, with the servers and two transports on the cores of this machine.
    """

    size: int
    cpu: float
    busiest: float
    rate: float


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement of a topology: frames, and the rate and faults of the seed's case."""

    topology: str
    costs: list[Cost]
    delivered: float
    server_cpu: float
    faults: int
    version: str

    def line(self) -> str:
        """Return the figures in a line."""
        costs = ", ".join(
            f"{cost.cpu:.1f} us ({cost.busiest:.1f}) a frame of {cost.size:,} bytes, {cost.rate:,.0f}/s"
            for cost in self.costs
        )
        return f"{self.topology:20} {costs}; seed {self.delivered:,.0f}/s, {self.faults} faults"


def record_topologies(path: Path, reps: int, only: Iterable[str] = ()) -> None:
    """Measure each topology so often, the topologies in turn; show each, and record it at *path*."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(only) or list(SERVERS)
    with path.open("ab") as file:
        for _ in range(reps):
            for name in names:
                try:
                    one = _measured(name)
                except (RunFailed, ServerError) as error:
                    print(f"{name} FAILED: {error}", flush=True)
                    continue
                print(one.line(), flush=True)
                file.write(msgspec.json.encode(one) + b"\n")


def load_topologies(path: Path) -> list[Measured]:
    """Return what was recorded at *path*."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [msgspec.json.decode(line, type=Measured) for line in lines]


def _measured(name: str) -> Measured:
    with broker(name) as place:
        costs = [asyncio.run(_frames(place, size)) for size in SIZES]
        version = place.version
    seed = measure(SEED, "eventbus", 1.0, 1, on=name)
    return Measured(
        topology=name,
        costs=costs,
        delivered=seed.rate,
        server_cpu=seed.server_cpu_per_event,
        faults=seed.lost + seed.duplicated + seed.misrouted + seed.reordered,
        version=version,
    )


async def _frames(place: Broker, size: int) -> Cost:
    """Publish frames to all lanes, those of each server in writes of their own, and have one transport receive them."""
    frames = min(FRAMES, BYTES // size)
    async with _opened(place.uri, "sender") as sender, _opened(place.uri, "receiver") as receiver:
        await receiver.join(LANES)
        parts: defaultdict[str, list[Partition]] = defaultdict(list)
        for lane in LANES:
            parts[sender.route(lane)].append(lane)
        total = sum(_writes(frames, len(lanes)) * IN_A_WRITE for lanes in parts.values())
        before, began = place.loads(), monotonic()
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(_receive, receiver, total)
                for lanes in parts.values():
                    group.start_soon(_publish, sender, lanes, _writes(frames, len(lanes)), bytes(size))
        took = monotonic() - began
        used = [after - load for after, load in zip(place.loads(), before, strict=True)]
    return Cost(size=size, cpu=sum(used) / total * 1e6, busiest=max(used) / total * 1e6, rate=total / took)


def _writes(frames: int, lanes: int) -> int:
    return max(1, frames * lanes // len(LANES) // IN_A_WRITE)


async def _publish(sender: Transport, lanes: list[Partition], writes: int, data: bytes) -> None:
    """Write, and wait for the answer, so often: the receiver keeps up with that."""
    for first in range(writes):
        await sender.publish(
            [Frame(lanes[(first * IN_A_WRITE + place) % len(lanes)], data) for place in range(IN_A_WRITE)]
        )


async def _receive(receiver: Transport, total: int) -> None:
    arrived = 0
    async for item in receiver.receive():
        arrived += isinstance(item, Frame)
        if arrived == total:
            return


@asynccontextmanager
async def _opened(uri: str, node: str) -> AsyncIterator[Transport]:
    parsed = TransportURI.parse(uri)
    async with load_backend(parsed.scheme)(parsed, node) as transport:
        yield transport
