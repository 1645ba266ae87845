"""
A client manager for python-socketio: ``pip install 'eventbus[socketio]'``.

    server = socketio.AsyncServer(client_manager=EventBusManager("redis://localhost:6379/0"))
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack
from typing import Any, Final

from eventbus import Bus, BusClosed, Client, ClientNotFound, Event, EventBusError, quote
from eventbus_core.integrations.attached_bus import AttachedBus

try:
    from socketio.async_pubsub_manager import AsyncPubSubManager
except ImportError as error:
    raise ImportError(
        "eventbus_core.integrations.socketio needs python-socketio: pip install 'eventbus[socketio]'", name=error.name
    ) from error

__all__ = ("EventBusManager",)

_TYPE: Final = "socketio"
_SESSION: Final = re.compile(r"[\w-]{20}", re.ASCII)  # what python-engineio makes; a room may look like one
_BACKLOG: Final = 10_000  # events of other servers; beyond, their senders are held back
_PAUSE: Final = 0.5  # seconds between two attempts to join the bus


class EventBusManager(AsyncPubSubManager):  # type: ignore[misc]
    """
    Shares the clients of several Socket.IO servers; each emit goes to the servers that have a receiver.

    A room is a topic, to which a server subscribes while it has a client in the room. Each session is a client of the
    bus, so what is for one session goes to its server alone. An emit raises ``TransportUnavailable`` if the broker
    takes nothing for ``send_timeout``; clients of the same server have it then.

    Args:
        bus: an open bus, or the URI of one, which is opened with the first client or emit, and closed by
            :meth:`aclose`.
        channel: keeps apart the servers of several applications on one bus.
        write_only: only emit: for processes that are no servers.
        logger: as for the managers of python-socketio.
        json: likewise.
    """

    name = "eventbus"

    def __init__(
        self,
        bus: Bus | str = "memory://",
        channel: str = "socketio",
        write_only: bool = False,
        logger: Any = None,
        json: Any = None,
    ) -> None:
        super().__init__(channel=channel, write_only=write_only, logger=logger, json=json)
        self._attached = AttachedBus(bus)
        self._bus: Bus | None = None
        self._closed = False
        self._changing = asyncio.Lock()
        self._sessions: dict[str, Client] = {}
        self._server: Client | None = None  # receives what is for this server: callbacks, and its topics
        self._topics: set[str] = set()
        self._received: asyncio.Queue[Any] = asyncio.Queue(_BACKLOG)

    async def aclose(self) -> None:
        """Leave the bus, and join it no more; for programs that end before their event loop does."""
        self._closed = True
        async with self._changing, AsyncExitStack() as closing:
            closing.push_async_callback(self._attached.aclose)
            for client in filter(None, (self._server, *self._sessions.values())):
                closing.push_async_callback(client.aclose)
            self._bus = self._server = None
            self._topics.clear()
            self._sessions.clear()

    async def pre_connect(self, eio_sid: str, namespace: str) -> str | None:
        """Register a client, and claim its session on the bus."""
        bus = await self._joined()
        sid: str | None = await super().pre_connect(eio_sid, namespace)
        if sid is not None:
            try:
                self._sessions[sid] = await bus.client(self._address(sid), handler=self._receive).open()
                await self._follow(namespace, None)
            except BaseException:
                await self.disconnect(sid, namespace, ignore_queue=True)
                raise
        return sid

    async def disconnect(self, sid: str, namespace: str, **kwargs: Any) -> None:
        """Disconnect a client, on whatever server it is."""
        rooms = [None, *self.get_rooms(sid, namespace)]
        await super().disconnect(sid, namespace, **kwargs)
        if not kwargs.get("ignore_queue"):
            return  # it comes back with ignore_queue, on the server that has the client
        if (session := self._sessions.pop(sid, None)) is not None:
            await session.aclose()
        for room in rooms:
            await self._follow(namespace, room)

    async def enter_room(self, sid: str, namespace: str, room: Any, eio_sid: str | None = None) -> None:
        """Add a client to a room; returns once what other servers emit to the room from now on will arrive."""
        await super().enter_room(sid, namespace, room, eio_sid=eio_sid)
        await self._follow(namespace, room)

    async def leave_room(self, sid: str, namespace: str, room: Any) -> None:
        """Remove a client from a room."""
        await super().leave_room(sid, namespace, room)
        await self._follow(namespace, room)

    async def _handle_enter_room(self, message: dict[str, Any]) -> None:
        await super()._handle_enter_room(message)
        await self._follow(message["namespace"], message["room"])

    async def _handle_leave_room(self, message: dict[str, Any]) -> None:
        await super()._handle_leave_room(message)
        await self._follow(message["namespace"], message["room"])

    async def _handle_close_room(self, message: dict[str, Any]) -> None:
        await super()._handle_close_room(message)
        await self._follow(message.get("namespace"), message["room"])

    async def _publish(self, data: dict[str, Any]) -> None:
        bus = await self._joined()
        method, room = data["method"], data.get("room")
        if method == "callback":
            await self._send(bus, data["host_id"], data)
        elif method not in ("emit", "close_room"):
            await self._send(bus, data["sid"], data)
        elif isinstance(room, str) and room in self._sessions:
            return  # this server alone has the receiver
        elif not (isinstance(room, str) and _SESSION.fullmatch(room) and await self._send(bus, room, data)):
            await bus.publish(self._topic(data["namespace"], room), data)

    async def _listen(self) -> AsyncIterator[Any]:
        while self._bus is None and not self._closed:
            try:
                await self._joined()
            except EventBusError as error:  # python-socketio would call again at once
                self._get_logger().warning("cannot join the bus, trying again: %s", error)
                await asyncio.sleep(_PAUSE)
        while True:
            yield await self._received.get()

    def _receive(self, event: Event) -> Awaitable[None] | None:
        data = event.data
        if data.get("host_id") == self.host_id and data.get("method") != "callback":
            return None  # of this server itself, whose clients have it already
        if self._received.full():
            return self._received.put(data)
        self._received.put_nowait(data)
        return None

    async def _send(self, bus: Bus, receiver: str, data: dict[str, Any]) -> bool:
        try:
            await bus.send(self._address(receiver), _TYPE, data)
        except ClientNotFound:
            return False
        return True

    async def _joined(self) -> Bus:
        if self._bus is None:
            async with self._changing:
                if self._closed:
                    raise BusClosed("this manager has left the bus: make another one")
                if self._bus is None:
                    self._bus = await self._join()
        return self._bus

    async def _join(self) -> Bus:
        bus = await self._attached.open()
        if not self.write_only:
            try:
                self._server = await bus.client(self._address(self.host_id), handler=self._receive).open()
            except BaseException:
                await self._attached.aclose()
                raise
        return bus

    async def _follow(self, namespace: str | None, room: Any) -> None:
        """Subscribe this server to the topic of *room* if it has a client there, else unsubscribe it."""
        topic = self._topic(namespace, room)
        if self._wanted(namespace, room) == (topic in self._topics):
            return
        async with self._changing:
            if self._server is None:  # it only emits, or has left
                return
            if not self._wanted(namespace, room):
                self._topics.discard(topic)
                await self._server.unsubscribe(topic)
            elif topic not in self._topics:
                await self._server.subscribe(topic)
                self._topics.add(topic)

    def _wanted(self, namespace: str | None, room: Any) -> bool:
        return room in self.rooms.get(namespace, ()) and room not in self._sessions

    def _address(self, name: str) -> str:
        return f"{quote(self.channel)}/{quote(name)}"

    def _topic(self, namespace: str | None, room: Any) -> str:
        """Return the topic of a room; that of the namespace for none, and for several, each of which is in it."""
        topic = f"{_TYPE}.{quote(self.channel)}.{quote(namespace or '/')}"
        several = room is None or isinstance(room, (list, tuple))
        return topic if several else f"{topic}.{quote(str(room))}"
