"""encode/broadcaster: a subscription per client."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from importlib import import_module
from typing import Any, Final

import msgspec

from eventbus_core.integrations.broadcaster import EventBusBackend
from tests.benchmarks.peers.base import Context, Deliver, Peer, with_pool

library: Any = import_module("broadcaster")

# Its Redis backend decodes every message as text.
encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder().decode

APART: Final = 0.1


class Broadcaster(Peer):
    """One channel for each client, one for everyone, one for the topic."""

    label = "broadcaster"
    libraries = ("broadcaster", "redis", "hiredis")

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._broadcast = self.connection(context.uri)

    def connection(self, uri: str) -> Any:
        """Return the object that the application uses."""
        return library.Broadcast(with_pool(uri))

    async def start(self, deliver: Deliver) -> None:
        await self._broadcast.connect()
        # One after another: subscriptions made at the same time leave its listener deaf.
        for client in (*self.context.clients, None):
            channel = "all" if client is None else "topic" if self.topical else f"c.{client}"
            self.spawn(self._read(channel, client, deliver))
            await asyncio.sleep(APART)

    async def send(self, client: str, data: Any) -> None:
        await self._broadcast.publish(f"c.{client}", encode(data))

    async def broadcast(self, data: Any) -> None:
        await self._broadcast.publish("all", encode(data))

    async def publish(self, data: Any) -> None:
        await self._broadcast.publish("topic", encode(data))

    async def close(self) -> None:
        await self.end_tasks()
        await self._broadcast.disconnect()

    async def _read(self, channel: str, receiver: Hashable, deliver: Deliver) -> None:
        async with self._broadcast.subscribe(channel=channel) as events:
            async for event in events:
                deliver(receiver, decode(event.message))


class BroadcasterOnBus(Broadcaster):
    """The same, on the backend of ``eventbus[broadcaster]``."""

    label = "broadcaster, on eventbus"

    def connection(self, uri: str) -> Any:
        return library.Broadcast(backend=EventBusBackend(uri))
