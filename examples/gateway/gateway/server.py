"""One server of several: its bus, who is connected where, and what its clients sent in the last minute."""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Final

import anyio
import msgspec
from starlette.applications import Starlette
from starlette.routing import Mount, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

import eventbus
from gateway.connection import Connection
from gateway.protocol import Here, Message, Missed, Visit

STATIC: Final = Path(__file__).with_name("static")
LINGER: Final = 30.0
BEAT: Final = 1.0
SILENCE: Final = 3.5
SLACK: Final = 2.0  # what was sent shortly before a page heard the last of its server may not have reached it


class Server:
    """What the connections of one process share."""

    def __init__(self, bus: eventbus.Bus, url: str) -> None:
        self.bus = bus
        self._here = Here(url, {})
        self._heard: dict[str, tuple[float, Here]] = {}
        self._sent: deque[tuple[float, str, Message]] = deque(maxlen=1000)
        bus.on("gateway.here", data=Here)(self._hear)
        bus.on("gateway.missed", data=Missed)(self._send_again)

    async def run(self) -> None:
        """Tell the others every second who is here; of a server that is silent nobody is shown."""
        while True:
            await self.tell()
            self._heard = {node: item for node, item in self._heard.items() if item[0] > monotonic() - SILENCE}
            await anyio.sleep(BEAT)

    async def tell(self) -> None:
        """Tell the other servers who is here."""
        with suppress(eventbus.TransportUnavailable):
            await self.bus.broadcast("gateway.here", self._here)

    @asynccontextmanager
    async def present(self, client: str, rooms: set[str]) -> AsyncIterator[None]:
        """Count *client* among those who are here."""
        self._here.clients[client] = rooms
        await self.tell()
        try:
            yield
        finally:
            if self._here.clients.get(client) is rooms:  # else it has come back meanwhile
                del self._here.clients[client]
                await self.tell()

    def view(self, workspace: str) -> dict[str, Here]:
        """Return the servers, each with its address and those of its clients that are in *workspace*."""
        start = f"{workspace}/"
        return {
            node: Here(here.url, {c.removeprefix(start): r for c, r in here.clients.items() if c.startswith(start)})
            for node, (_, here) in sorted(self._heard.items())
        }

    def remember(self, address: str, message: Message) -> None:
        """Keep *message* for those who may miss it."""
        self._sent.append((monotonic(), address, message))

    def _hear(self, event: eventbus.Event) -> None:
        self._heard[event.source[1:]] = monotonic(), event.data

    async def _send_again(self, event: eventbus.Event) -> None:
        missed: Missed = event.data
        since = monotonic() - missed.away - SLACK
        for at, address, message in list(self._sent):
            if at >= since and address in missed.addresses:
                with suppress(eventbus.EventBusError):
                    again = msgspec.structs.replace(message, again=True)
                    await self.bus.send(missed.client, "gateway.message", again)


async def serve(socket: WebSocket) -> None:
    """Hold the browser's client while it is connected, and what comes for it shortly after until it is back."""
    server: Server = socket.state.server
    close, begun = (1000, ""), monotonic()
    await socket.accept()
    try:
        query = {"rooms": socket.query_params.getlist("room"), "away": socket.query_params.get("away", "0")}
        visit = msgspec.convert({**socket.path_params, **query}, Visit, strict=False)
        async with server.bus.client(visit.address("person", visit.name), linger=LINGER) as client:
            await Connection(server, socket, visit, client, begun).run()
    except* msgspec.ValidationError as errors:
        close = (4000, str(errors.exceptions[0]))
    except* eventbus.ClientTakenOver:
        close = (4001, "connected from elsewhere")
    except* eventbus.TransportUnavailable:
        close = (1013, "this server cannot reach Redis")
    except* WebSocketDisconnect:
        pass
    with suppress(RuntimeError, WebSocketDisconnect):
        await socket.close(*close)


def create_app(uri: str, server_id: str | None, url: str) -> Starlette:
    """Return the application of one server: the page, and the websockets; its bus is open while it runs."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Server]]:
        # Alone, people on this server can talk until Redis is there.
        async with (
            eventbus.connect(uri, node=server_id, wait_for_broker=False) as bus,
            anyio.create_task_group() as tasks,
        ):
            server = Server(bus, url)
            await bus.ready()
            tasks.start_soon(server.run)
            yield {"server": server}
            tasks.cancel_scope.cancel()

    routes = [WebSocketRoute("/ws/{workspace}/{name}", serve), Mount("/", StaticFiles(directory=STATIC, html=True))]
    return Starlette(routes=routes, lifespan=lifespan)
