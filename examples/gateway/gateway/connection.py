"""One browser: what it asks for goes out, what its client on the bus gets comes in."""

from __future__ import annotations

from contextlib import suppress
from time import monotonic, time
from typing import TYPE_CHECKING, Final

import anyio
import attrs
import msgspec
from starlette.websockets import WebSocket

import eventbus
from gateway.protocol import AWAY, ROOMS, Join, Leave, Message, Missed, Receipt, Say, Visit, decode, frame

if TYPE_CHECKING:
    from gateway.server import Server

PULSE: Final = 0.5


@attrs.frozen
class Connection:
    """A websocket, opened when the clock said *begun*, and the client that it stands for."""

    server: Server
    socket: WebSocket
    visit: Visit
    client: eventbus.Client
    begun: float

    async def run(self) -> None:
        """Serve until the browser goes, or its client is claimed by another connection."""
        async with anyio.create_task_group() as subscribing:
            for topic in self._topics():
                subscribing.start_soon(self.client.subscribe, topic)
        async with self.server.present(self.client.name, self.visit.rooms), anyio.create_task_group() as tasks:
            tasks.start_soon(self._pulse)
            tasks.start_soon(self._write)
            if self.visit.away:
                await self._catch_up(self.visit.away + monotonic() - self.begun)
            while (message := await self.socket.receive())["type"] == "websocket.receive":
                await self._read(message.get("text") or message.get("bytes") or b"")
            tasks.cancel_scope.cancel()

    async def _read(self, text: str | bytes) -> None:
        try:
            request = decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            await self._tell("refused", text=str(error))
            return
        match request:
            case Say():
                await self._say(request)
            case Join() if len(self.visit.rooms) >= ROOMS:
                await self._tell("refused", text=f"you are in {ROOMS} rooms; leave one first")
            case Join(room=room):
                await self.client.subscribe(self.visit.address("room", room))
                self.visit.rooms.add(room)
                await self.server.tell()
            case Leave(room=room):
                await self.client.unsubscribe(self.visit.address("room", room))
                self.visit.rooms.discard(room)
                await self.server.tell()

    async def _say(self, say: Say) -> None:
        address = self.visit.address(say.scope, say.to)
        message = Message(say.id, say.scope, say.to, say.text, self.visit.name, self.server.bus.node, time())
        try:
            if say.scope == "person":
                await self.client.send(address, "gateway.message", message)
            elif address in self._topics():
                await self.client.publish(address, message)
            else:
                await self._tell("refused", id=say.id, text=f"you are not in the room {say.to!r}")
                return
        except (eventbus.ClientNotFound, eventbus.InvalidName):
            await self._tell("refused", id=say.id, text=f"nobody here is called {say.to!r}")
        except eventbus.TransportUnavailable:
            await self._tell("refused", id=say.id, text="this server cannot reach Redis", later=True)
        else:
            self.server.sent.append((monotonic(), address, message))
            await self._tell("accepted", id=say.id)

    async def _write(self) -> None:
        async for event in self.client:
            with suppress(eventbus.EventDataError):  # what others on the bus send is not for browsers
                if event.type == "$sys.loss":
                    await self._catch_up(AWAY)
                    await self._tell("missed", count=event.data.missed)
                elif event.type == "gateway.receipt":
                    await self._tell("delivered", **msgspec.structs.asdict(event.decode(Receipt)))
                else:
                    await self._deliver(event.decode(Message))

    async def _deliver(self, message: Message) -> None:
        """Hand *message* to the browser; the sender of one that was for this person alone gets a receipt."""
        receipt = Receipt(message.id, self.server.bus.node, self._partition(message))
        await self._tell("message", **msgspec.structs.asdict(message), partition=receipt.partition)
        if message.scope == "person":
            with suppress(eventbus.ClientNotFound, eventbus.TransportUnavailable):
                await self.client.send(self.visit.address("person", message.sender), "gateway.receipt", receipt)

    def _partition(self, message: Message) -> str:
        """Return the partition by which *message* gets here from any other server."""
        bus = self.server.bus
        if message.scope == "person" or message.again:
            return f"n:{bus.node}"
        return bus.partition_of(self.visit.address(message.scope, message.to))

    async def _pulse(self) -> None:
        """Say all the time how things are here; by this the page also knows that the connection lives."""
        while True:
            bus, servers = self.server.bus, self.server.view(self.visit.workspace)
            await self._tell("state", node=bus.node, bus=bus.state, servers=servers, stats=attrs.asdict(bus.stats()))
            await anyio.sleep(PULSE)

    async def _catch_up(self, away: float) -> None:
        """Have all servers send again what the browser may have missed."""
        missed = Missed(self.client.name, [self.client.name, *self._topics()], away)
        with suppress(eventbus.TransportUnavailable):
            await self.server.bus.broadcast("gateway.missed", missed)

    def _topics(self) -> list[str]:
        return [self.visit.address("workspace"), *(self.visit.address("room", room) for room in self.visit.rooms)]

    async def _tell(self, kind: str, **fields: object) -> None:
        await self.socket.send_text(frame(kind, **fields))
