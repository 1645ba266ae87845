"""What a retained queue costs beside a plain one: ``python -m tests.benchmarks.queues``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any, Final

import anyio
from redis import Redis

import eventbus
from eventbus import Retention
from tests.servers import RedisServer

EVENTS: Final = 20_000
TASKS: Final = 100
RUNS: Final = 5
OPTIONS: Final[dict[str, Any]] = {"lease": 600.0, "retain_queues": {"kept": Retention(events=100_000)}}
WAYS: Final = ("plain", "kept")


class Counter:
    """A function that counts the events that it handles; *full* is set at ``EVENTS``."""

    def __init__(self) -> None:
        self.full = anyio.Event()
        self._left = EVENTS

    def __call__(self, _event: eventbus.Event) -> None:
        """Handle an event."""
        self._left -= 1
        if not self._left:
            self.full.set()


def send(pipe: Connection, uri: str) -> None:
    """Send ``EVENTS`` events to each queue that *pipe* names; answer with the CPU time once they are handled."""

    async def work() -> None:
        async with eventbus.connect(uri, **OPTIONS) as bus:
            while (way := await anyio.to_thread.run_sync(pipe.recv)) is not None:
                began = process_time()
                async with anyio.create_task_group() as group:
                    for _ in range(TASKS):
                        group.start_soon(send_some, bus.queue(way))
                pipe.send(None)
                await anyio.to_thread.run_sync(pipe.recv)
                pipe.send(process_time() - began)

    async def send_some(queue: eventbus.Queue) -> None:
        for number in range(EVENTS // TASKS):
            await queue.send("job", {"number": number})

    anyio.run(work)


def consume(pipe: Connection, uri: str) -> None:
    """Consume each queue that *pipe* names; answer with the CPU time once ``EVENTS`` events are handled."""

    async def work() -> None:
        async with eventbus.connect(uri, **OPTIONS) as bus:
            while (way := await anyio.to_thread.run_sync(pipe.recv)) is not None:
                began, counter = process_time(), Counter()
                async with bus.queue(way).consume(counter, concurrency=TASKS):
                    pipe.send(None)
                    await counter.full.wait()
                pipe.send(process_time() - began)

    anyio.run(work)


@contextmanager
def worker(function: Any, uri: str) -> Iterator[Connection]:
    """Run *function* in a process of its own."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=function, args=(theirs, uri))
    process.start()
    try:
        yield ours
    finally:
        ours.send(None)
        process.join()


def measure() -> dict[str, list[tuple[float, float, float]]]:
    """Return µs of CPU for each event, of sender, consumer and server: for each run of each kind of queue."""
    found: dict[str, list[tuple[float, float, float]]] = {way: [] for way in WAYS}
    with TemporaryDirectory() as directory, RedisServer(Path(directory)) as server, ExitStack() as stack:
        redis = stack.enter_context(Redis(port=server.port))
        sender = stack.enter_context(worker(send, server.uri))
        consumer = stack.enter_context(worker(consume, server.uri))

        def server_cpu() -> float:
            told = redis.info("cpu")
            return float(told["used_cpu_user"] + told["used_cpu_sys"])

        for _ in range(RUNS):
            for way in WAYS:
                consumer.send(way)
                consumer.recv()
                began = server_cpu()
                sender.send(way)
                sender.recv()
                handled = consumer.recv()
                sender.send(way)
                used = sender.recv(), handled, server_cpu() - began
                found[way].append(tuple(seconds / EVENTS * 1e6 for seconds in used))  # type: ignore[arg-type]
    return found


if __name__ == "__main__":
    for way, runs in measure().items():
        sender, consumer, server = (median(column) for column in zip(*runs, strict=True))
        print(f"{way}: sender {sender:.1f}, consumer {consumer:.1f}, Redis {server:.1f} us of CPU for each event")
