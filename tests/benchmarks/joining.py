"""What nodes cost that join each other and then do nothing: processor time, frames and memory."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import monotonic, process_time
from typing import Final

import msgspec

import eventbus

SETTLING: Final = 5.0
"""Seconds after the last node has joined until none sends anything because of that."""
MOST_SETTLINGS: Final = 6
IDLE: Final = 10.0


class Joined(msgspec.Struct, frozen=True, kw_only=True):
    """
    What nodes in one process used.

    Attributes:
        wildcard: whether each has a handler of every topic, and so joins all lanes.
        together: whether all joined at the same time, rather than one after the other.
        cpu: seconds until the last one had joined.
        sent, received: frames, until none is sent any more.
        memory: bytes that all of them take.
        idle: seconds of CPU per node and second once all have joined.
        idle_sent, idle_received: frames per node and second then.
    """

    nodes: int
    wildcard: bool
    together: bool
    cpu: float
    sent: int
    received: int
    memory: int
    idle: float
    idle_sent: float
    idle_received: float

    @property
    def pairs(self) -> int:
        """How many pairs the nodes make."""
        return self.nodes * (self.nodes - 1) // 2

    def line(self) -> str:
        """Return the figures in a line."""
        handler = "a wildcard handler each" if self.wildcard else "no handlers"
        return (
            f"{self.nodes:5,} nodes, {handler}, {'together' if self.together else 'one by one'}: "
            f"{self.cpu:6.2f} s of CPU, per pair {self.sent / self.pairs:.2f} frames sent and "
            f"{self.received / self.pairs:.2f} received; {self.memory / 2**20:6.1f} MiB; "
            f"idle {self.idle * 1000:.2f} ms of CPU and {self.idle_sent:.2f} frames per node and second"
        )


async def measure_joining(
    uri: str, nodes: int, *, wildcard: bool, together: bool, settling: float = SETTLING, idle: float = IDLE
) -> Joined:
    """Have *nodes* join, and be idle for so many seconds, once they sent nothing for *settling* seconds."""
    gc.collect()
    memory = _resident()
    began = process_time()
    async with joined_buses(uri, nodes, wildcard=wildcard, together=together) as buses:
        cpu = process_time() - began
        for _ in range(MOST_SETTLINGS):
            before = _frames(buses)
            await asyncio.sleep(settling)
            if _frames(buses) == before:
                break
        gc.collect()
        memory = _resident() - memory
        sent, received = _frames(buses)
        began, since = process_time(), monotonic()
        await asyncio.sleep(idle)
        seconds = nodes * (monotonic() - since)
        used = process_time() - began
        later_sent, later_received = _frames(buses)
        return Joined(
            nodes=nodes,
            wildcard=wildcard,
            together=together,
            cpu=cpu,
            sent=sent,
            received=received,
            memory=memory,
            idle=used / seconds,
            idle_sent=(later_sent - sent) / seconds,
            idle_received=(later_received - received) / seconds,
        )


@asynccontextmanager
async def joined_buses(uri: str, nodes: int, *, wildcard: bool, together: bool) -> AsyncIterator[list[eventbus.Bus]]:
    """Open so many buses, and close them at the end."""
    buses = [eventbus.connect(uri, node=f"node-{number}", namespace="joining") for number in range(nodes)]
    async with AsyncExitStack() as stack:
        if wildcard:
            for bus in buses:
                bus.on(">")(lambda _event: None)
        if together:
            for bus in buses:
                stack.push_async_callback(bus.aclose)
            await asyncio.gather(*(bus.open() for bus in buses))
        else:
            for bus in buses:
                await stack.enter_async_context(bus)
        yield buses


def record_joining(path: Path, sizes: Sequence[int]) -> None:
    """Measure each case in a process of its own, show it, and record it at *path*."""
    cases = [(nodes, wildcard, together) for nodes in sizes for wildcard in (False, True) for together in (False, True)]
    found = [_measured(*case) for case in cases]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in found))


def load_joining(path: Path) -> list[Joined]:
    """Return what was recorded at *path*."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [msgspec.json.decode(line, type=Joined) for line in lines]


def _measured(nodes: int, wildcard: bool, together: bool) -> Joined:
    case = [str(nodes), str(int(wildcard)), str(int(together))]
    run = subprocess.run([sys.executable, "-m", __name__, *case], check=True, capture_output=True)
    one = msgspec.json.decode(run.stdout, type=Joined)
    print(one.line(), flush=True)
    return one


def _frames(buses: Sequence[eventbus.Bus]) -> tuple[int, int]:
    stats = [bus.stats() for bus in buses]
    return sum(one.sent_frames for one in stats), sum(one.received_frames for one in stats)


def _resident() -> int:
    """Return the bytes of memory that this process holds; 0 where the system does not say."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * 4096 if statm.exists() else 0


if __name__ == "__main__":
    size, with_handlers, at_once = map(int, sys.argv[1:])
    measured = asyncio.run(
        measure_joining("memory://joining", size, wildcard=bool(with_handlers), together=bool(at_once))
    )
    sys.stdout.buffer.write(msgspec.json.encode(measured))
