"""The web's side of a server: the page, and a websocket for each browser."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import anyio
import msgspec
from starlette.applications import Starlette
from starlette.routing import Mount, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

import eventbus
from gateway.connection import Connection
from gateway.protocol import Visit
from gateway.server import Server

STATIC: Final = Path(__file__).with_name("static")


async def serve(socket: WebSocket) -> None:
    """Serve one browser until it goes; the code with which we close tells the page whether to come back."""
    close = (1000, "")
    await socket.accept()
    try:
        query = {"rooms": socket.query_params.getlist("room"), "away": socket.query_params.get("away", "0")}
        visit = msgspec.convert({**socket.path_params, **query}, Visit, strict=False)
        await Connection(socket.state.server, socket, visit).run()
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
    """Return the application of one server, which browsers reach at *url*; its bus is open while it runs."""

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
