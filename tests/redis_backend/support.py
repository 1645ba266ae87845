"""Transports to talk to a server without a bus, and a relay in front of servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from redis import Redis

from eventbus_core.backend import Directory, Disconnected, Frame, Interrupted, Terms, Transport, TransportURI
from eventbus_redis import RedisTransport
from tests.faults.proxy import Proxy
from tests.servers import HOST, RedisServer

TERMS = Terms(1, 64)


def run(server: RedisServer, *command: str | int | float) -> Any:
    """Return the reply of *server* to *command*."""
    with Redis(port=server.port, decode_responses=True) as connection:
        return connection.execute_command(*command)


@asynccontextmanager
async def transport(
    uri: str, node: str = "n0"
) -> AsyncIterator[tuple[RedisTransport, list[Frame | Interrupted | Disconnected]]]:
    """Open a transport and read from it; yield it and the list of items that it has received."""
    items: list[Frame | Interrupted | Disconnected] = []
    opened = RedisTransport(TransportURI.parse(uri), node)

    async def read() -> None:
        async for item in opened.receive():
            items.append(item)  # noqa: PERF401 - one at a time

    async with anyio.create_task_group() as group, opened:
        group.start_soon(read)
        yield opened, items
        group.cancel_scope.cancel()


def directory_of(opened: Transport) -> Directory:
    assert opened.directory is not None
    return opened.directory


def interruptions(items: list[Frame | Interrupted | Disconnected]) -> int:
    return sum(isinstance(item, Interrupted) for item in items)


class Relay(Proxy):
    """An address whose connections lead to a server of choice, as the host name of a primary does."""

    @property
    def uri(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def lead_to(self, target: int) -> None:
        """Lead new connections to the port *target*; those that exist stay."""
        self.target = target
