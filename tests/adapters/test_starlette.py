"""Websockets and server-sent events with Starlette: in three real workers on Redis, and in one process on memory."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import anyio
import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

import eventbus
from eventbus_core.integrations import starlette
from eventbus_core.integrations.starlette import ClientEventStream, get_bus, lifespan, serve_websocket
from eventbus_core.testing import until
from tests.servers import HOST, free_port
from tests.support import DEADLINE

FOLDER: Final = Path(__file__).parents[2] / "examples" / "frameworks"
ROOM: Final = "room.1"
HANDSHAKE: Final = (
    b"GET /ws/alice HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Site:
    """An application on a port of its own, in this process."""

    def __init__(self, **options: Any) -> None:
        self.served: list[str] = []
        self.bus: eventbus.Bus | None = None
        self.port = free_port()
        self.app = Starlette(
            routes=[
                WebSocketRoute("/ws/{name}", self._ws),
                Route("/sse/{name}", self._sse),
                Route("/resumed/{name}", self._resumed),
                Route("/", self._get),
            ],
            lifespan=lifespan("memory://", prepare=self._prepare, namespace=uuid4().hex, **options),
        )

    def _prepare(self, bus: eventbus.Bus) -> None:
        self.bus = bus

    async def _get(self, request: Request) -> PlainTextResponse:
        return PlainTextResponse(get_bus(request).node)

    async def _ws(self, socket: WebSocket) -> None:
        client = get_bus(socket).client(socket.path_params["name"], linger=30.0)

        async def receive(text: str | bytes) -> None:
            if text == "raise":
                raise RuntimeError("raised")
            if text == "ask":
                raise eventbus.RequestTimeout("an answer", 1.0)
            await client.publish(ROOM, text)

        await serve_websocket(socket, client, receive, topics=[ROOM], write_timeout=1.0)
        self.served.append(client.name)

    async def _sse(self, request: Request) -> ClientEventStream:
        client = get_bus(request).client(request.path_params["name"], linger=30.0)
        return ClientEventStream(client, topics=[ROOM], keep_alive=0.2)

    async def _resumed(self, request: Request) -> ClientEventStream:
        client = get_bus(request).client(request.path_params["name"])
        return ClientEventStream(client, topics=[ROOM], since=request.headers.get("Last-Event-ID", ""))

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Site]:
        server = uvicorn.Server(uvicorn.Config(self.app, host=HOST, port=self.port, log_level="critical"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve)
            await until(lambda: server.started)
            yield self
            server.should_exit = True

    def browser(self, name: str) -> connect:
        return connect(f"ws://{HOST}:{self.port}/ws/{name}")


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site().serving() as found:
        yield found


async def code_of(browser: ClientConnection) -> int | None:
    """Return the code with which the server closes, after all that it sends before."""
    with anyio.fail_after(DEADLINE):
        try:
            while True:
                await browser.recv()
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else None


async def subscribed(site: Site, name: str) -> None:
    assert site.bus is not None
    bus = site.bus

    async def held() -> bool:
        return await bus.locate(name) is not None

    await until(held)


async def test_browsers_share_a_room(site: Site) -> None:
    async with site.browser("alice") as alice, site.browser("bob") as bob:
        await subscribed(site, "alice")
        await subscribed(site, "bob")
        await alice.send("hi")
        await bob.send(b"\x00\xff".hex())
        with anyio.fail_after(DEADLINE):
            assert json.loads(await bob.recv()) == {"type": ROOM, "source": "alice", "data": "hi"}


async def test_a_second_tab_takes_the_client_over(site: Site) -> None:
    async with site.browser("alice") as first:
        await subscribed(site, "alice")
        async with site.browser("alice"):
            assert await code_of(first) == 4001


async def test_a_browser_that_comes_back_has_missed_nothing(site: Site) -> None:
    assert site.bus is not None
    async with site.browser("alice"):
        await subscribed(site, "alice")
    for number in range(3):
        await site.bus.send("alice", "number", number)
    async with site.browser("alice") as alice:
        with anyio.fail_after(DEADLINE):
            assert [json.loads(await alice.recv())["data"] for _ in range(3)] == [0, 1, 2]


async def test_too_large_an_event_closes_with_1009() -> None:
    async with Site(max_event_size=1000).serving() as site, site.browser("alice") as alice:
        await alice.send("x" * 2000)
        assert await code_of(alice) == 1009


async def test_too_many_clients_close_with_1013() -> None:
    async with Site(max_clients=1).serving() as site, site.browser("alice"):
        await subscribed(site, "alice")
        async with site.browser("bob") as bob:
            assert await code_of(bob) == 1013


@pytest.mark.parametrize("text", ["raise", "ask"])
async def test_an_error_of_the_application_is_raised(site: Site, text: str) -> None:
    async with site.browser("alice") as alice:
        await alice.send(text)
        assert await code_of(alice) in (1011, None)
    assert site.served == []


async def test_a_server_that_stops_closes_with_1012_and_hands_over() -> None:
    site = Site()
    async with site.serving():
        alice = await site.browser("alice")
        await subscribed(site, "alice")
    assert await code_of(alice) == 1012
    assert site.bus is not None
    assert site.bus.state == "closed"


async def test_a_drain_sends_browsers_elsewhere_and_says_when() -> None:
    async with Site(close_timeout=0.1).serving() as site, site.browser("alice") as alice:
        await subscribed(site, "alice")
        assert site.bus is not None
        async with httpx.AsyncClient() as http, http.stream("GET", f"http://{HOST}:{site.port}/sse/bob") as stream:
            await subscribed(site, "bob")
            await site.bus.drain(0)
            assert await code_of(alice) == 1012
            assert re.fullmatch(r"retry-after=[01]\.\d{3}", alice.close_reason or "")
            with anyio.fail_after(DEADLINE):
                lines = [line async for line in stream.aiter_lines()]
        assert re.fullmatch(r"retry: \d+", next(line for line in lines if line.startswith("retry")))
        async with site.browser("carol") as carol:
            assert await code_of(carol) == 1012
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"http://{HOST}:{site.port}/sse/carol")).status_code == 503


async def test_a_browser_that_reads_nothing_is_disconnected(site: Site) -> None:
    assert site.bus is not None
    bus = site.bus
    async with await anyio.connect_tcp(HOST, site.port) as browser:
        await browser.send(HANDSHAKE)
        await subscribed(site, "alice")

        async def gone() -> bool:
            await bus.publish(ROOM, "x" * 100_000)
            return site.served == ["alice"]

        await until(gone)


async def test_server_sent_events(site: Site) -> None:
    assert site.bus is not None
    async with httpx.AsyncClient() as http, http.stream("GET", f"http://{HOST}:{site.port}/sse/alice") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.aiter_lines()
        assert await anext(lines) == ": connected"
        await site.bus.send("alice", "greeting", {"text": "line\nline"})
        found = await until_line(lines, "data:")
        assert json.loads(found) == {"type": "greeting", "source": site.bus.address, "data": {"text": "line\nline"}}
        assert await until_line(lines, ":") == "still here"
        async with site.bus.client("alice"):
            assert await until_line(lines, "event:") == "$sys.taken_over"


async def test_a_stream_resumes_a_retained_topic() -> None:
    retain = {"room.*": eventbus.Retention(events=3, seconds=60)}
    async with Site(retain=retain).serving() as site, httpx.AsyncClient() as http:
        assert site.bus is not None
        url = f"http://{HOST}:{site.port}/resumed/alice"
        async with http.stream("GET", url) as response:
            lines = response.aiter_lines()
            assert await anext(lines) == ": connected"
            begun = await until_line(lines, "id:")
            await site.bus.publish(ROOM, "before")
            token = await until_line(lines, "id:")
        async with http.stream("GET", url, headers={"Last-Event-ID": begun}) as response:
            found = json.loads(await until_line(response.aiter_lines(), "data:"))
            assert found["data"] == "before", "a stream without an event leaves no place to resume from"
        for number in range(2):
            await site.bus.publish(ROOM, number, durable=True)
        async with http.stream("GET", url, headers={"Last-Event-ID": token}) as response:
            lines = response.aiter_lines()
            assert [json.loads(await until_line(lines, "data:"))["data"] for _ in range(2)] == [0, 1]
        for number in range(4):
            await site.bus.publish(ROOM, number, durable=True)
        async with http.stream("GET", url, headers={"Last-Event-ID": token}) as response:
            lines = response.aiter_lines()
            assert json.loads(await until_line(lines, "data:")) == {"type": "$sys.loss", "lost": 3}
            assert [json.loads(await until_line(lines, "data:"))["data"] for _ in range(3)] == [1, 2, 3]


async def until_line(lines: AsyncIterator[str], prefix: str) -> str:
    with anyio.fail_after(DEADLINE):
        async for line in lines:
            if line.startswith(prefix):
                return line.removeprefix(prefix).strip()
    raise AssertionError(f"the stream ended without {prefix!r}")


async def test_without_room_a_stream_is_refused() -> None:
    async with Site(max_clients=1).serving() as site, site.browser("alice"), httpx.AsyncClient() as http:
        await subscribed(site, "alice")
        response = await http.get(f"http://{HOST}:{site.port}/sse/bob")
        assert response.status_code == 503
        assert response.headers["retry-after"]


async def test_a_stream_that_cannot_begin_releases_its_client() -> None:
    unused: Any = None
    async with eventbus.connect() as bus:
        with pytest.raises(eventbus.InvalidName):
            await ClientEventStream(bus.client("alice"), topics=["room..1"])(unused, unused, unused)
        assert await bus.locate("alice") is None


@pytest.mark.parametrize("topics", [[], ["room.1", "room.2"]])
def test_a_stream_resumes_one_topic_only(topics: list[str]) -> None:
    with pytest.raises(eventbus.ConfigurationError, match=f"one topic, but {len(topics)}"):
        ClientEventStream(eventbus.connect().client("alice"), topics=topics, since="")


def test_the_hint_of_a_drain_is_found_beside_other_errors() -> None:
    draining = ExceptionGroup("", [eventbus.NodeDraining("acme/alice", "server-1", 0.4)])
    errors = ExceptionGroup("", [eventbus.BusClosed("closed"), draining])
    assert starlette._reason(eventbus.NodeDraining, errors) == "retry-after=0.400"
    assert starlette._reason(eventbus.BusClosed, errors) == "BusClosed"


def test_without_the_lifespan_it_says_so() -> None:
    with pytest.raises(eventbus.ConfigurationError, match="lifespan"):
        get_bus(HTTPConnection({"type": "http", "app": FastAPI(), "state": {}}))


@pytest.fixture
def workers(redis_uri: str, tmp_path: Path) -> Iterator[int]:
    """The port of the example, with three workers."""
    port, log = free_port(), tmp_path / "workers.log"
    uri = f"{redis_uri}?namespace=workers-{uuid4().hex}"
    command = [sys.executable, "-m", "uvicorn", "fastapi_chat:app", "--host", HOST, "--port", str(port)]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--workers", "3"], cwd=FOLDER, env={**os.environ, "EVENTBUS_URI": uri}, stdout=out, stderr=out
        )
    try:
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        finally:
            process.kill()
        assert "Traceback" not in log.read_text(), log.read_text()


async def test_an_event_stream_whose_client_is_taken_over_as_it_begins_says_so() -> None:
    """Not by an error, after which the page would connect again."""
    uri, sent = f"memory://{uuid4().hex}", list[Any]()

    class TakenOver(ClientEventStream):
        async def _subscribe(self, topic: str) -> None:
            async with other.client("alice"):
                await super()._subscribe(topic)

    async def receive() -> Any:
        await anyio.sleep_forever()

    async def send(message: Any) -> None:
        sent.append(message)

    async with eventbus.connect(uri) as bus, eventbus.connect(uri) as other:
        stream = TakenOver(bus.client("alice"), topics=["room.1"])
        with anyio.fail_after(30):
            await stream({"type": "http", "asgi": {"spec_version": "2.4"}}, receive, send)
    assert sent[0]["status"] == 200
    assert b"$sys.taken_over" in b"".join(message.get("body", b"") for message in sent)


async def test_an_event_stream_whose_client_is_taken_over_as_it_is_claimed_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent = list[Any]()

    async def taken_over(_self: object) -> None:
        raise eventbus.ClientTakenOver("alice", "other")

    async def receive() -> Any:
        await anyio.sleep_forever()

    async def send(message: Any) -> None:
        sent.append(message)

    monkeypatch.setattr(eventbus.Client, "open", taken_over)
    async with eventbus.connect() as bus:
        with anyio.fail_after(30):
            await ClientEventStream(bus.client("alice"))({"type": "http"}, receive, send)
    assert b"$sys.taken_over" in b"".join(message.get("body", b"") for message in sent)


async def test_three_workers_are_one_chat(workers: int) -> None:
    names = [f"user-{number}" for number in range(9)]
    async with httpx.AsyncClient(base_url=f"http://{HOST}:{workers}") as http:
        await until(partial(_answers, http), "the workers serve")
        browsers = [await connect(f"ws://{HOST}:{workers}/chat/{name}") for name in names]
        for name in names:
            await until(partial(_told, http, name), f"{name} is connected")
        await browsers[0].send("hello")
        for browser in browsers:
            with anyio.fail_after(DEADLINE):
                while json.loads(await browser.recv())["data"] != "hello":
                    pass
        for browser in browsers:
            await browser.close()


async def _answers(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.post("/tell/someone", params={"text": "hi"})).text == '{"told":false}'
    except httpx.TransportError:
        return False


async def _told(http: httpx.AsyncClient, name: str) -> bool:
    answer = await http.post(f"/tell/{name}", params={"text": "welcome"})
    return bool(answer.json()["told"])
