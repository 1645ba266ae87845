"""The Redis transport: a channel for each partition."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, ClassVar

from eventbus_core.backend import (
    Capabilities,
    Disconnected,
    Finding,
    Frame,
    Interrupted,
    Outcome,
    Partition,
    Role,
    Transport,
    TransportURI,
)
from eventbus_core.errors import ConfigurationError
from eventbus_redis.access_rules import server_rules
from eventbus_redis.checks import check_server
from eventbus_redis.commands import Commands
from eventbus_redis.directory import RedisDirectory
from eventbus_redis.history import RedisHistory, Shelf
from eventbus_redis.line import Line
from eventbus_redis.options import RedisOptions
from eventbus_redis.server import Server


class RedisTransport(Transport):
    """
    Serves ``redis://``, ``rediss://`` and ``unix://``: Redis 7.0 or later, or Valkey. For asyncio only.

    It has three connections to one primary: one reads, one publishes, one is the directory's; a fourth is the history's
    once a topic is retained. A lost connection is reopened, with growing pauses, until the transport is closed. If the
    server rejects a write as a replica does, all are reopened. If it has replicas, frames are not sent to them.

    Errors: :class:`TransportUnavailable` if the server does not serve now, so that a later call may succeed;
    :class:`ConfigurationError` if it refuses until its configuration or the user's rights change. A refusal that
    concerns some partitions only is a :class:`PartitionRefused`.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(
        ordered=True,
        counts_receivers=True,
        history=True,
        max_frame_size=16 * 1024 * 1024,  # Redis cuts a subscriber once 32 MB wait for it
    )
    Options: ClassVar[type[Any]] = RedisOptions
    _replicated: ClassVar[bool] = False
    """Whether the server counts as one that has replicas without being asked."""

    def __init__(self, uri: TransportURI, node: str) -> None:
        super().__init__(uri, node)
        options: RedisOptions = self.options
        self._server = server = self._make_server()
        self._keys = f"{options.prefix}:{uri.namespace}"
        self._line = Line(node, server, options, uri.namespace, self._keys, replicated=self._replicated)
        self._records = Commands(server, options.command_timeout)
        self.directory: RedisDirectory = RedisDirectory(self._records, self._keys, uri.namespace)
        self._streams = Commands(server, options.command_timeout)
        self.history = RedisHistory(self._shelf)

    def _shelf(self, digest: str) -> Shelf:
        return Shelf(self._streams, f"{self._keys}:h:{{{digest}}}")

    async def open(self) -> None:
        check_event_loop()
        await self._line.open()

    async def aclose(self) -> None:
        for connection in (self._line, self._records, self._streams):
            connection.close()

    async def join(self, partitions: Sequence[Partition]) -> None:
        await self._line.join(partitions)

    async def leave(self, partitions: Sequence[Partition]) -> None:
        await self._line.leave(partitions)

    async def publish(self, frames: Sequence[Frame]) -> Sequence[int]:
        return await self._line.publish(frames)

    def begin_publish(self, frames: Sequence[Frame]) -> Outcome | None:
        return self._line.begin_publish(frames)

    def receive(self) -> AsyncIterator[Frame | Interrupted | Disconnected]:
        return self._line.receive()

    def access_rules(self, role: Role, node: str) -> Mapping[str, str]:
        rules = server_rules(role, node, [self._keys], self._line.root, database=self._server.database)
        return {"on the server": rules}

    async def diagnose(self) -> list[Finding]:
        return await check_server(self._make_server(any_role=True), self.options, self._keys, self._line.root)

    def _make_server(self, *, any_role: bool = False) -> Server:
        return Server(self.uri, self.options, any_role=any_role)


def check_event_loop() -> None:
    """
    Do nothing if the event loop is that of asyncio.

    Raises:
        ConfigurationError: it is another.
    """
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    if task is None:
        raise ConfigurationError(
            "the Redis backend runs on asyncio only, as redis-py does; "
            "start the program with anyio.run(..., backend='asyncio'), or use memory://"
        )
