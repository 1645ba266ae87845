"""One browser: what it asks for goes out, what its client on the bus gets comes in."""

from contextlib import suppress
from time import monotonic, time
from typing import Final

import anyio
import anyio.lowlevel
import msgspec
from starlette.websockets import WebSocket

import eventbus
from gateway.protocol import ASKS, AWAY, EVENTS, Accepted, Delivered, Message, Missed, Refused, Say, Tell, Visit
from gateway.server import Server

LINGER: Final = 30.0
PULSE: Final = 0.5


class Connection:
    """A websocket, and the client that it stands for."""

    def __init__(self, server: Server, socket: WebSocket, visit: Visit) -> None:
        self._server = server
        self._socket = socket
        self._visit = visit
        self._begun = monotonic()
        self._client = server.bus.client(visit.client, linger=LINGER)

    async def run(self) -> None:
        """Hold the client until the browser goes, and what comes for it shortly after until it is back."""
        async with self._client:
            async with anyio.create_task_group() as tasks:
                for topic in self._visit.topics:
                    tasks.start_soon(self._client.subscribe, topic)
            self._server.visits.add(self._visit)
            try:
                await self._serve()
            finally:
                self._server.visits.discard(self._visit)

    async def _serve(self) -> None:
        async with anyio.create_task_group() as self._tasks:
            self._tasks.start_soon(self._pulse)
            self._tasks.start_soon(self._write)
            if self._visit.away:
                await self._catch_up(self._visit.away + monotonic() - self._begun)
            while (message := await self._socket.receive())["type"] == "websocket.receive":
                await self._read(message.get("text") or message.get("bytes") or b"")
            self._tasks.cancel_scope.cancel()

    async def _read(self, text: str | bytes) -> None:
        try:
            ask = ASKS.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            await self._tell(Refused(str(error)))
            return
        if isinstance(ask, Say):
            await self._tell(await self._say(ask))
        else:
            await self._move(ask.rooms)

    async def _say(self, say: Say) -> Accepted | Refused:
        bus, address = self._server.bus, self._visit.address(say.scope, say.to)
        message = Message(say.id, say.scope, say.to, say.text, self._visit.name, bus.node, time())
        try:
            if say.scope == "person":
                await self._client.send(address, "gateway.message", message)
            elif address in self._visit.topics:
                await self._client.publish(address, message)
            else:
                return Refused(f"you are not in the room {say.to!r}", say.id)
        except (eventbus.ClientNotFound, eventbus.InvalidName):
            return Refused(f"nobody here is called {say.to!r}", say.id)
        except eventbus.TransportUnavailable:
            return Refused("this server cannot reach Redis", say.id, later=True)
        self._server.sent.append((monotonic(), address, message))
        return Accepted(say.id)

    async def _move(self, rooms: set[str]) -> None:
        """Be in *rooms* alone; without waiting for the other servers, as those on this one can talk meanwhile."""
        before, self._visit.rooms = self._visit.topics, rooms
        for topic in self._visit.topics - before:
            self._tasks.start_soon(self._client.subscribe, topic)
        for topic in before - self._visit.topics:
            await self._client.unsubscribe(topic)
        await anyio.lowlevel.checkpoint()  # lets the subscriptions begin before the page can say or ask more

    async def _write(self) -> None:
        async for event in self._client:
            if event.type == "$sys.loss":
                await self._tell(Missed(event.data.missed))
                await self._catch_up(AWAY)
            else:
                with suppress(eventbus.EventDataError):  # what others on the bus send is not for browsers
                    await self._hand_out(event)

    async def _hand_out(self, event: eventbus.Event) -> None:
        """Give a message or a receipt to the browser; who wrote to this person alone gets a receipt."""
        bus, tell = self._server.bus, event.read(EVENTS)
        if isinstance(tell, Message):
            tell.partition = bus.partition_of(event.topic) if event.topic else f"n:{bus.node}"
        await self._tell(tell)
        if isinstance(tell, Message) and tell.scope == "person":
            receipt = Delivered(tell.id, bus.node, tell.partition)
            with suppress(eventbus.ClientNotFound, eventbus.TransportUnavailable):
                await self._client.send(self._visit.address("person", tell.sender), "gateway.delivered", receipt)

    async def _pulse(self) -> None:
        """Say all the time how things are here; by this the page also knows that the connection lives."""
        while True:
            await self._tell(self._server.state(self._visit.workspace))
            await anyio.sleep(PULSE)

    async def _catch_up(self, away: float) -> None:
        """Have all servers send again what the browser may have missed."""
        visit = msgspec.structs.replace(self._visit, away=min(away, AWAY))
        await self._server.bus.broadcast("gateway.missed", visit)

    async def _tell(self, tell: Tell) -> None:
        await self._socket.send_text(msgspec.json.encode(tell).decode())
