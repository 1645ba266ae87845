"""NATS core with nats-py: a subject per client."""

from __future__ import annotations

from collections.abc import Hashable
from importlib import import_module
from typing import Any

from tests.benchmarks.peers.base import Context, Deliver, Peer, decode, encode

library: Any = import_module("nats")


class NatsCore(Peer):
    """Its publish only buffers; so each window of events is confirmed by a flush."""

    broker = "nats"
    label = "NATS core, nats-py"
    libraries = ("nats-py",)
    senders = (128, 1024)
    windowed = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._connection: Any = None
        self._unconfirmed = 0

    async def start(self, deliver: Deliver) -> None:
        self._connection = await library.connect(self.context.uri)
        for client in self.context.clients:
            await self._subscribe("topic" if self.topical else f"c.{client}", client, deliver)
        await self._subscribe("all", None, deliver)
        await self._connection.flush()

    async def send(self, client: str, data: Any) -> None:
        await self._publish(f"c.{client}", data)

    async def broadcast(self, data: Any) -> None:
        await self._publish("all", data)

    async def publish(self, data: Any) -> None:
        await self._publish("topic", data)

    async def request(self, client: str, data: Any) -> Any:
        return decode((await self._connection.request(f"c.{client}", encode(data), timeout=5)).data)

    async def close(self) -> None:
        await self._connection.close()

    async def _subscribe(self, subject: str, receiver: Hashable, deliver: Deliver) -> None:
        async def take(message: Any) -> None:
            if message.reply:
                await message.respond(message.data)
            else:
                deliver(receiver, decode(message.data))

        await self._connection.subscribe(subject, cb=take)

    async def _publish(self, subject: str, data: Any) -> None:
        await self._connection.publish(subject, encode(data))
        self._unconfirmed += 1
        if self._unconfirmed >= self.context.senders:
            self._unconfirmed = 0
            await self._connection.flush()
