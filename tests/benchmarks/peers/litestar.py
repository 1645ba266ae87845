"""Backends of Litestar's channels, used directly: a channel per client."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from redis.asyncio import Redis

from eventbus_core.integrations.litestar import EventBusChannelsBackend
from tests.benchmarks.peers.base import POOL, Context, Deliver, Peer, decode, encode

library: Any = import_module("litestar.channels.backends.redis")


class LitestarChannels(Peer):
    """One channel for each client, one for everyone, one for the topic."""

    label = "Litestar channels"
    libraries = ("litestar", "redis", "hiredis")

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._backend = self.backend(context.uri)

    def backend(self, uri: str) -> Any:
        """Return the backend."""
        self._redis: Redis = Redis.from_url(uri, max_connections=POOL)
        return library.RedisChannelsPubSubBackend(redis=self._redis)

    async def start(self, deliver: Deliver) -> None:
        await self._backend.on_startup()
        clients = {f"c.{client}": client for client in self.context.clients}
        await self._backend.subscribe([*clients, "all", *(["topic"] if self.topical else [])])
        self.spawn(self._read(clients, deliver))

    async def send(self, client: str, data: Any) -> None:
        await self._backend.publish(encode(data), [f"c.{client}"])

    async def broadcast(self, data: Any) -> None:
        await self._backend.publish(encode(data), ["all"])

    async def publish(self, data: Any) -> None:
        await self._backend.publish(encode(data), ["topic"])

    async def close(self) -> None:
        await self.end_tasks()
        await self._backend.on_shutdown()
        await self.disconnect()

    async def disconnect(self) -> None:
        """Close what the backend leaves open."""
        await self._redis.aclose()

    async def _read(self, clients: dict[str, str], deliver: Deliver) -> None:
        async for channel, data in self._backend.stream_events():
            if channel == "topic":
                for client in clients.values():
                    deliver(client, decode(data))
            else:
                deliver(clients.get(channel), decode(data))


class LitestarOnBus(LitestarChannels):
    """The same, on the backend of ``eventbus[litestar]``."""

    label = "Litestar channels, on eventbus"

    def backend(self, uri: str) -> Any:
        return EventBusChannelsBackend(uri)

    async def disconnect(self) -> None:
        """Do nothing: the backend closes its bus."""
