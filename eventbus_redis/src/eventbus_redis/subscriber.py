"""The reading connection: it stays subscribed to the wanted channels, and reopens itself."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Sequence
from time import monotonic
from typing import Any, Final

import anyio
from redis.exceptions import ResponseError

from eventbus_core.backend import Disconnected, Frame, Interrupted, Partition, get_logger
from eventbus_core.errors import ConfigurationError, EventBusError, PartitionRefused, TransportUnavailable
from eventbus_redis.channels import Channels
from eventbus_redis.commands import Commands
from eventbus_redis.connection import Connection
from eventbus_redis.errors import denies_writes, redis_errors, translate
from eventbus_redis.options import RedisOptions
from eventbus_redis.packing import pack
from eventbus_redis.server import Server

logger = get_logger("eventbus.redis")

FIRST_PAUSE: Final = 0.02
LONGEST_PAUSE: Final = 2.0
RETRY_REFUSED: Final = 5.0
"""Seconds until a channel that the server refused is tried again."""


class Subscriber:
    """
    Reads the frames of the wanted channels.

    No task runs in the background: the callers of :meth:`join` and :meth:`receive` take turns to read, and to reopen
    the connection when it is lost. A channel that the server refuses, for want of a right, does not end the others.

    Args:
        publisher: sends the probes: if one does not come back, the connection is reopened.
    """

    def __init__(
        self, node: str, server: Server, options: RedisOptions, channels: Channels, publisher: Commands
    ) -> None:
        self._node = node
        self._server = server
        self._options = options
        self._channels = channels
        self._publisher = publisher
        self._connection: Connection | None = None
        self._arrived: deque[Frame | Interrupted | Disconnected] = deque()
        self._lock = asyncio.Lock()
        self._fault: EventBusError | None = None
        self._told = ""
        self._pause = FIRST_PAUSE
        self._probed_at = 0
        self._retry_at = 0.0
        self._lapsed: set[bytes] = set()  # refused channels that were asked for again
        self._reconnecting: anyio.CancelScope | None = None
        self._closed = False

    async def open(self) -> None:
        """Connect, and try the way of a frame from the publishing connection to this one."""
        await self._resubscribe()
        await self._probe()

    def close(self) -> None:
        """Disconnect at once; :meth:`receive` ends."""
        self._closed = True
        if self._reconnecting is not None:
            self._reconnecting.cancel()
        if self._connection is not None:
            self._connection.close()

    async def join(self, partitions: Sequence[Partition]) -> None:
        """
        Return once the server has confirmed the channels of *partitions*; otherwise this has no effect.

        Raises:
            TransportUnavailable: it did not confirm them within ``command_timeout``.
            PartitionRefused: the user has no right to some of them, or to SUBSCRIBE.
        """
        names = [self._channels.name(partition) for partition in partitions]
        new = self._channels.want(partitions)
        try:
            async with asyncio.timeout(self._options.command_timeout):
                self._subscribe([*new, *(name for name in names if name in self._channels.refused)])
                await self._confirmed(names)
        except BaseException as error:
            self._drop(new)
            if isinstance(error, TimeoutError):
                raise self._unconfirmed() from self._fault
            raise

    async def leave(self, partitions: Sequence[Partition]) -> None:
        """Unsubscribe from the channels of *partitions*; frames of theirs that still arrive are dropped."""
        self._drop([self._channels.name(partition) for partition in partitions])

    async def receive(self) -> AsyncIterator[Frame | Interrupted | Disconnected]:
        """Yield frames, :class:`Disconnected` if it cannot reconnect, and :class:`Interrupted` each time it has."""
        arrived = self._arrived
        while arrived or not self._closed:
            while arrived:
                yield arrived.popleft()
            async with self._lock:
                if not arrived:
                    await self._read()

    async def _confirmed(self, names: Sequence[bytes]) -> None:
        while not self._channels.joined(names):
            self._check_open()
            if refused := [name for name in names if name in self._channels.refused]:
                partitions = [partition for name in refused if (partition := self._channels.wanted[name]) is not None]
                text = f"cannot subscribe to {', '.join(map(_shown, refused))}: {self._channels.refused[refused[0]]}"
                raise PartitionRefused(text, partitions)
            async with self._lock:
                if not self._channels.joined(names):
                    await self._read()

    def _unconfirmed(self) -> EventBusError:
        kind = ConfigurationError if isinstance(self._fault, ConfigurationError) else TransportUnavailable
        why = self._fault or f"{self._server.uri} gives no answer"
        return kind(f"a subscription was not confirmed in time: {why}")

    def _subscribe(self, names: Sequence[bytes]) -> None:
        if self._connection is not None and names:
            self._lapsed.update(name for name in names if name in self._channels.refused)
            self._connection.write(self._channels.subscribe(names))

    def _drop(self, names: Sequence[bytes]) -> None:
        dropped = self._channels.unwant(names)
        self._lapsed.difference_update(dropped)
        if self._connection is not None and dropped:
            self._connection.write(self._channels.unsubscribe(dropped))

    def _check_open(self) -> None:
        if self._closed:
            raise TransportUnavailable(f"the transport to {self._server.uri} is closed")

    async def _read(self) -> None:
        """Handle the next pushes, or reconnect; called by one task at a time."""
        if self._connection is None:
            await self._reconnect()
            return
        try:
            with redis_errors(self._server.uri):
                self._handle(await self._next_pushes(self._connection))
        except EventBusError as error:
            if not self._closed:
                self._fault = error
                self._warn("node %s lost its reading connection and reconnects: %s", error)
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    async def _next_pushes(self, connection: Connection) -> list[Any]:
        if self._channels.refused and monotonic() >= self._retry_at:
            self._retry_at = monotonic() + RETRY_REFUSED
            self._subscribe(list(self._channels.refused))
        if self._probed_at != self._server.connected:  # another connection was reopened: perhaps to another server
            await self._try_probe()
        pushes = await connection.read()
        if pushes is not None:
            return pushes
        # A hung server and a dead connection are both silent: only a frame of our own tells them from an idle bus.
        async with asyncio.timeout(self._options.probe_timeout):
            if not await self._try_probe():
                return []
            while pushes is None:
                pushes = await connection.read()
            return pushes

    async def _try_probe(self) -> bool:
        """Do what :meth:`_probe` does; return ``False`` if the server answers, but takes no probe now."""
        try:
            await self._probe()
        except ConfigurationError as error:
            self._warn("node %s cannot probe its reading connection: %s", error)
            return False
        except TransportUnavailable as error:
            if not isinstance(error.__cause__, ResponseError) or denies_writes(error.__cause__):
                raise
            self._warn("node %s cannot probe its reading connection: %s", error)
            return False
        return True

    async def _probe(self) -> None:
        """
        Publish a frame to this node's own probe channel, at a server whose role is known.

        Raises:
            TransportUnavailable: the server is not a primary, or does not know of our subscription.
            ConfigurationError: the user has no right to do this.
        """
        self._probed_at = self._server.connected
        try:
            await self._publisher.check_role()
        except TransportUnavailable:  # the publishing connection broke; the reading one may be well
            await self._publisher.check_role()
        (receivers,) = await self._publisher.call(pack("PUBLISH", self._channels.probe, b""))
        self._probed_at = self._server.connected
        if not receivers:
            raise TransportUnavailable(f"{self._server.uri} has no subscription of the reading connection")

    def _handle(self, pushes: Sequence[Any]) -> None:
        channels = self._channels
        for push in pushes:
            if isinstance(push, ResponseError):
                error, _ = translate(self._server.uri, push)
                if not (isinstance(error, ConfigurationError) and channels.refuse(error)):
                    raise push
                continue
            kind, channel, data = push
            if kind == b"message":
                partition = channels.wanted.get(channel)
                if partition is not None:
                    self._arrived.append(Frame(partition, data))
            elif kind == b"subscribe":
                if not channels.confirm(channel, subscribed=True):
                    self._arrived.append(Interrupted(f"{self._server.uri} confirmed {_shown(channel)} twice"))
                elif channel in self._lapsed:
                    self._lapsed.discard(channel)
                    self._arrived.append(Interrupted(f"{self._server.uri} had refused {_shown(channel)}"))
            elif not channels.confirm(channel, subscribed=False) and channels.joined([channel]):
                raise ConnectionResetError(f"the server ended the subscription to {_shown(channel)}")

    async def _reconnect(self) -> None:
        """Try to connect once, after a pause that grows with each failure in a row; ends when the transport closes."""
        with anyio.CancelScope() as self._reconnecting:
            if self._closed:
                return
            await self._server.pause(self._pause * random.uniform(0.5, 1.0))
            try:
                await self._resubscribe()
            except EventBusError as error:
                self._warn("node %s receives nothing, and tries to reconnect: %s", error)
                self._fault = error
                self._pause = min(2 * self._pause, LONGEST_PAUSE)
                self._arrived.append(Disconnected(str(error)))
                return
            self._arrived.append(Interrupted(str(self._fault or f"{self._server.uri} was not there before")))
            self._fault, self._told, self._pause = None, "", FIRST_PAUSE
            extra = {"node": self._node, "uri": str(self._server.uri)}
            logger.info("node %s has reconnected to %s", self._node, self._server.uri, extra=extra)
            self._warn_of_refusals()

    async def _resubscribe(self) -> None:
        """Open a new connection and return when the server has answered for each wanted channel."""
        channels = self._channels
        connection = self._connection = await self._server.connect(self._options.probe_interval)
        try:
            with redis_errors(self._server.uri):
                async with asyncio.timeout(self._options.command_timeout):
                    self._check_open()
                    connection.write(channels.subscribe(channels.reset()))
                    while channels.missing():
                        self._handle(await connection.read() or ())
            if error := channels.refused.get(channels.probe):
                raise ConfigurationError(f"cannot subscribe to {_shown(channels.probe)}: {error}")
        except BaseException:
            self._connection = None
            connection.close()
            raise
        self._retry_at = monotonic() + RETRY_REFUSED

    def _warn_of_refusals(self) -> None:
        for name, error in self._channels.refused.items():
            extra = {"node": self._node, "error": str(error)}
            logger.warning("node %s receives nothing from %s: %s", self._node, _shown(name), error, extra=extra)

    def _warn(self, text: str, error: EventBusError) -> None:
        """Log *error*, unless the last warning had it too."""
        if str(error) != self._told:
            self._told = str(error)
            logger.warning(text, self._node, error, extra={"node": self._node, "error": self._told})


def _shown(channel: bytes) -> str:
    return channel.decode(errors="replace")
