"""
What 100,000 clients on one node cost: ``python -m tests.benchmarks.bulk URI [--clients N]``.

The node runs in a process of its own, which is killed at the end. The longest time for which the server did
nothing else is read from its slow log, whose threshold is lowered meanwhile; give it a server of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import multiprocessing
import os
import signal
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from secrets import token_hex
from time import monotonic, process_time, sleep
from typing import Any, Final

import attrs
import redis

import eventbus
from eventbus import Bus, Client, Event

FEW: Final = 15
CLAIMS_AT_A_TIME: Final = 1000
SENDS: Final = 20_000
THRESHOLD: Final = 500  # microseconds, from which the slow log keeps a command
PREFIX: Final = "eventbus"
POLL: Final = 0.01


@attrs.frozen
class Cost:
    """What one event costs, in microseconds: the time that passes, and the processor time of the sending process."""

    elapsed: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.elapsed:6.1f} us an event, {self.cpu:6.1f} us CPU in the sender"


def name(number: int) -> str:
    """Return the name of a client."""
    return f"acme/client-{number:06}"


class Holder:
    """The node with the clients; obeys the parent, command by command."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._clients: list[Client] = []
        self._handled = 0
        self._due: tuple[int, asyncio.Event] = (0, asyncio.Event())

    async def claim(self, count: int, *, handler: bool) -> float:
        """Claim until there are *count* clients; return the seconds that it took."""
        first = len(self._clients)
        handles = [
            self._bus.client(name(number), handler=self._handle if handler else None) for number in range(first, count)
        ]
        began = monotonic()
        left = iter(handles)

        async def claim_on() -> None:
            for handle in left:
                await handle.__aenter__()

        await asyncio.gather(*(claim_on() for _ in range(CLAIMS_AT_A_TIME)))
        took = monotonic() - began
        self._clients += handles
        return took

    async def send(self, count: int) -> Cost:
        """Send to the first *count* clients, all of this node."""
        return await cost(self._bus, count, self.handled)

    async def handled(self, more: int) -> None:
        """Return once as many *more* events have been handled since the last call."""
        goal = self._due[0] + more
        done = asyncio.Event()
        self._due = goal, done
        if self._handled < goal:
            await done.wait()

    def rss(self) -> int:
        """Return the bytes of memory that the process holds."""
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def _handle(self, _event: Event) -> None:
        self._handled += 1
        if self._handled == self._due[0]:
            self._due[1].set()


async def cost(bus: Bus, count: int, handled: Callable[[int], Awaitable[object]]) -> Cost:
    """Send to *count* clients in turn, until all was handled."""
    names = [name(number) for number in range(count)]
    began, cpu = monotonic(), process_time()
    for number in range(SENDS):
        await bus.send(names[number % count], "bulk.sent", number)
    await handled(SENDS)
    return Cost(1e6 * (monotonic() - began) / SENDS, 1e6 * (process_time() - cpu) / SENDS)


async def obey(uri: str, connection: Connection, *, handler: bool, traced: bool) -> None:
    """Be the process of a :class:`Holder`."""
    loop = asyncio.get_running_loop()
    async with eventbus.connect(uri, node="holder") as bus:
        holder = Holder(bus)
        connection.send("open")
        while True:
            command, argument = await loop.run_in_executor(None, connection.recv)
            if command == "claim":
                connection.send(await holder.claim(argument, handler=handler))
            elif command == "send":
                connection.send(await holder.send(argument))
            elif command == "handled":
                await holder.handled(argument)
                connection.send(None)
            elif command == "memory":
                connection.send((tracemalloc.get_traced_memory()[0] if traced else 0, holder.rss()))


def hold(uri: str, connection: Connection, handler: bool, traced: bool) -> None:
    """Run the process of a :class:`Holder`."""
    if traced:
        tracemalloc.start()
    asyncio.run(obey(uri, connection, handler=handler, traced=traced))


class Process:
    """A holder, as the parent sees it."""

    def __init__(self, uri: str, *, handler: bool, traced: bool = False) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=hold, args=(uri, theirs, handler, traced), daemon=True)
        self.process.start()
        theirs.close()
        self._connection.recv()

    def ask(self, command: str, argument: object = None) -> Any:
        """Return what it answers."""
        self._connection.send((command, argument))
        return self._connection.recv()

    async def handled(self, more: int) -> None:
        """Return once it has handled so many *more* events."""
        await asyncio.to_thread(self.ask, "handled", more)

    def kill(self) -> None:
        """End it as ``kill -9`` does."""
        pid = self.process.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        self.process.join()


def ping_on(uri: str, connection: Connection) -> None:
    """Send PING after PING until the parent says something; then tell the longest round trip, in seconds."""
    server = redis.Redis.from_url(uri)
    longest = 0.0
    while not connection.poll():
        began = monotonic()
        server.ping()
        longest = max(longest, monotonic() - began)
        sleep(0.0005)
    connection.send(longest)


class Watch:
    """How long the server was not to be had."""

    def __init__(self, server: redis.Redis) -> None:
        self._server = server
        self.round_trip = 0.0
        self.commands: list[tuple[float, str]] = []

    @contextmanager
    def during(self, uri: str) -> Iterator[None]:
        """Watch what happens within."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        pinging = context.Process(target=ping_on, args=(uri, theirs), daemon=True)
        pinging.start()
        before: Any = self._server.config_get("slowlog-*")
        self._server.config_set("slowlog-log-slower-than", THRESHOLD)
        self._server.config_set("slowlog-max-len", 10_000)
        self._server.slowlog_reset()
        try:
            yield
        finally:
            entries: Any = self._server.slowlog_get(10_000)
            for option, value in before.items():
                self._server.config_set(option, value)
            ours.send(None)
            self.round_trip = ours.recv()
            pinging.join()
        self.commands = sorted(
            ((entry["duration"] / 1000, entry["command"][:48].decode()) for entry in entries), reverse=True
        )

    def __str__(self) -> str:
        longest = self.commands[0] if self.commands else (0.0, f"none over {THRESHOLD} us")
        return (
            f"longest command {longest[0]:.1f} ms ({longest[1]}), {len(self.commands)} over {THRESHOLD / 1000} ms; "
            f"longest PING {1000 * self.round_trip:.1f} ms"
        )


async def time_costs(sender: Bus, holder: Process, count: int, of: int) -> None:
    """Print what a local and a remote send cost to *count* clients of *of*; the ways are known."""
    for number in range(count):
        await sender.send(name(number), "bulk.warm", number)
    await holder.handled(count)
    remote = min([await cost(sender, count, holder.handled) for _ in range(3)], key=lambda found: found.cpu)
    found: Sequence[Cost] = [holder.ask("send", count) for _ in range(3)]
    local = min(found, key=lambda found: found.cpu)
    print(f"send to {count:,} of {of:,} clients: local  {local}")
    print(f"send to {count:,} of {of:,} clients: remote {remote}")


async def seconds_until(condition: Callable[[], Awaitable[bool]], since: float) -> float:
    """Return how long after *since* the condition was true."""
    while not await condition():  # noqa: ASYNC110 - it is another process that makes it true
        await asyncio.sleep(POLL)
    return monotonic() - since


async def holder_is_off(bus: Bus) -> bool:
    """Return whether the holder is not on the bus any more."""
    return "holder" not in [node.id for node in await bus.nodes()]


async def are_free(bus: Bus, clients: Sequence[str]) -> bool:
    """Return whether no node holds any of *clients*."""
    return not any([await bus.locate(client) for client in clients])


async def is_empty(server: redis.Redis, key: str) -> bool:
    """Return whether the hash at *key* holds nothing."""
    return not await asyncio.to_thread(server.hlen, key)


async def time_clean_up(bus: Bus, holder: Process, server: redis.Redis, uri: str, clients: int) -> None:
    """Kill *holder*, and print when its clients were free and when its rows were gone."""
    owners = f"{PREFIX}:{bus.namespace}:owners"
    samples = [name(number) for number in range(0, clients, max(1, clients // 50))]
    watch = Watch(server)
    with watch.during(uri):
        lease = next(node.lease_left for node in await bus.nodes() if node.id == "holder")
        killed = monotonic()
        holder.kill()
        off = await seconds_until(lambda: holder_is_off(bus), killed)
        free = await seconds_until(lambda: are_free(bus, samples), killed)
        swept = await seconds_until(lambda: is_empty(server, owners), killed)
    print(f"kill -9 with {lease:.1f} s of lease left: off the bus after {off:.2f} s, clients free after {free:.2f} s,")
    print(f"  their {clients:,} rows removed after {swept:.2f} s ({swept - off:.2f} s after the lease had ended)")
    print(f"  meanwhile: {watch}")


async def main(uri: str, clients: int) -> None:
    """Measure and print everything."""
    server = redis.Redis.from_url(uri)
    memory(uri, clients)
    place = f"{uri}?namespace=bulk-{token_hex(4)}"
    holder = Process(place, handler=True)
    async with eventbus.connect(place, node="sender", owner_cache=max(100_000, clients)) as sender:
        holder.ask("claim", FEW)
        await time_costs(sender, holder, FEW, FEW)
        holder.ask("claim", clients)
        await time_costs(sender, holder, FEW, clients)
        await time_costs(sender, holder, clients, clients)
        await time_clean_up(sender, holder, server, uri, clients)


def memory(uri: str, clients: int) -> None:
    """Print the time to claim, and the memory that idle clients take in the node."""
    server = redis.Redis.from_url(uri)
    for handler in (False, True):
        kind = "with a handler" if handler else "to be iterated"
        for traced in (False, True):
            holder = Process(f"{uri}?namespace=bulk-{token_hex(4)}&lease=60", handler=handler, traced=traced)
            holder.ask("claim", FEW)
            before = holder.ask("memory")
            watch = Watch(server)
            with watch.during(uri):
                took = holder.ask("claim", clients)
            each = [
                (after - earlier) / (clients - FEW) for after, earlier in zip(holder.ask("memory"), before, strict=True)
            ]
            if traced:
                print(f"{clients:,} clients {kind}: {each[0]:,.0f} bytes a client by tracemalloc")
            else:
                print(f"{clients:,} clients {kind}: claimed in {took:.2f} s, {clients / took:,.0f} claims/s")
                print(f"{clients:,} clients {kind}: {each[1]:,.0f} bytes a client by the process' memory")
                print(f"  meanwhile: {watch}")
            holder.kill()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure what many clients on one node cost.")
    parser.add_argument("uri", help="of a Redis server that is used for nothing else")
    parser.add_argument("--clients", type=int, default=100_000)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.uri, arguments.clients))
