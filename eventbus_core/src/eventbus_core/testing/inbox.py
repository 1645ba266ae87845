"""Handlers and readers that keep their events."""

from __future__ import annotations

from typing import Any

import anyio
from anyio.abc import TaskGroup

from eventbus_core.api.client import Client
from eventbus_core.errors import BusClosed, ClientTakenOver, EventBusError
from eventbus_core.model.event import Event
from eventbus_core.testing.waiting import within_deadline


class Inbox:
    """
    A handler that keeps its events: ``bus.on("order.*")(inbox)``, or ``bus.client(name, handler=inbox)``.

    Attributes:
        events: the events so far, in order.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._grew = anyio.Event()

    def __call__(self, event: Event) -> None:
        """Keep *event*."""
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
        """Return the events once there are *count* of them; fail at the deadline."""
        try:
            with within_deadline(f"{count} events came"):
                while len(self.events) < count:
                    await self._grew.wait()
        except AssertionError as error:
            raise AssertionError(f"{error}, but {len(self.events)}: {self.events!r:.500}") from None
        return self.events


class Reader(Inbox):
    """
    Reads a client in a task of its own.

    Attributes:
        ended: the exception that ended the client's handle, once it has ended.
    """

    def __init__(self, client: Client) -> None:
        super().__init__()
        self.client = client
        self.ended: EventBusError | None = None
        self._over = anyio.Event()

    async def run(self) -> None:
        """Read until the handle ends."""
        try:
            async for event in self.client:
                await self.take(event)
        except (ClientTakenOver, BusClosed) as reason:
            self.ended = reason
            self._over.set()

    async def take(self, event: Event) -> None:
        """Keep *event*."""
        self(event)

    async def over(self) -> EventBusError:
        """Return the exception that ended the handle; fail at the deadline."""
        with within_deadline(f"the handle of {self.client.name!r} ended"):
            await self._over.wait()
        assert self.ended is not None
        return self.ended


def read(group: TaskGroup, client: Client) -> Reader:
    """Read *client* in a task of *group*."""
    reader = Reader(client)
    group.start_soon(reader.run)
    return reader
