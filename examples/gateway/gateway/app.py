"""The web application of a server: the page, and a websocket for each browser."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

import anyio
import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

import eventbus
from eventbus_core.integrations.event_stream import ClientEventStream
from gateway.connection import Connection
from gateway.protocol import Visit
from gateway.server import Server

STATIC: Final = Path(__file__).with_name("static")
RETAIN: Final = {"workspace.*": eventbus.Retention(events=200, seconds=600)}


async def serve(socket: WebSocket) -> None:
    """Serve one browser until it goes; the code of the close tells the page whether to reconnect."""
    close = (1000, "")
    await socket.accept()
    try:
        query = {"away": "0", **socket.query_params, "rooms": socket.query_params.getlist("room")}
        visit = msgspec.convert({**query, **socket.path_params}, Visit, strict=False)
        await Connection(socket.state.server, socket, visit).run()
    except* msgspec.ValidationError as errors:
        close = (4000, str(errors.exceptions[0]))
    except* eventbus.ClientTakenOver:
        close = (4001, "connected from elsewhere")
    except* eventbus.NodeDraining as errors:
        close = (1012, f"retry-after={_first(errors).retry_after:.3f}")
    except* eventbus.TransportUnavailable:
        close = (1013, "this server cannot reach Redis")
    except* WebSocketDisconnect:
        pass
    with suppress(RuntimeError, WebSocketDisconnect):
        await socket.close(*close)


async def watch(request: Request) -> ClientEventStream:
    """Stream the messages to everyone; an ``EventSource`` that comes back gets those that it missed."""
    workspace = request.path_params["workspace"]
    client = request.state.server.bus.client(f"{workspace}/{token_hex(16)}")  # longer than the name of a visitor
    return ClientEventStream(client, topics=[f"workspace.{workspace}"], since=request.headers.get("Last-Event-ID", ""))


def _first(errors: BaseExceptionGroup[Any]) -> Any:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def create_app(uri: str, server_id: str | None, url: str, drain: float = 10.0) -> Starlette:
    """
    Return the application of one server, which browsers reach at *url*; its bus is open while it runs.

    After SIGTERM the browsers are sent to other servers first, within *drain* seconds.

    Raises:
        EventBusError: *uri* or *server_id* is wrong.
    """
    # Without Redis the bus starts alone: visitors of this server can talk, and Redis may come later.
    bus = eventbus.connect(uri, node=server_id, wait_for_broker=False, presence=True, retain=RETAIN)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Server]]:
        async with bus, anyio.create_task_group() as tasks:
            server = Server(bus, url)
            await bus.ready()
            tasks.start_soon(server.run)
            with eventbus.drain_on_sigterm(bus, drain):
                yield {"server": server}
            tasks.cancel_scope.cancel()

    routes = [
        WebSocketRoute("/ws/{workspace}/{name}", serve),
        Route("/events/{workspace}", watch),
        Mount("/", StaticFiles(directory=STATIC, html=True)),
    ]
    return Starlette(routes=routes, lifespan=lifespan)
