"""
The bus in Starlette and FastAPI: ``pip install 'eventbus[starlette]'``.

    app = FastAPI(lifespan=lifespan("redis://localhost:6379/0"))
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from typing import Any, Final, Unpack

import anyio

import eventbus
from eventbus import (
    Bus,
    BusClosed,
    Client,
    ClientTakenOver,
    ConnectOptions,
    Event,
    EventBusError,
    LimitExceeded,
    NodeDraining,
    TransportUnavailable,
    drain_on_sigterm,
)

try:
    from starlette.requests import HTTPConnection
    from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

    from eventbus_core.integrations.event_stream import ClientEventStream, encode_event
except ImportError as error:
    raise ImportError(
        "eventbus_core.integrations.starlette needs starlette: pip install 'eventbus[starlette]'", name=error.name
    ) from error

__all__ = ("ClientEventStream", "encode_event", "get_bus", "lifespan", "serve_websocket")

_CODES: Final[dict[type[EventBusError], int]] = {
    ClientTakenOver: 4001,  # the page must not connect again: two tabs would take the client from each other
    NodeDraining: 1012,  # the server restarts; the reason says when to connect again
    BusClosed: 1012,
    TransportUnavailable: 1013,  # try again later
    LimitExceeded: 1013,
    eventbus.EventTooLarge: 1009,
}
_PAUSE: Final = 1.0  # seconds before a browser is told of a takeover, should its page connect again all the same


def lifespan(
    uri: str = "memory://",
    *,
    prepare: Callable[[Bus], object] | None = None,
    drain: float | None = None,
    **options: Unpack[ConnectOptions],
) -> Callable[[Any], AbstractAsyncContextManager[dict[str, Bus]]]:
    """
    Return a lifespan that opens a bus with the application, and closes it when the last request has ended.

    Args:
        uri: of the bus; *options* are those of ``eventbus.connect``.
        prepare: is called with the bus before it is opened, to register handlers.
        drain: seconds over which SIGTERM has the browsers connect to other servers, before this one stops; see
            ``eventbus.drain_on_sigterm``. Without it SIGTERM closes all websockets at once, and uvicorn waits for
            event streams until their browsers go, or ``--timeout-graceful-shutdown`` is over.
    """

    @asynccontextmanager
    async def run(app: Any) -> AsyncIterator[dict[str, Bus]]:
        bus = eventbus.connect(uri, **options)
        if prepare is not None:
            prepare(bus)
        async with bus:
            await bus.ready()
            with nullcontext() if drain is None else drain_on_sigterm(bus, drain):
                yield {"bus": bus}

    return run


def get_bus(connection: HTTPConnection) -> Bus:
    """
    Return the bus that :func:`lifespan` opened: ``Annotated[Bus, Depends(get_bus)]`` in FastAPI.

    Raises:
        ConfigurationError: the application has no such lifespan, or a test client did not run it.
    """
    bus = getattr(connection.state, "bus", None)
    if not isinstance(bus, Bus):
        raise eventbus.ConfigurationError(
            "no bus is open: give the application lifespan=lifespan(uri), and run its lifespan"
        )
    return bus


async def serve_websocket(
    socket: WebSocket,
    client: Client,
    receive: Callable[[str | bytes], Awaitable[object]],
    *,
    topics: Iterable[str] = (),
    encode: Callable[[Event], str] = encode_event,
    write_timeout: float = 30.0,
) -> None:
    """
    Hold *client* while the browser is connected: its events go to the browser, *receive* gets what the browser sends.

    A browser that reads slowly fills the mailbox of its client, never memory; one that reads nothing for
    *write_timeout* seconds is disconnected. The websocket is closed with 4001 if the client is taken over, 1012 if the
    bus closes or drains (then the reason is ``retry-after=SECONDS``), 1013 if the broker takes nothing or a limit is
    reached, and 1009 if an event is too large. Any other exception, of *receive* too, is raised.

    Args:
        socket: is accepted, unless it has been.
        client: is opened, and released at the end; its ``linger`` keeps events for a browser that comes back.
        receive: is called for one message after the other; while it waits, nothing is read from the browser.
        topics: are subscribed to.
        encode: returns the text for an event.
        write_timeout: seconds for which the browser may take nothing.
    """
    if socket.client_state is WebSocketState.CONNECTING:
        await socket.accept()
    try:
        async with client, anyio.create_task_group() as tasks:
            for topic in topics:
                await client.subscribe(topic)
            tasks.start_soon(_write, socket, client, encode, write_timeout)
            while (message := await socket.receive())["type"] == "websocket.receive":
                await receive(message.get("text") or message.get("bytes") or "")
            tasks.cancel_scope.cancel()
    except* WebSocketDisconnect:
        pass  # the browser has gone, or takes nothing
    except* tuple(_CODES) as group:
        kind = next(kind for kind in _CODES if group.subgroup(kind))
        if kind is ClientTakenOver:
            await anyio.sleep(_PAUSE)
        with suppress(RuntimeError, WebSocketDisconnect), anyio.move_on_after(write_timeout):
            await socket.close(_CODES[kind], _reason(kind, group))


def _reason(kind: type[EventBusError], group: BaseExceptionGroup[Any]) -> str:
    """Return the reason of the close; of a drain it says when the page should connect again."""
    error: BaseException | None = group.subgroup(kind)
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"retry-after={error.retry_after:.3f}" if isinstance(error, NodeDraining) else kind.__name__


async def _write(socket: WebSocket, client: Client, encode: Callable[[Event], str], write_timeout: float) -> None:
    async for event in client:
        text = encode(event)
        with suppress(RuntimeError), anyio.move_on_after(write_timeout, shield=True):  # it was taken
            await socket.send_text(text)
            continue
        raise WebSocketDisconnect(1006)  # RuntimeError is of Starlette or the server: the browser has closed it
