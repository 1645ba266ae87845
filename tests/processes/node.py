"""
A node in a process of its own: ``python -m tests.processes.node URI NODE``.

It takes commands from stdin, a JSON object a line: ``{"id": 1, "do": "claim", ...}``; the functions of
:class:`Program` say which. What it does and what it hears it says on stdout, likewise; ``at`` is the time by the
clock that all processes of the host share.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from time import monotonic
from typing import Any

import eventbus
from eventbus import Bus, BusClosed, Client, ClientTakenOver, Event, EventBusError, Undeliverable


def say(what: str, **facts: object) -> None:
    """Tell the parent."""
    sys.stdout.write(json.dumps({"say": what, "at": monotonic(), **facts}) + "\n")
    sys.stdout.flush()


class Program:
    """What the node does on command."""

    def __init__(self, bus: Bus, group: asyncio.TaskGroup) -> None:
        self._bus = bus
        self._group = group
        self._clients: dict[str, Client] = {}
        bus.on_undeliverable(self.undeliverable)
        bus.on_lease_lost(lambda: say("lease lost"))

    def undeliverable(self, fate: Undeliverable) -> None:
        """Say which of the numbers that were sent will not be handled."""
        say("undeliverable", client=fate.target, number=int(fate.type.partition(".")[2]), reason=fate.reason)

    async def obey(self, command: dict[str, Any]) -> None:
        """Do what *command* says, and say what came of it."""
        number = command.pop("id")
        try:
            value = await getattr(self, command.pop("do"))(**command)
        except EventBusError as error:
            say("answer", id=number, error=type(error).__name__, text=str(error))
        else:
            say("answer", id=number, value=value)

    async def claim(self, client: str, takeover: bool = True, read: bool = True) -> int:
        """Claim *client*, and say every event that comes for it if it is to be *read*; return the epoch."""
        handle = self._clients[client] = self._bus.client(client, takeover=takeover)
        await handle.__aenter__()
        if read:
            self._group.create_task(self._read(handle))
        return handle.epoch

    async def send(self, client: str, first: int, end: int) -> list[tuple[int, str]]:
        """Send the numbers from *first* on to *client*; return those that were refused, and why."""
        refused: list[tuple[int, str]] = []
        for number in range(first, end):
            try:
                await self._bus.send(client, f"number.{number}", number)
            except EventBusError as error:
                refused.append((number, type(error).__name__))
        return refused

    async def enqueue(self, queue: str, first: int, end: int) -> None:
        """Send the numbers from *first* on to *queue*."""
        for number in range(first, end):
            await self._bus.queue(queue).send(f"number.{number}", number)

    async def consume(self, queue: str, seconds: float) -> None:
        """Consume *queue*, each event for so many *seconds*; say what is begun and what is handled."""

        async def work(event: Event) -> None:
            say("begun", client=queue, number=event.data)
            await asyncio.sleep(seconds)
            say("handled", client=queue, number=event.data)

        await self._bus.queue(queue).consume(work, concurrency=2).open()

    async def dispatches(self, queue: str) -> bool:
        """Return whether this node dispatches *queue*, which is retained."""
        owner = await self._bus.locate(f"queue-dispatcher/{queue}")
        return owner is not None and owner.node == self._bus.node

    async def queued(self) -> int:
        """Return how many events that were sent to queues are not known to be handled."""
        return self._bus.stats().queued_events

    async def nodes(self) -> dict[str, float]:
        """Return who is on the bus, and for how long yet."""
        return {node.id: node.lease_left for node in await self._bus.nodes()}

    async def clients(self) -> list[str]:
        """Return all clients there are."""
        return sorted([client async for client in self._bus.clients()])

    async def locate(self, client: str) -> str | None:
        """Return the node that holds *client*."""
        owner = await self._bus.locate(client)
        return None if owner is None else owner.node

    async def believes(self, client: str) -> str | None:
        """Return the node that *client* is remembered to be at."""
        owner = (await self._bus.explain(client)).cached
        return None if owner is None else owner.node

    async def _read(self, client: Client) -> None:
        try:
            async for event in client:
                say("handled", client=client.name, number=event.data, source=event.source)
        except (ClientTakenOver, BusClosed) as error:
            say("ended", client=client.name, error=type(error).__name__)


async def _commands() -> AsyncIterator[dict[str, Any]]:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        yield json.loads(line)


async def run(uri: str, node: str, program: type[Program]) -> None:
    """Be on the bus until stdin ends or SIGTERM cancels us, as it does in many an application."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with eventbus.connect(uri, node=node) as bus, asyncio.TaskGroup() as group:
        running = program(bus, group)
        say("open")
        async for command in _commands():
            group.create_task(running.obey(command))
        task.cancel()


def main(uri: str, node: str, program: type[Program] = Program) -> None:
    """Run the *program*."""
    try:
        with suppress(asyncio.CancelledError):
            asyncio.run(run(uri, node, program))
    except EventBusError as error:
        say("failed", error=type(error).__name__)
    else:
        say("closed")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
