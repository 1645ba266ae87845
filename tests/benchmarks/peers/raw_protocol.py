"""A ceiling and no peer: asyncio's Protocol and hiredis without a client library, one PUBLISH for each event."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

import hiredis

from tests.benchmarks.peers.base import Context, Deliver, Peer, decode, encode

HEAD: Final = 4  # bytes before the data: the number of the client
command: Final[Any] = hiredis.pack_command  # its stub knows tuples of one part only


class Publisher(asyncio.Protocol):
    """Writes the commands of one turn of the event loop together; each has a future for its reply."""

    def __init__(self) -> None:
        self._replies = hiredis.Reader()
        self._pending: deque[asyncio.Future[Any]] = deque()
        self._commands: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._replies.feed(data)
        while (reply := self._replies.gets()) is not False:
            future = self._pending.popleft()
            if future.done():
                continue
            if isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)

    def connection_lost(self, error: Exception | None) -> None:
        for future in self._pending:
            if not future.done():
                future.set_exception(error or ConnectionError("the server has closed the connection"))

    def publish(self, channel: str, data: bytes) -> asyncio.Future[Any]:
        """Publish with the next write; the future ends with the reply."""
        if not self._commands:
            self._loop.call_soon(self._write)
        self._commands.append(command(("PUBLISH", channel, data)))
        future: asyncio.Future[Any] = self._loop.create_future()
        self._pending.append(future)
        return future

    def _write(self) -> None:
        self._transport.write(b"".join(self._commands))
        self._commands.clear()


class Subscriber(asyncio.Protocol):
    """Calls a function with the channel and the data of each message; *ready* ends with the last subscription."""

    def __init__(self, channels: list[str], take: Callable[[bytes, bytes], None]) -> None:
        self._channels = channels
        self._take = take
        self._messages = hiredis.Reader()
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        transport.write(command(("SUBSCRIBE", *self._channels)))

    def data_received(self, data: bytes) -> None:
        self._messages.feed(data)
        while (message := self._messages.gets()) is not False:
            kind, channel, content = message
            if kind == b"message":
                self._take(channel, content)
            elif content == len(self._channels):
                self.ready.set_result(None)


class RawProtocol(Peer):
    """
    Knows which node holds a client, and hands its own clients their events directly.

    It loses events if a connection ends, and holds back no sender.
    """

    label = "raw Protocol"
    libraries: ClassVar[tuple[str, ...]] = ("hiredis",)
    senders = (16, 128, 512)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        names = sorted(context.owners)
        self._names = names
        self._heads = {name: number.to_bytes(HEAD, "big") for number, name in enumerate(names)}
        self._channels = {name: f"n:{node}" for name, node in context.owners.items()}
        self._here = frozenset(context.clients)
        self._deliver: Deliver = lambda _receiver, _data: None
        self._connections: list[asyncio.Transport] = []

    async def start(self, deliver: Deliver) -> None:
        self._deliver = deliver
        loop = asyncio.get_running_loop()
        place = urlsplit(self.context.uri)
        host, port = place.hostname or "", place.port or 0
        channels = [f"n:{self.context.node}", "all", "topic"]
        reading, subscriber = await loop.create_connection(lambda: Subscriber(channels, self._take), host, port)
        writing, self._publisher = await loop.create_connection(Publisher, host, port)
        self._connections = [reading, writing]
        await subscriber.ready

    async def send(self, client: str, data: Any) -> None:
        if client in self._here:
            self._deliver(client, decode(encode(data)))
        else:
            await self._publisher.publish(self._channels[client], self._heads[client] + encode(data))

    async def broadcast(self, data: Any) -> None:
        await self._publisher.publish("all", encode(data))

    async def publish(self, data: Any) -> None:
        await self._publisher.publish("topic", encode(data))

    async def close(self) -> None:
        for connection in self._connections:
            connection.close()

    def _take(self, channel: bytes, data: bytes) -> None:
        if channel == b"all":
            self._deliver(None, decode(data))
        elif channel == b"topic":
            for client in self.context.clients:
                self._deliver(client, decode(data))
        else:
            self._deliver(self._names[int.from_bytes(data[:HEAD], "big")], decode(data[HEAD:]))
