"""redis-py with commands batched by hand: the best that its public API gives a hand-written bus."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from tests.benchmarks.peers.base import Context, Deliver, decode, encode
from tests.benchmarks.peers.redis_py import RedisPy

MAX_BATCH: Final = 256


class BatchedRedisPy(RedisPy):
    """
    Sends at the same time share a pipeline, each still waiting for its reply; own clients need no Redis.

    What is for everyone goes through Redis, to its sender too.
    """

    label = "redis-py, batched by hand"
    senders = (128, 512)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._waiting: list[tuple[str, bytes, asyncio.Future[None]]] = []
        self._wake = asyncio.Event()
        self._here = frozenset(context.clients)

    async def start(self, deliver: Deliver) -> None:
        await super().start(deliver)
        self.spawn(self._write())

    async def send(self, client: str, data: Any) -> None:
        if client in self._here:
            self.deliver(client, decode(encode(data)))
        else:
            await self._enqueue(self.channels[client], self.heads[client] + encode(data))

    async def broadcast(self, data: Any) -> None:
        await self._enqueue("all", encode(data))

    async def publish(self, data: Any) -> None:
        await self._enqueue("topic", encode(data))

    def _enqueue(self, channel: str, data: bytes) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((channel, data, future))
        self._wake.set()
        return future

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                pipeline = self.redis.pipeline(transaction=False)
                for channel, data, _ in batch:
                    pipeline.publish(channel, data)
                await pipeline.execute()
                for *_, future in batch:
                    if not future.done():
                        future.set_result(None)
