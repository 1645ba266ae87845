"""eventbus, through its public API, with all its guarantees on."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Hashable
from contextlib import AsyncExitStack
from typing import Any, ClassVar, Final, TypeAlias

import eventbus
from tests.benchmarks.payload import WARM
from tests.benchmarks.peers.base import Context, Deliver, Peer
from tests.benchmarks.sending import client_number, is_slow

Sending: TypeAlias = Coroutine[Any, Any, object]

TYPE: Final = "message"
AT_ONCE: Final = 500
SLOWNESS: Final = 0.002
"""Seconds that a slow client takes for each event."""


class RedisBus(Peer):
    """``redis://``."""

    label = "eventbus"
    libraries: ClassVar[tuple[str, ...]] = ("eventbus-core", "anyio", "msgspec", "redis", "hiredis")
    senders = (1,)
    windowed = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._stack = AsyncExitStack()
        self._bus = eventbus.connect(self.uri, node=f"node-{context.node}", **context.case.options)

    @property
    def uri(self) -> str:
        return self.context.uri

    async def start(self, deliver: Deliver) -> None:
        self._stack.push_async_callback(self._bus.aclose)  # by another task, perhaps
        await self._bus.open()
        self._bus.on(TYPE)(self._handler(None, deliver))
        clients = self.context.clients
        for first in range(0, len(clients), AT_ONCE):
            await asyncio.gather(*(self._enter(name, deliver) for name in clients[first : first + AT_ONCE]))
        await self._bus.ready()

    # The coroutines of the bus themselves: what wraps them would be measured too.

    def send(self, client: str, data: Any) -> Sending:
        return self._bus.send(client, TYPE, data)

    def broadcast(self, data: Any) -> Sending:
        return self._bus.broadcast(TYPE, data)

    def publish(self, data: Any) -> Sending:
        return self._bus.publish("topic", data)

    async def request(self, client: str, data: Any) -> Any:
        return (await self._bus.request(client, TYPE, data)).data

    async def close(self) -> None:
        await self.end_tasks()
        await self._stack.aclose()

    async def _enter(self, name: str, deliver: Deliver) -> None:
        iterated = self.context.case.consumer == "iterate"
        client = self._bus.client(name, handler=None if iterated else self._handler(name, deliver))
        await client.__aenter__()  # left with the bus
        if iterated:
            self.spawn(_iterate(client, deliver))
        if self.topical:
            await client.subscribe("topic")

    def _handler(self, name: Hashable, deliver: Deliver) -> Any:
        def handle(event: eventbus.Event) -> None:
            deliver(name, event.data)

        async def handle_async(event: eventbus.Event) -> None:
            deliver(name, event.data)

        async def handle_slowly(event: eventbus.Event) -> None:
            if event.data["s"] != WARM:
                await asyncio.sleep(SLOWNESS)
            deliver(name, event.data)

        async def answer(event: eventbus.Event) -> None:
            if event.reply_to is None:
                deliver(name, event.data)
            else:
                await self._bus.reply(event, event.data)

        if self.context.case.traffic == "request":
            return answer
        if isinstance(name, str) and is_slow(self.context.case, client_number(name)):
            return handle_slowly
        return handle_async if self.context.case.consumer == "async" else handle


class MemoryBus(RedisBus):
    """``memory://``."""

    broker = "memory"
    label = "eventbus, memory"
    libraries = ("eventbus-core", "anyio", "msgspec")

    @property
    def uri(self) -> str:
        return "memory://benchmark"


async def _iterate(client: eventbus.Client, deliver: Deliver) -> None:
    async for event in client:
        deliver(client.name, event.data)
