"""What the tests of the whole bus share: buses to talk to, records of what came, deadlines."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from anyio.abc import TaskGroup

from eventbus import Bus, BusClosed, Client, Event
from eventbus_core.backend import Transport, TransportURI
from eventbus_core.testing.hosts import Host, buses, fresh_namespace
from eventbus_core.testing.inbox import Inbox, Reader, read
from eventbus_core.testing.waiting import DEADLINE, tasks, until, within_deadline
from eventbus_memory import MemoryTransport

__all__ = (
    "DEADLINE",
    "Hooked",
    "Host",
    "Inbox",
    "Reader",
    "WithoutDirectory",
    "buses",
    "ends_with_the_bus",
    "fence",
    "fresh_namespace",
    "publish_by",
    "read",
    "take",
    "tasks",
    "until",
    "within_deadline",
)


class WithoutDirectory(MemoryTransport):
    """Keeps no record: the core finds clients by asking."""

    def __init__(self, uri: TransportURI, node: str) -> None:
        super().__init__(uri, node)
        self.directory = None


class Hooked(list[Any]):
    """A hook function that keeps its arguments: the one, or the tuple of them."""

    def __call__(self, *arguments: Any) -> None:
        self.append(arguments[0] if len(arguments) == 1 else arguments)


async def take(client: Client, count: int) -> list[Event]:
    """Return the next *count* events of *client*."""
    with within_deadline(f"{count} events came to {client.name!r}"):
        return [await client.receive() for _ in range(count)]


def unsettled(bus: Bus) -> bool:
    """Return whether *bus* has taken in a frame of which not all events are handled."""
    return any(incoming._open for incoming in bus._node.sessions._incoming.values())


async def fence(senders: list[Bus], receivers: list[Bus]) -> None:
    """
    Return once all that *senders* have sent to the nodes *receivers* has arrived there.

    What one node sends to another comes in order, so once a request is answered, nothing sent before it is in flight.
    """
    for receiver in receivers:

        @receiver.on("fence.lowered")
        async def answer(event: Event, receiver: Bus = receiver) -> None:
            await receiver.reply(event)

        for sender in senders:
            await sender.request(receiver.address, "fence.lowered", timeout=DEADLINE)
        receiver.off(answer)


def publish_by(monkeypatch: pytest.MonkeyPatch, transport: Transport, function: Callable[..., Any]) -> None:
    """Have *transport* publish all frames by *function*."""
    monkeypatch.setattr(transport, "publish", function)
    monkeypatch.setattr(transport, "begin_publish", lambda _frames: None)


async def ends_with_the_bus(
    ask: Callable[[], Awaitable[object]],
    hanging: list[str],
    host: Host,
    group: TaskGroup,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    Close the bus of *host* once *ask*, which asks a server through it, is *hanging*; it must end with ``BusClosed``.

    At once, not when the server gives up: the node leaves only after that here.
    """
    bus, ended, left = host.bus, list[BaseException](), list[str]()
    directory = type(bus._node.directory)
    leave = directory.leave

    async def late_leave(self: Any) -> None:
        if self is bus._node.directory:
            await until(lambda: bool(ended))
            left.append("after the question had ended")
        await leave(self)

    async def run() -> None:
        try:
            await ask()
        except BusClosed as error:
            ended.append(error)

    monkeypatch.setattr(directory, "leave", late_leave)
    group.start_soon(run)
    await until(lambda: bool(hanging))
    await host.close()
    assert left
