"""The reading connection to one primary of a cluster."""

from __future__ import annotations

from time import monotonic
from typing import Any, Final, Protocol

import hiredis

from eventbus_core.backend import Address, Frame, Partition
from eventbus_core.errors import EventBusError
from eventbus_redis.cluster.line_requests import Answer, Kind, LineRequests
from eventbus_redis.connection import Connection
from eventbus_redis.errors import redis_errors
from eventbus_redis.options import RedisOptions
from eventbus_redis.packing import pack
from eventbus_redis.server import Server

HELLO_PUSH: Final = pack("HELLO", 3)
"""With version 3 of the protocol, a connection with subscriptions may send other commands too."""
MESSAGE: Final = b"smessage"
LONGEST_PROBE_INTERVAL: Final = 1.0
LASTED: Final = 1.0
"""Seconds for which a line was open, if it is reopened at once."""


class Channel:
    """
    A channel of the cluster that the node wants, wherever its slot is.

    Attributes:
        name: of the channel.
        probe: the name of a key in the same slot; there is no such key.
        line: the line that has the subscription, or has asked for it; ``None`` while there is none.
        joined: whether the server has confirmed it.
        lost: why frames may have been missed since it was joined first; empty if none were.
        refused: the server's error, if it denies this user the channel.
        redirections: how often in a row the server named another one.
        told: whether the core knows that the channel cannot be read.
    """

    __slots__ = ("joined", "line", "lost", "name", "partition", "probe", "redirections", "refused", "slot", "told")

    def __init__(self, partition: Partition, slot: int, name: bytes, probe: bytes) -> None:
        self.partition = partition
        self.slot = slot
        self.name = name
        self.probe = probe
        self.line: PrimaryLine | None = None
        self.joined = self.told = False
        self.lost = ""
        self.refused: EventBusError | None = None
        self.redirections = 0


class Listener(Protocol):
    """What a line reports to the reader that opened it."""

    async def space(self) -> None:
        """Return once the reader takes more frames."""

    def arrived(self, frame: Frame) -> None:
        """Take a frame."""

    def answered(self, line: PrimaryLine, answer: Answer) -> None:
        """Take an answer of the server."""

    def heard(self, line: PrimaryLine) -> None:
        """Look after what the last answers have changed; *line* may have be suspected now."""

    def ended(self, line: PrimaryLine, error: EventBusError) -> None:
        """Take back all channels of a *line* that was lost, or could not be opened."""


class PrimaryLine:
    """
    The reading connection to one primary, from its opening until it is lost; it never reopens.

    A primary that was demoted or cut off from the cluster goes on accepting subscriptions. But it does not let anyone
    read a key: so that is tried before each subscription, and at each interval.

    Attributes:
        address: of the primary.
        suspected: whether the server may not be the primary any more, so that others have to be asked.
        lasted: whether it was open for a while, so that it may be reopened at once.
    """

    def __init__(self, address: Address, server: Server, options: RedisOptions, listener: Listener) -> None:
        self.address = address
        self.suspected = self.lasted = False
        self._server = server
        self._listener = listener
        self._interval = min(options.probe_interval, LONGEST_PROBE_INTERVAL)
        self._timeout = options.probe_timeout
        self._requests = LineRequests()
        self._connection: Connection | None = None
        self._channels: dict[bytes, Channel] = {}
        self._probed_at = 0.0
        self._probing = False

    @property
    def empty(self) -> bool:
        """Whether no channel is on this line."""
        return not self._channels

    def add(self, channel: Channel) -> None:
        """Subscribe to *channel*, at once or when the line is open."""
        self._channels[channel.name] = channel
        if self._connection is not None:
            self._connection.write([self._requests.probe(channel.probe), self._requests.join(channel.name)])

    def remove(self, channel: Channel) -> None:
        """Unsubscribe from *channel*; frames that still arrive are dropped."""
        if self._channels.pop(channel.name, None) is not None and self._connection is not None:
            self._connection.write([self._requests.leave(channel.name)])

    async def run(self) -> None:
        """Open the line and read until it is lost; then say why."""
        try:
            with redis_errors(self._server.uri):
                connection = await self._server.connect(self._interval, hello=HELLO_PUSH)
                try:
                    self._connection = connection
                    for channel in list(self._channels.values()):
                        self.add(channel)
                    await self._read(connection)
                finally:
                    self._connection = None
                    connection.close()
        except EventBusError as error:
            self._listener.ended(self, error)

    async def _read(self, connection: Connection) -> None:
        opened_at = self._probed_at = monotonic()
        while True:
            await self._listener.space()
            replies = await connection.read()
            if replies:
                self._take(replies)
            now = monotonic()
            self.lasted = self.lasted or now - opened_at >= LASTED
            if self._probing and replies is None:
                if now - self._probed_at >= self._timeout:
                    raise TimeoutError(f"no answer within {self._timeout:g} s")
                self.suspected = True
                self._listener.heard(self)
            elif not self._probing and now - self._probed_at >= self._interval and self._channels:
                self._probing, self._probed_at = True, now
                connection.write([self._requests.probe(next(iter(self._channels.values())).probe)])

    def _take(self, replies: list[Any]) -> None:
        channels, listener = self._channels, self._listener
        for reply in replies:
            if isinstance(reply, hiredis.PushNotification) and reply[0] == MESSAGE:
                channel = channels.get(reply[1])
                if channel is not None:
                    listener.arrived(Frame(channel.partition, reply[2]))
            elif (answer := self._requests.take(reply)) is not None:
                self._probing = self._probing and answer.kind is not Kind.PROBE
                listener.answered(self, answer)
        listener.heard(self)
