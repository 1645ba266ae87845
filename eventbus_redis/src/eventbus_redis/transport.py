"""The Redis transport: a channel for each partition."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Final

import anyio
from redis.exceptions import ResponseError

from eventbus_core import (
    Capabilities,
    ConfigurationError,
    EventBusError,
    Finding,
    Frame,
    Interrupted,
    Partition,
    Transport,
    TransportUnavailable,
    TransportURI,
)
from eventbus_redis.channels import Channels
from eventbus_redis.commands import Commands, pack, pack_publish
from eventbus_redis.diagnosis import examine
from eventbus_redis.directory import RedisDirectory
from eventbus_redis.errors import redis_errors
from eventbus_redis.line import Line
from eventbus_redis.options import RedisOptions
from eventbus_redis.server import Server

logger = logging.getLogger("eventbus.redis")

FIRST_PAUSE: Final = 0.02
LONGEST_PAUSE: Final = 2.0
CLOSE_TIMEOUT: Final = 1.0


class RedisTransport(Transport):
    """
    Serves ``redis://``, ``rediss://`` and ``unix://``: Redis 7.0 or later, or Valkey. For asyncio only.

    It has three connections: one reads, one publishes, one is the directory's. Lost ones are made
    anew for ever, with growing pauses. ``join`` waits up to ``command_timeout`` for the server's
    word, also while there is no connection, and then raises :class:`TransportUnavailable`; a join
    that does not return has not happened. There is no task behind all this: whoever waits in
    ``join`` or ``receive`` reads, in turns, and mends the connection when it finds it broken.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(
        ordered=True,
        counts_receivers=True,
        max_frame_size=16 * 1024 * 1024,  # Redis cuts a subscriber for whom 32 MB wait
    )
    Options: ClassVar[type[Any]] = RedisOptions

    def __init__(self, uri: TransportURI, node: str) -> None:
        super().__init__(uri, node)
        options: RedisOptions = self.options
        self._server = Server(uri, options)
        # Channels belong to no database, so those of any but the first carry its number.
        prefix = f"{options.prefix}/{self._server.database}" if self._server.database else options.prefix
        self._root = f"{prefix}:{uri.namespace}"
        self._channels = Channels(self._root, node)
        self._publisher = Commands(self._server, options.command_timeout)
        self._records = Commands(self._server, options.command_timeout)
        self.directory = RedisDirectory(self._records, options.prefix, uri.namespace)
        self._subscriber: Line | None = None
        self._arrived: deque[Frame | Interrupted] = deque()
        self._turn = asyncio.Lock()
        self._fault: EventBusError | None = None
        self._mending: anyio.CancelScope | None = None
        self._closed = False

    async def open(self) -> None:
        _check_event_loop()
        await self._publisher.open()
        await self._subscribe_anew()

    async def aclose(self) -> None:
        self._closed = True
        if self._mending is not None:
            self._mending.cancel()
        with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
            async with anyio.create_task_group() as tasks:
                for connection in (self._subscriber, self._publisher, self._records):
                    if connection is not None:
                        tasks.start_soon(_close, connection)

    async def join(self, partitions: Sequence[Partition]) -> None:
        names = [self._channels.name(partition) for partition in partitions]
        new = self._channels.want(partitions)
        try:
            async with asyncio.timeout(self.options.command_timeout):
                self._subscribe(new)
                await self._joined(names)
        except BaseException as error:
            self._drop(new)
            if isinstance(error, TimeoutError):
                raise self._unconfirmed() from self._fault
            raise

    async def leave(self, partitions: Sequence[Partition]) -> None:
        self._drop([self._channels.name(partition) for partition in partitions])

    async def publish(self, frames: Sequence[Frame]) -> Sequence[int]:
        pieces: list[bytes] = []
        for partition, data in frames:
            pieces += pack_publish(self._channels.name(partition), data)
        return await self._publisher.send(pieces, len(frames))

    async def receive(self) -> AsyncIterator[Frame | Interrupted]:
        arrived = self._arrived
        while arrived or not self._closed:
            while arrived:
                yield arrived.popleft()
            async with self._turn:
                if not arrived:
                    await self._read()

    async def diagnose(self) -> list[Finding]:
        findings = await examine(self._server, self.options, f"{self.options.prefix}:{self.uri.namespace}", self._root)
        if any(finding.check == "connection" for finding in findings):
            return findings
        connection, *rest = await super().diagnose()
        return [connection, *findings, *rest]

    async def _joined(self, names: Sequence[bytes]) -> None:
        while not self._channels.joined(names):
            self._check_open()
            async with self._turn:
                if not self._channels.joined(names):
                    await self._read()

    def _unconfirmed(self) -> EventBusError:
        kind = ConfigurationError if isinstance(self._fault, ConfigurationError) else TransportUnavailable
        return kind(f"{self.uri} did not confirm a subscription in time: {self._fault or 'no answer'}")

    def _subscribe(self, names: Sequence[bytes]) -> None:
        if self._subscriber is not None and names:
            self._channels.asked(names)
            self._subscriber.write([pack("SUBSCRIBE", *names)])

    def _drop(self, names: Sequence[bytes]) -> None:
        dropped = self._channels.unwant(names)
        if self._subscriber is not None and dropped:
            self._subscriber.write([pack("UNSUBSCRIBE", *dropped)])

    def _check_open(self) -> None:
        if self._closed:
            raise TransportUnavailable(f"the transport to {self.uri} is closed")

    async def _read(self) -> None:
        """Take in what comes next, or get a new connection; to be called by one task at a time."""
        if self._subscriber is None:
            await self._mend()
            return
        try:
            with redis_errors(self.uri):
                self._take_in(await self._pushes(self._subscriber))
        except EventBusError as error:
            if not self._closed:
                logger.warning("node %s connects anew: %s", self.node, error)
            self._fault = error
            subscriber, self._subscriber = self._subscriber, None
            await subscriber.aclose()

    async def _pushes(self, subscriber: Line) -> list[Any]:
        pushes = await subscriber.read()
        if pushes is not None:
            return pushes
        # A server that hangs, or a line that is dead, says nothing: only what we publish ourselves tells.
        async with asyncio.timeout(self.options.probe_timeout):
            await self._probe()
            while pushes is None:
                pushes = await subscriber.read()
            return pushes

    async def _probe(self) -> None:
        probe = pack("PUBLISH", self._channels.probe, b"")
        try:
            await self._publisher.call(probe)
        except TransportUnavailable:  # it is a connection of its own; what broke it need not concern the reader
            await self._publisher.call(probe)

    def _take_in(self, pushes: Sequence[Any]) -> None:
        wanted = self._channels.wanted
        for push in pushes:
            if isinstance(push, ResponseError):
                raise push
            kind, channel, data = push
            if kind == b"message":
                partition = wanted.get(channel)
                if partition is not None:
                    self._arrived.append(Frame(partition, data))
            elif kind == b"subscribe":
                if not self._channels.confirm(channel):
                    self._arrived.append(Interrupted(f"{self.uri} subscribed us to {channel.decode()} a second time"))
            elif self._channels.joined([channel]):
                raise ConnectionResetError(f"the server ended the subscription to {channel.decode()}")

    async def _mend(self) -> None:
        """Try for a new connection until there is one, or the transport is closed."""
        pause = FIRST_PAUSE
        with anyio.CancelScope() as self._mending:
            while not self._closed:
                await anyio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, LONGEST_PAUSE)
                try:
                    await self._subscribe_anew()
                except EventBusError as error:
                    logger.debug("node %s cannot connect: %s", self.node, error)
                    self._fault = error
                else:
                    self._arrived.append(Interrupted(str(self._fault)))
                    self._fault = None
                    logger.info("node %s is connected again to %s", self.node, self.uri)
                    return

    async def _subscribe_anew(self) -> None:
        """Get a new connection, and return when all that is wanted is joined."""
        subscriber = self._subscriber = Line(await self._server.connect(), self.options.probe_interval)
        try:
            with redis_errors(self.uri):
                async with asyncio.timeout(self.options.command_timeout):
                    self._check_open()
                    self._subscribe(self._channels.begin_anew())
                    while not self._channels.all_joined():
                        self._take_in(await subscriber.read() or ())
        except BaseException:
            self._subscriber = None
            await subscriber.aclose()
            raise


async def _close(connection: Line | Commands) -> None:
    with suppress(EventBusError, OSError):
        await connection.aclose()


def _check_event_loop() -> None:
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    if task is None:
        raise ConfigurationError(
            "the Redis backend runs on asyncio only, as redis-py does; "
            "start the program with anyio.run(..., backend='asyncio'), or use memory://"
        )
