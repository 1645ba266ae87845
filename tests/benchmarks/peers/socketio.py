"""The managers of python-socketio, with servers that have no network: what they send is what arrived."""

from __future__ import annotations

from collections.abc import Hashable
from importlib import import_module
from typing import Any, ClassVar

from eventbus_core.integrations.socketio import EventBusManager
from tests.benchmarks.peers.base import Context, Deliver, Peer, with_pool
from tests.benchmarks.peers.broadcaster import decode

library: Any = import_module("socketio")

EVENT = "event"


class SocketioOnRedis(Peer):
    """A room for each client, one for everyone, one for the topic."""

    label = "python-socketio"
    libraries: ClassVar[tuple[str, ...]] = ("python-socketio", "redis", "hiredis")

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._manager = self.manager(context.uri)
        self._server = library.AsyncServer(client_manager=self._manager)
        self._receivers: dict[str, Hashable] = {}

    def manager(self, uri: str) -> Any:
        """Return the manager."""
        return library.AsyncRedisManager(with_pool(uri))

    async def start(self, deliver: Deliver) -> None:
        async def take(eio_sid: str, packet: Any) -> None:
            deliver(self._receivers[eio_sid], decode(packet.data[1:])[1])

        self._server._send_eio_packet = take
        self._manager.initialize()
        for client in (*self.context.clients, None):
            eio_sid = f"eio.{client}"
            self._receivers[eio_sid] = client
            sid = await self._manager.connect(eio_sid, "/")
            room = "all" if client is None else "topic" if self.topical else f"c.{client}"
            await self._manager.enter_room(sid, "/", room)

    async def send(self, client: str, data: Any) -> None:
        await self._manager.emit(EVENT, data, room=f"c.{client}")

    async def broadcast(self, data: Any) -> None:
        await self._manager.emit(EVENT, data, room="all")

    async def publish(self, data: Any) -> None:
        await self._manager.emit(EVENT, data, room="topic")

    async def close(self) -> None:
        self._manager.thread.cancel()
        await self.disconnect()

    async def disconnect(self) -> None:
        """Leave the broker."""
        await self._manager.redis.aclose()


class SocketioOnBus(SocketioOnRedis):
    """The same, with the manager of ``eventbus[socketio]``."""

    label = "python-socketio, on eventbus"
    libraries = ("python-socketio",)

    def manager(self, uri: str) -> Any:
        return EventBusManager(uri)

    async def disconnect(self) -> None:
        await self._manager.aclose()
