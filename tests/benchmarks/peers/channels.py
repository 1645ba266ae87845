"""Django Channels: the two layers of channels_redis, and that of ``eventbus[channels]``."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from importlib import import_module
from typing import Any, ClassVar, Final

from eventbus_core.integrations.channels import EventBusChannelLayer
from tests.benchmarks.peers.base import Context, Deliver, Peer, with_pool

core: Any = import_module("channels_redis.core")
pubsub: Any = import_module("channels_redis.pubsub")

# The default of 100 refuses a saturating sender.
CAPACITY: Final = 100_000
SETTLE: Final = 0.2


class _Layer(Peer):
    libraries: ClassVar[tuple[str, ...]] = ("channels-redis", "channels", "redis", "hiredis")
    senders = (1, 16, 128)
    layer: Any

    async def send(self, client: str, data: Any) -> None:
        await self.layer.send(self.channel(client), data)

    async def broadcast(self, data: Any) -> None:
        await self.layer.group_send("all", data)

    async def publish(self, data: Any) -> None:
        await self.layer.group_send("topic", data)

    async def start(self, deliver: Deliver) -> None:
        for client in self.context.clients:
            channel = self.channel(client)
            self.spawn(self._read(channel, client, deliver))
            await asyncio.sleep(0)
            if self.topical:
                await self.layer.group_add("topic", channel)
        own = await self.own_channel()
        await self.layer.group_add("all", own)
        self.spawn(self._read(own, None, deliver))
        await asyncio.sleep(SETTLE)  # the readers' subscriptions go out

    def channel(self, client: str) -> str:
        """Return the channel of *client*."""
        raise NotImplementedError

    async def own_channel(self) -> str:
        """Return the channel of this node."""
        raise NotImplementedError

    async def _read(self, channel: str, receiver: Hashable, deliver: Deliver) -> None:
        receive = self.layer.receive
        while True:
            deliver(receiver, await receive(channel))


class PubSubLayer(_Layer):
    """Pub/sub: a channel per client."""

    label = "channels_redis, pub/sub"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.layer = pubsub.RedisPubSubChannelLayer(hosts=[{"address": with_pool(context.uri)}])

    def channel(self, client: str) -> str:
        return f"c.{client}"

    async def own_channel(self) -> str:
        return str(await self.layer.new_channel())

    async def close(self) -> None:
        await self.end_tasks()
        await self.layer.flush()


class _OwnedChannels(_Layer):
    """A channel per client, whose name senders form from the known owner of a client."""

    def __init__(self, context: Context, layer: Any) -> None:
        super().__init__(context)
        self.layer = layer
        self.layer.client_prefix = f"node{context.node}"

    def channel(self, client: str) -> str:
        return f"specific.node{self.context.owners[client]}!{client}"

    async def own_channel(self) -> str:
        return f"specific.node{self.context.node}!all"


class CoreLayer(_OwnedChannels):
    """Sorted sets."""

    label = "channels_redis, core"

    def __init__(self, context: Context) -> None:
        hosts = [{"address": with_pool(context.uri)}]
        super().__init__(context, core.RedisChannelLayer(hosts=hosts, capacity=CAPACITY))

    async def close(self) -> None:
        await self.end_tasks()
        await self.layer.close_pools()


class _NamedProcess(EventBusChannelLayer):
    """Keeps the prefix that it is given."""

    _given = ""

    @property
    def client_prefix(self) -> str:
        return self._given

    @client_prefix.setter
    def client_prefix(self, prefix: str) -> None:
        self._given = self._given if self._given.startswith("node") else prefix


class BusLayer(_OwnedChannels):
    """The layer on the bus."""

    label = "Channels, on eventbus"
    libraries = ("channels",)

    def __init__(self, context: Context) -> None:
        super().__init__(context, _NamedProcess(context.uri, capacity=CAPACITY))

    async def start(self, deliver: Deliver) -> None:
        await self.layer.new_channel()  # joins the bus: others can send from now on
        await super().start(deliver)

    async def close(self) -> None:
        await self.end_tasks()
        await self.layer.flush()
