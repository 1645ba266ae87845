"""The manager for python-socketio: two real servers, with clients on each, on Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic
from typing import Any
from uuid import uuid4

import anyio
import pytest
import socketio
import uvicorn

import eventbus
from eventbus import BusClosed
from eventbus_core.integrations.socketio import EventBusManager
from eventbus_core.testing import until
from tests.servers import HOST, free_port

MANY_BUSES = 3


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def uri(redis_uri: str) -> str:
    return f"{redis_uri}?namespace=socketio-{uuid4().hex}"


class Server:
    """A Socket.IO server on a port of its own."""

    def __init__(self, bus: eventbus.Bus) -> None:
        self.bus = bus
        self.socketio = socketio.AsyncServer(async_mode="asgi", client_manager=EventBusManager(bus))
        self.socketio.on("join", self._join)
        self.socketio.on("echo", self._echo)
        self.url = ""

    async def _join(self, sid: str, room: str) -> None:
        await self.socketio.enter_room(sid, room)

    async def _echo(self, sid: str, data: object) -> object:
        return data

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Server]:
        port = free_port()
        config = uvicorn.Config(
            socketio.ASGIApp(self.socketio), host=HOST, port=port, log_level="error", ws="websockets-sansio"
        )
        server = uvicorn.Server(config)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve)
            await until(lambda: server.started)
            self.url = f"http://{HOST}:{port}"
            yield self
            server.should_exit = True


class Browser:
    """A client, with all that it received."""

    def __init__(self) -> None:
        self.socketio = socketio.AsyncClient()
        self.received: list[tuple[str, Any]] = []
        self.ended = False
        self.socketio.on("*", self._receive)
        self.socketio.on("ask", self._answer)
        self.socketio.on("disconnect", self._end)

    async def _receive(self, event: str, data: object) -> None:
        self.received.append((event, data))

    async def _answer(self, data: object) -> object:
        return {"answer": data}

    async def _end(self, *_: object) -> None:
        self.ended = True

    @property
    def sid(self) -> str:
        sid: str = self.socketio.get_sid()
        return sid

    async def has(self, *events: tuple[str, Any]) -> None:
        await until(lambda: len(self.received) >= len(events))
        assert self.received == list(events)
        self.received.clear()


@pytest.fixture
async def servers(uri: str) -> AsyncIterator[tuple[Server, Server]]:
    async with AsyncExitStack() as stack:
        buses = [await stack.enter_async_context(eventbus.connect(uri)) for _ in range(2)]
        yield tuple([await stack.enter_async_context(Server(bus).serving()) for bus in buses])  # type: ignore[misc]


@pytest.fixture
async def browsers(servers: tuple[Server, Server]) -> AsyncIterator[tuple[Browser, Browser]]:
    found = (Browser(), Browser())
    for browser, server in zip(found, servers, strict=True):
        await browser.socketio.connect(server.url, transports=["websocket"])
    yield found
    for browser in found:
        await browser.socketio.disconnect()


async def test_an_emit_to_all_reaches_the_clients_of_both_servers(
    servers: tuple[Server, Server], browsers: tuple[Browser, Browser]
) -> None:
    await servers[0].socketio.emit("news", {"n": 1, "raw": b"\x00"})
    for browser in browsers:
        await browser.has(("news", {"n": 1, "raw": b"\x00"}))


async def test_an_emit_to_a_session_of_another_server_goes_to_it_alone(
    servers: tuple[Server, Server], browsers: tuple[Browser, Browser]
) -> None:
    here, there = browsers
    await servers[0].socketio.emit("news", 1, to=there.sid)
    await servers[0].socketio.emit("news", 2)
    await here.has(("news", 2))
    await until(lambda: len(there.received) == 2)
    assert sorted(there.received) == [("news", 1), ("news", 2)]


async def test_a_room_has_members_on_both_servers(
    servers: tuple[Server, Server], browsers: tuple[Browser, Browser]
) -> None:
    here, there = browsers
    for browser in browsers:
        await browser.socketio.call("join", "lobby")
    await servers[0].socketio.emit("said", "hi", room="lobby")
    await here.has(("said", "hi"))
    await there.has(("said", "hi"))
    await servers[1].socketio.emit("said", "hi", room="lobby", skip_sid=there.sid)
    await here.has(("said", "hi"))
    await servers[0].socketio.close_room("lobby")
    await until(lambda: "lobby" not in servers[1].socketio.rooms(there.sid))
    await servers[0].socketio.emit("said", "again", room="lobby")
    await servers[0].socketio.emit("last", 0)
    await here.has(("last", 0))
    await there.has(("last", 0))


async def test_a_member_of_two_rooms_gets_an_emit_to_both_once(
    servers: tuple[Server, Server], browsers: tuple[Browser, Browser]
) -> None:
    _, there = browsers
    for room in ("lobby", "bar"):
        await there.socketio.call("join", room)
    await servers[0].socketio.emit("said", "hi", room=["lobby", "bar"])
    await servers[0].socketio.emit("last", 0)
    await there.has(("said", "hi"), ("last", 0))


async def test_rooms_of_a_session_are_changed_from_another_server(
    servers: tuple[Server, Server], browsers: tuple[Browser, Browser]
) -> None:
    _, there = browsers
    await servers[0].socketio.enter_room(there.sid, "lobby")
    await until(lambda: "lobby" in servers[1].socketio.rooms(there.sid))
    await servers[0].socketio.leave_room(there.sid, "lobby")
    await until(lambda: "lobby" not in servers[1].socketio.rooms(there.sid))


async def test_a_callback_comes_back_from_another_server(
    servers: tuple[Server, Server], browsers: tuple[Browser, Browser]
) -> None:
    _, there = browsers
    answers: list[object] = []
    await servers[0].socketio.emit("ask", "why", to=there.sid, callback=answers.append)
    await until(lambda: answers == [{"answer": "why"}])


async def test_a_session_of_another_server_is_disconnected(
    servers: tuple[Server, Server], browsers: tuple[Browser, Browser]
) -> None:
    _, there = browsers
    sid = there.sid
    await servers[0].socketio.disconnect(sid)
    await until(lambda: there.ended)
    assert await servers[0].bus.locate(f"socketio/{sid}") is None


async def test_another_process_emits_without_receiving(
    uri: str, servers: tuple[Server, Server], browsers: tuple[Browser, Browser]
) -> None:
    outside = EventBusManager(uri, write_only=True)
    await outside.emit("news", "from outside", to=browsers[0].sid)
    await browsers[0].has(("news", "from outside"))
    await outside.emit("news", "to all")
    await browsers[1].has(("news", "to all"))
    await outside.aclose()
    assert len(await servers[0].bus.nodes()) == MANY_BUSES - 1


async def test_a_manager_that_leaves_releases_its_clients() -> None:
    """On a bus that the application opened, and goes on using."""
    async with eventbus.connect() as bus:
        manager = EventBusManager(bus)
        socketio.AsyncServer(client_manager=manager)
        assert await manager.pre_connect("transport", "/") is not None
        assert len([name async for name in bus.clients()]) == 2  # the server and the session
        await manager.aclose()
        assert [name async for name in bus.clients()] == []


async def test_a_server_without_members_gets_nothing(
    servers: tuple[Server, Server], browsers: tuple[Browser, Browser]
) -> None:
    await browsers[0].socketio.call("join", "lobby")
    before = servers[1].bus.stats().received_events
    for _ in range(20):
        await servers[0].socketio.emit("said", "hi", room="lobby")
    await servers[0].bus.flush()
    await until(lambda: len(browsers[0].received) == 20)
    assert servers[1].bus.stats().received_events == before


async def test_a_server_takes_in_only_what_others_emit(uri: str) -> None:
    """Else its emits would wait behind those of others, for which its own clients come first."""
    async with AsyncExitStack() as stack:
        servers = []
        for _ in range(2):
            bus = await stack.enter_async_context(eventbus.connect(uri))
            manager = EventBusManager(bus)
            server = socketio.AsyncServer(client_manager=manager)
            server._send_eio_packet = _discard
            manager.initialize()
            stack.push_async_callback(manager.aclose)
            await manager.enter_room(await manager.connect("browser", "/"), "/", "room")
            manager.thread.cancel()  # what is received stays in the queue
            servers.append((server, manager))
        (one, manager), (two, _) = servers
        for number in range(3):
            await one.emit("said", number, room="room")
        await two.emit("said", 3, room="room")
        await until(lambda: not manager._received.empty())
        assert [manager._received.get_nowait()["data"] for _ in range(manager._received.qsize())] == [[3]]


class Joining(EventBusManager):
    """Notes when it tries to join the bus."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.tried: list[float] = []

    async def _join(self) -> eventbus.Bus:
        self.tried.append(monotonic())
        return await super()._join()


async def test_a_server_without_a_broker_pauses_between_attempts_to_join() -> None:
    manager = Joining(f"redis://{HOST}:{free_port()}")
    socketio.AsyncServer(client_manager=manager)
    manager.initialize()
    await until(lambda: len(manager.tried) == 3)
    manager.thread.cancel()
    assert manager.tried[-1] - manager.tried[0] >= 0.9


async def test_a_manager_that_has_left_joins_no_more() -> None:
    """Nor does its task, which tried to join at that moment: it goes on with what came before."""
    manager = Joining("memory://")
    socketio.AsyncServer(client_manager=manager)
    await manager.aclose()
    with pytest.raises(BusClosed, match="make another"):
        await manager._publish({"method": "emit", "namespace": "/"})
    manager._received.put_nowait("the last")
    with anyio.fail_after(30):
        assert await anext(manager._listen()) == "the last"
    assert manager.tried == []


async def _discard(eio_sid: str, packet: object) -> None: ...
