"""What the tests of the whole bus share: buses to talk to, records of what came, deadlines."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from secrets import token_hex
from typing import Any

import anyio
from anyio.abc import TaskGroup, TaskStatus

import eventbus
from eventbus import Bus, BusClosed, Client, ClientTakenOver, Event, EventBusError

DEADLINE = float(os.environ.get("EVENTBUS_TEST_DEADLINE", "20"))
"""Seconds after which what should have come never will; nothing waits so long unless it fails."""

_numbers = itertools.count(1)


def fresh_namespace() -> str:
    """Return a namespace that nobody else is in."""
    return f"t{os.getpid()}-{next(_numbers)}-{token_hex(3)}"


@asynccontextmanager
async def buses(uri: str, count: int = 2, **options: object) -> AsyncIterator[list[Bus]]:
    """Open *count* buses, ``n0``, ``n1``, ..., in a namespace of their own."""
    options.setdefault("namespace", fresh_namespace())
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(eventbus.connect(uri, node=f"n{number}", **options))
            for number in range(count)
        ]


@asynccontextmanager
async def tasks() -> AsyncIterator[TaskGroup]:
    """Give a task group whose tasks end with the block, and whose one exception comes as it is."""
    try:
        async with anyio.create_task_group() as group:
            yield group
            group.cancel_scope.cancel()
    except BaseExceptionGroup as error:
        if len(error.exceptions) == 1:
            raise error.exceptions[0] from None
        raise


async def until(condition: Callable[[], bool | Awaitable[bool]], what: str = "") -> None:
    """Wait until *condition* is true; fail if it is not by the deadline."""
    with anyio.move_on_after(DEADLINE):
        while True:
            answer = condition()
            if answer if isinstance(answer, bool) else await answer:
                return
            await anyio.sleep(0.002)
    raise AssertionError(f"still not so after {DEADLINE:g} s: {what or condition}")


class Inbox:
    """A handler that keeps what it gets."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._grew = anyio.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self._grew.set()
        self._grew = anyio.Event()

    def __len__(self) -> int:
        return len(self.events)

    @property
    def data(self) -> list[Any]:
        """The data of all events so far."""
        return [event.data for event in self.events]

    @property
    def types(self) -> list[str]:
        """The types of all events so far."""
        return [event.type for event in self.events]

    async def got(self, count: int = 1) -> list[Event]:
        """Return the events once there are *count* of them."""
        with anyio.move_on_after(DEADLINE):
            while len(self.events) < count:
                await self._grew.wait()
        assert len(self.events) >= count, f"{len(self.events)} of {count} came: {self.events!r:.500}"
        return self.events


class Hooked(list[Any]):
    """A hook function that keeps its arguments: the one, or the tuple of them."""

    def __call__(self, *arguments: Any) -> None:
        self.append(arguments[0] if len(arguments) == 1 else arguments)


async def take(client: Client, count: int) -> list[Event]:
    """Return the next *count* events of *client*."""
    events: list[Event] = []
    with anyio.move_on_after(DEADLINE):
        while len(events) < count:
            events.append(await client.receive())
    assert len(events) == count, f"{len(events)} of {count} came: {events!r:.500}"
    return events


class Reader(Inbox):
    """Reads a client in a task of its own; ``ended`` is what ended it."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self.client = client
        self.ended: EventBusError | None = None
        self._over = anyio.Event()

    async def run(self) -> None:
        """Read until the handle ends."""
        try:
            async for event in self.client:
                self(event)
        except (ClientTakenOver, BusClosed) as reason:
            self.ended = reason
            self._over.set()

    async def over(self) -> EventBusError:
        """Return what ended the handle."""
        with anyio.move_on_after(DEADLINE):
            await self._over.wait()
        assert self.ended is not None, "the handle has not ended"
        return self.ended


def read(group: TaskGroup, client: Client) -> Reader:
    """Read *client* in a task of *group*."""
    reader = Reader(client)
    group.start_soon(reader.run)
    return reader


class Host:
    """A bus in a task of its own, so that buses can come and go in any order."""

    def __init__(self, uri: str, **options: object) -> None:
        self.bus = eventbus.connect(uri, **options)
        self._stop = anyio.Event()
        self._gone = anyio.Event()

    async def open(self, group: TaskGroup) -> Bus:
        """Open the bus in a task of *group*."""
        await group.start(self._run)
        return self.bus

    async def close(self) -> None:
        """Close it in good order."""
        self._stop.set()
        with anyio.fail_after(DEADLINE):
            await self._gone.wait()

    async def _run(self, *, task_status: TaskStatus[None]) -> None:
        async with self.bus:
            task_status.started()
            await self._stop.wait()
        self._gone.set()


async def fence(senders: list[Bus], receivers: list[Bus]) -> None:
    """
    Return once all that *senders* have sent to the nodes *receivers* has arrived there.

    What one node sends to another comes in order, so a request that is answered has nothing before it under way.
    """
    for receiver in receivers:

        @receiver.on("fence.lowered")
        async def answer(event: Event, receiver: Bus = receiver) -> None:
            await receiver.reply(event)

        for sender in senders:
            await sender.request(receiver.address, "fence.lowered", timeout=DEADLINE)
        receiver.off(answer)
