"""The transport for Redis Cluster: a channel for each partition, by sharded pub/sub."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, ClassVar, Final

from eventbus_core.backend import (
    Capabilities,
    Disconnected,
    Finding,
    Frame,
    Interrupted,
    Partition,
    Role,
    Transport,
    TransportURI,
)
from eventbus_redis.access_rules import server_rules
from eventbus_redis.cluster.cluster_checks import check_cluster
from eventbus_redis.cluster.names import Names
from eventbus_redis.cluster.reader import ClusterReader
from eventbus_redis.cluster.slot_commands import SlotCommands
from eventbus_redis.cluster.slots import key_slot, slot_tag, spread
from eventbus_redis.cluster.suspicions import Suspicions
from eventbus_redis.cluster.topology import Topology
from eventbus_redis.cluster.writers import Writers
from eventbus_redis.directory import RedisDirectory
from eventbus_redis.history import RedisHistory, Shelf
from eventbus_redis.options import RedisOptions
from eventbus_redis.transport import RedisTransport, check_event_loop

HISTORY_SLOTS: Final = 8
"""Slots over which retained streams are spread, and connections for them at most."""


class RedisClusterTransport(Transport):
    """
    Serves ``redis+cluster://`` and ``rediss+cluster://``: a cluster of Redis 7.0 or later, or Valkey. For asyncio only.

    Each channel lies in a slot that its partition's name decides. The node reads on one connection to each primary that
    owns any of its channels, publishes on one to each primary that it publishes at, and keeps its directory at the
    primary of one slot. When slots move or a replica is promoted, it follows.

    Errors are those of :class:`RedisTransport`.
    """

    capabilities: ClassVar[Capabilities] = RedisTransport.capabilities
    Options: ClassVar[type[Any]] = RedisOptions

    def __init__(self, uri: TransportURI, node: str) -> None:
        super().__init__(uri, node)
        options: RedisOptions = self.options
        self._names = names = Names(options.prefix, uri.namespace)
        self._topology = topology = Topology(uri, options)
        self._reader = ClusterReader(node, topology, options, names)
        self._suspicions = suspicions = Suspicions(self._reader.suspect)
        self._writers = Writers(topology, names, options.command_timeout, suspicions)
        slot = key_slot(names.directory.encode())
        self._records = SlotCommands(topology, slot, options.command_timeout, suspicions)
        self.directory = RedisDirectory(self._records, names.directory, uri.namespace)
        self._closed = False
        self._streams: dict[int, SlotCommands] = {}
        self.history = RedisHistory(self._shelf)

    def _shelf(self, digest: str) -> Shelf:
        slot = spread(int(digest, 16) % HISTORY_SLOTS)
        stream = self._streams.get(slot)
        if stream is None:
            stream = SlotCommands(self._topology, slot, self.options.command_timeout, self._suspicions)
            self._streams[slot] = stream
            if self._closed:
                stream.close()
        return Shelf(stream, f"{self._names.root}:h:{digest}:{{{slot_tag(slot)}}}")

    async def open(self) -> None:
        check_event_loop()
        await self._topology.refresh()
        self._reader.open()
        await self._records.open()

    async def aclose(self) -> None:
        self._closed = True
        for connection in (self._records, *self._streams.values()):
            connection.close()
        self._writers.close()
        await self._reader.aclose()

    async def join(self, partitions: Sequence[Partition]) -> None:
        await self._reader.join(partitions)

    async def leave(self, partitions: Sequence[Partition]) -> None:
        self._reader.leave(partitions)

    async def publish(self, frames: Sequence[Frame]) -> Sequence[int] | None:
        return await self._writers.publish(frames)

    def route(self, partition: Partition) -> str:
        return str(self._topology.owner(self._names.slot(partition)) or "")

    def access_rules(self, role: Role, node: str) -> Mapping[str, str]:
        names = self._names
        rules = server_rules(role, node, [names.root, names.directory], names.root, cluster=True)
        return {"on each server of the cluster": rules}

    async def diagnose(self) -> list[Finding]:
        return await check_cluster(self._topology, self.options, self._names.root)

    def receive(self) -> AsyncIterator[Frame | Interrupted | Disconnected]:
        return self._reader.receive()
