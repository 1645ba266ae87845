"""redis-py by hand, one channel per node; which node holds a client is known beforehand."""

from __future__ import annotations

import asyncio
from typing import Any, Final
from urllib.parse import urlsplit

from redis.asyncio import Redis

from tests.benchmarks.peers.base import POOL, Context, Deliver, Peer, decode, encode

HEAD: Final = 4  # bytes before the data: the number of the client


class RedisPy(Peer):
    """Everything goes through Redis, an awaited command each, also what is for a client of the same node."""

    label = "redis-py"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        # Its defaults of version 8 (RESP3, a timer around every read) cost a third of the rate.
        place = urlsplit(context.uri)
        self.redis: Redis = Redis(
            host=place.hostname or "", port=place.port or 0, max_connections=POOL, protocol=2, socket_timeout=None
        )
        self._pubsub: Any = self.redis.pubsub()  # its stubs are incomplete
        names = sorted(context.owners)
        self.names = names
        self.heads = {name: index.to_bytes(HEAD, "big") for index, name in enumerate(names)}
        self.channels = {name: f"n:{node}" for name, node in context.owners.items()}
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._number = 0
        self.deliver: Deliver = lambda _receiver, _data: None

    async def start(self, deliver: Deliver) -> None:
        self.deliver = deliver
        node = self.context.node
        await self._pubsub.subscribe(f"n:{node}", "all", "topic", f"q:{node}", f"a:{node}")
        self.spawn(self._read())

    async def send(self, client: str, data: Any) -> None:
        await self.redis.publish(self.channels[client], self.heads[client] + encode(data))

    async def broadcast(self, data: Any) -> None:
        await self.redis.publish("all", encode(data))

    async def publish(self, data: Any) -> None:
        await self.redis.publish("topic", encode(data))

    async def request(self, client: str, data: Any) -> Any:
        self._number += 1
        number = self._number
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        question = encode((self.context.node, number, client, data))
        await self.redis.publish(f"q:{self.context.owners[client]}", question)
        return await answer

    async def close(self) -> None:
        await self.end_tasks()
        await self._pubsub.aclose()
        await self.redis.aclose()

    async def _read(self) -> None:
        deliver, names = self.deliver, self.names
        async for message in self._pubsub.listen():
            if message["type"] != "message":
                continue
            channel, data = message["channel"], message["data"]
            if channel.startswith(b"n:"):
                deliver(names[int.from_bytes(data[:HEAD], "big")], decode(data[HEAD:]))
            elif channel == b"all":
                deliver(None, decode(data))
            elif channel == b"topic":
                self.spread(data)
            elif channel.startswith(b"q:"):
                asker, number, _, content = decode(data)
                await self.redis.publish(f"a:{asker}", encode((number, content)))
            else:
                number, content = decode(data)
                self._answers.pop(number).set_result(content)

    def spread(self, data: bytes) -> None:
        """Hand the topic's event to each client, to each its own copy."""
        for client in self.context.clients:
            self.deliver(client, decode(data))
