"""The transport for several independent servers: each carries a part of the partitions."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Final, TypeVar

import attrs

from eventbus_core.backend import (
    Address,
    Disconnected,
    Finding,
    Frame,
    Interrupted,
    Outcome,
    Partition,
    Role,
    Transport,
    TransportURI,
    option,
)
from eventbus_core.errors import ConfigurationError, NamespaceMismatch, TransportUnavailable
from eventbus_redis.access_rules import server_rules
from eventbus_redis.checks import check_server
from eventbus_redis.directory import RedisDirectory
from eventbus_redis.line import FRAMES_AHEAD, Line
from eventbus_redis.options import RedisOptions
from eventbus_redis.sentinel.transport import SentinelTransport
from eventbus_redis.server import DEFAULT_PORT, Server
from eventbus_redis.shards.placement import Placement
from eventbus_redis.transport import RedisTransport, check_event_loop

T = TypeVar("T")

KEEPERS: Final[Mapping[str, type[RedisTransport]]] = MappingProxyType(
    {
        **dict.fromkeys(("redis", "rediss", "unix"), RedisTransport),
        **dict.fromkeys(("redis+sentinel", "rediss+sentinel"), SentinelTransport),
    }
)
"""By scheme: the transports whose directory may be that of all servers together."""


@attrs.frozen
class ShardsOptions(RedisOptions):
    """The options of a transport over several servers; those of Redis hold for each of them."""

    directory: str | None = option(
        None, "URI of a server that keeps the directory, and the history; default: the first host", repr=False
    )


class RedisShardsTransport(Transport):
    """
    Serves ``redis+shards://host1,host2`` and ``rediss+shards://``: independent servers. For asyncio only.

    Each server carries the partitions that its :class:`Placement` says. The node has a :class:`Line` to each, so a
    server that hangs or is down stalls its own partitions only. The directory and the history are on the first server,
    or on that of the option ``directory``. The list of the servers is one of the terms of the namespace.

    Errors are those of :class:`RedisTransport`.
    """

    capabilities: ClassVar[Any] = RedisTransport.capabilities
    Options: ClassVar[type[Any]] = ShardsOptions

    def __init__(self, uri: TransportURI, node: str) -> None:
        super().__init__(uri, node)
        options: ShardsOptions = self.options
        places = [_place(uri, address) for address in uri.hosts]
        names = [str(place.hosts[0]) for place in places]
        if len(set(names)) < len(names):
            raise ConfigurationError(f"{uri} names a server twice")
        servers = [Server(place, options) for place in places]
        self._root = f"{options.prefix}:{uri.namespace}"
        self._lines = {
            name: Line(node, server, options, uri.namespace, self._root)
            for name, server in zip(names, servers, strict=True)
        }
        self._placement = Placement(names)
        self._keeper = _keeper(places[0], options.directory, node)
        self._keeper.directory.shards = ",".join(names)
        self.directory, self.history = self._keeper.directory, self._keeper.history
        self._arrived: deque[Frame | Interrupted | Disconnected | BaseException] = deque()
        self._news = asyncio.Event()
        self._space_freed = asyncio.Event()

    async def open(self) -> None:
        check_event_loop()
        outcomes = await _together(map(self._open, self._lines.values()))
        if all(outcomes):
            raise TransportUnavailable(f"none of the servers can be reached: {outcomes[0]}")

    async def aclose(self) -> None:
        for line in self._lines.values():
            line.close()
        await self._keeper.aclose()

    async def join(self, partitions: Sequence[Partition]) -> None:
        parts = self._parts(partitions)
        new = {line: [each for each in part if each not in line.partitions] for line, part in parts.items()}
        try:
            await _together(line.join(part) for line, part in parts.items())
        except BaseException:
            for line, part in new.items():
                await line.leave(part)
            raise

    async def leave(self, partitions: Sequence[Partition]) -> None:
        for line, part in self._parts(partitions).items():
            await line.leave(part)

    async def publish(self, frames: Sequence[Frame]) -> Sequence[int]:
        return await self._lines[self.route(frames[0].partition)].publish(frames)

    def begin_publish(self, frames: Sequence[Frame]) -> Outcome | None:
        return self._lines[self.route(frames[0].partition)].begin_publish(frames)

    def route(self, partition: Partition) -> str:
        return self._placement.server(partition)

    async def receive(self) -> AsyncIterator[Frame | Interrupted | Disconnected]:
        readers = [asyncio.create_task(self._read(line)) for line in self._lines.values()]
        try:
            while self._arrived or not all(reader.done() for reader in readers):
                self._news.clear()
                while self._arrived:
                    item = self._arrived.popleft()
                    if isinstance(item, BaseException):
                        raise item
                    yield item
                self._space_freed.set()
                await self._news.wait()
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.wait(readers)

    def access_rules(self, role: Role, node: str) -> Mapping[str, str]:
        line = next(iter(self._lines.values()))
        rules = {
            "on each server": server_rules(role, node, [self._root], line.root, database=line.server.database),
        }
        if self.options.directory is not None:
            keeper = self._keeper.access_rules(role, node)
            rules |= {f"of the directory, {servers}": rule for servers, rule in keeper.items()}
        return rules

    async def diagnose(self) -> list[Finding]:
        found: list[Finding] = []
        for name, line in self._lines.items():
            server = Server(line.server.uri, self.options, any_role=True)
            hint = "start it; its partitions wait until then, those of the other servers do not"
            found += await _named(name, check_server(server, self.options, self._root, line.root), hint)
        if self.options.directory is not None:
            hint = "start it; until then no client can be claimed or found, and no node can open"
            found += await _named("directory", self._keeper.diagnose(), hint)
        return found

    async def _open(self, line: Line) -> TransportUnavailable | None:
        """Open *line*; if its server is not there, the reader tries again."""
        try:
            await line.open()
            await self._check_no_directory(line)
        except TransportUnavailable as error:
            return error
        return None

    async def _check_no_directory(self, line: Line) -> None:
        """
        Do nothing if *line* leads to the server of the directory, by whatever address, or to one that keeps none.

        Raises:
            NamespaceMismatch: nodes that have the servers in another order keep one there.
        """
        elsewhere = await RedisDirectory(line.publisher, self._root, self.uri.namespace).nodes()
        if not elsewhere:
            return
        here = {(node.id, node.incarnation) for node in await self._keeper.directory.nodes()}
        if any((node.id, node.incarnation) not in here for node in elsewhere):
            theirs, ours = str(line.server.uri), str(self._keeper.uri)
            raise NamespaceMismatch(self.uri.namespace, "its directory at", theirs, ours)

    async def _read(self, line: Line) -> None:
        """Pass on what arrives at *line*; what it says of all its partitions names them."""
        try:
            async for item in line.receive():
                if not isinstance(item, Frame) and item.partitions is None:
                    item = item._replace(partitions=line.partitions)
                self._arrived.append(item)
                self._news.set()
                if len(self._arrived) >= FRAMES_AHEAD:
                    self._space_freed.clear()
                    await self._space_freed.wait()
        except Exception as error:
            self._arrived.append(error)
        finally:
            self._news.set()

    def _parts(self, partitions: Sequence[Partition]) -> dict[Line, list[Partition]]:
        parts: dict[Line, list[Partition]] = {}
        for partition in partitions:
            parts.setdefault(self._lines[self.route(partition)], []).append(partition)
        return parts


async def _named(name: str, check: Awaitable[list[Finding]], hint: str) -> list[Finding]:
    """Return the findings of *check* with the *name* of its server; *hint* is for one that cannot be reached."""
    try:
        findings = await check
    except TransportUnavailable as error:
        findings = [Finding("connection", "error", str(error), hint)]
    return [attrs.evolve(finding, check=f"{finding.check} ({name})") for finding in findings]


async def _together(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return the results of *works*, which run at the same time; the first error ends the others, and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def _place(uri: TransportURI, address: Address) -> TransportURI:
    """Return the URI of the one server at *address*."""
    options = {name: value for name, value in uri.options.items() if name != "directory"}
    return attrs.evolve(uri, scheme=uri.scheme.partition("+")[0], hosts=(_with_port(address),), options=options)


def _with_port(address: Address) -> Address:
    return Address(address.host, address.port or DEFAULT_PORT)


def _keeper(first: TransportURI, named: str | None, node: str) -> RedisTransport:
    """Return a transport, not to be opened, whose directory and history are those of all servers together."""
    if named is None:
        return RedisTransport(first, node)
    uri = TransportURI.parse(named)
    if uri.scheme not in KEEPERS:
        raise ConfigurationError(f"option 'directory' is {uri}: its scheme must be one of {', '.join(KEEPERS)}")
    return KEEPERS[uri.scheme](attrs.evolve(uri, namespace=first.namespace), node)
