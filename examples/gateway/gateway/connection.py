"""One browser: its requests go to the bus, the events of its client go to the browser."""

from contextlib import suppress
from time import monotonic, time
from typing import Final

import anyio
import anyio.lowlevel
import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect

import eventbus
from gateway.protocol import ASKS, AWAY, EVENTS, Accepted, Message, Missed, Refused, Resumed, Say, Tell, Visit
from gateway.server import Server

LINGER: Final = 30.0
PULSE: Final = 0.5


class Connection:
    """A websocket and its client on the bus."""

    def __init__(self, server: Server, socket: WebSocket, visit: Visit) -> None:
        self._server = server
        self._socket = socket
        self._visit = visit
        self._begun = monotonic()
        self._client = server.bus.client(visit.client, linger=LINGER)

    async def run(self) -> None:
        """Hold the client until the browser goes; ``LINGER`` keeps later messages until it is back."""
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
            await self._resume()
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
            with anyio.CancelScope(shield=True):  # a message that the bus has accepted is acknowledged
                await self._tell(await self._say(ask))
        else:
            await self._move(ask.rooms)

    async def _say(self, say: Say) -> Accepted | Refused:
        bus, address = self._server.bus, self._visit.address(say.scope, say.to)
        message = Message(say.id, say.scope, say.to, say.text, self._visit.name, bus.node, time())
        try:
            if say.scope == "person":
                await self._client.send(address, "gateway.message", message)
            elif address in {self._visit.everyone, *self._visit.topics}:
                await self._client.publish(address, message)
            else:
                return Refused(f"you are not in the room {say.to!r}", say.id)
        except (eventbus.ClientNotFound, eventbus.InvalidName):
            return Refused(f"no person here is called {say.to!r}", say.id)
        except eventbus.TransportUnavailable:
            return Refused("this server cannot reach Redis", say.id, later=True)
        self._server.sent.append((monotonic(), address, message))
        return Accepted(say.id)

    async def _move(self, rooms: set[str]) -> None:
        """Be in *rooms* and no others; does not wait for other servers, so that visitors here can talk meanwhile."""
        before, self._visit.rooms = self._visit.topics, rooms
        for topic in self._visit.topics - before:
            self._tasks.start_soon(self._client.subscribe, topic)
        for topic in before - self._visit.topics:
            await self._client.unsubscribe(topic)
        await anyio.lowlevel.checkpoint()  # the subscriptions begin before the page's next request

    async def _write(self) -> None:
        async for event in self._client:
            with anyio.CancelScope(shield=True):  # what was taken from the client is written
                if event.type != "$sys.loss":
                    with suppress(eventbus.EventDataError):  # events of other programs on the bus are not for browsers
                        await self._hand_out(event)
                elif event.data.reason == "lost":
                    await self._tell(Missed(event.data.missed))
                    await self._catch_up(AWAY)
                else:  # of the messages to everyone, which servers do not repeat
                    await self._tell(Resumed.of(event.data))

    async def _hand_out(self, event: eventbus.Event) -> None:
        """Pass a message or a receipt to the browser; the sender of a message to this person gets a receipt."""
        bus, tell = self._server.bus, event.read(EVENTS)
        if isinstance(tell, Message):
            tell.partition = bus.partition_of(event.topic) if event.topic else f"n:{bus.node}"
            tell.position = event.position or ""
        await self._tell(tell)
        if isinstance(tell, Message) and tell.scope == "person":
            with suppress(eventbus.ClientNotFound, eventbus.TransportUnavailable):
                target = self._visit.address("person", tell.sender)
                await bus.send(target, "gateway.delivered", tell.receipt(bus.node))

    async def _resume(self) -> None:
        """Go on with the messages to everyone where the page was, or say what is gone."""
        visit = self._visit
        if self._server.bus.state in ("alone", "disconnected"):  # there is no history to read
            await self._client.subscribe(visit.everyone)
            await self._tell(Resumed(reason="unreachable" if visit.since else ""))
        else:
            await self._tell(Resumed.of(await self._client.subscribe(visit.everyone, since=visit.since)))

    async def _pulse(self) -> None:
        """Send the state of the server twice a second; the page takes silence for a dead connection."""
        while True:
            await self._tell(self._server.state(self._visit.workspace))
            await anyio.sleep(PULSE)

    async def _catch_up(self, away: float) -> None:
        """Ask all servers to send again the messages that the browser may have missed."""
        visit = msgspec.structs.replace(self._visit, away=min(away, AWAY))
        await self._server.bus.broadcast("gateway.missed", visit)

    async def _tell(self, tell: Tell) -> None:
        try:
            await self._socket.send_text(msgspec.json.encode(tell).decode())
        except RuntimeError:  # from Starlette or uvicorn, if the browser has closed the websocket
            raise WebSocketDisconnect(1006) from None
