"""Sessions of the MCP SDK on two replicas, of which each may get every request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple, Self
from uuid import uuid4

import pytest
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.transport_security import TransportSecuritySettings

import eventbus
from eventbus_core.integrations.mcp_sessions import ForwardedSessions
from eventbus_core.testing import until

HEADERS = [
    (b"host", b"localhost"),
    (b"accept", b"application/json, text/event-stream"),
    (b"content-type", b"application/json"),
]
PARAMS = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
INITIALIZE = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": PARAMS}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["memory", "redis"])
def uri(request: pytest.FixtureRequest) -> str:
    base = "memory://" if request.param == "memory" else request.getfixturevalue("redis_uri")
    return f"{base}?namespace=mcp-{uuid4().hex}"


class Replica(NamedTuple):
    name: str
    bus: eventbus.Bus
    app: ForwardedSessions


class Response:
    """A request in a task, and what came of it so far."""

    def __init__(self, app: Any, method: str, session: str | None, message: object = None) -> None:
        self.status = 0
        self.session: str | None = None
        self.body = b""
        self._body = b"" if message is None else json.dumps(message).encode()
        self._gone = asyncio.Event()
        self._read = False
        headers = HEADERS + ([] if session is None else [(b"mcp-session-id", session.encode())])
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": "/mcp",
            "raw_path": b"/mcp",
            "query_string": b"",
            "root_path": "",
            "headers": [*headers, (b"content-length", str(len(self._body)).encode())],
            "state": {"opened": "by the lifespan"},
        }
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def done(self) -> Self:
        await asyncio.wait_for(self.task, 30)
        return self

    def messages(self) -> list[Any]:
        """Return the messages of the stream."""
        lines = self.body.decode().splitlines()
        return [json.loads(line[6:]) for line in lines if line.startswith("data: ") and line[6:]]

    async def close(self) -> None:
        """Be a client that closes the connection."""
        self._gone.set()
        await self.done()

    async def _receive(self) -> dict[str, Any]:
        if not self._read:
            self._read = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            found = dict(message["headers"]).get(b"mcp-session-id")
            self.session = None if found is None else found.decode()
        else:
            self.body += message.get("body", b"")


class InPieces(Response):
    """A request whose body comes in *pieces*, of which *read* were read; then the client closes the connection."""

    def __init__(self, app: Any, session: str, pieces: int, piece: bytes = b" " * 256 * 1024) -> None:
        self.read = 0
        self._pieces = pieces
        self._piece = piece
        super().__init__(app, "POST", session)

    async def _receive(self) -> dict[str, Any]:
        if self.read == self._pieces:
            return {"type": "http.disconnect"}
        self.read += 1
        return {"type": "http.request", "body": self._piece, "more_body": True}


@asynccontextmanager
async def replica(
    uri: str, name: str, idle: float = 7200.0, around: Callable[[Any], Any] = lambda app: app, **options: Any
) -> AsyncIterator[Replica]:
    server = MCPServer(name)

    @server.tool()
    async def where(context: Context) -> str:
        """Say which replica this is."""
        await context.session.send_tool_list_changed()
        return name

    @server.tool()
    def large() -> str:
        """Say much."""
        return "x" * 700_000

    security = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    app = server.streamable_http_app(transport_security=security)
    async with eventbus.connect(uri, node=name, **options) as bus, app.router.lifespan_context(app):
        forwarded = ForwardedSessions(around(app), bus, idle=idle)
        try:
            yield Replica(name, bus, forwarded)
        finally:
            await forwarded.aclose()


async def begin(app: Any) -> str:
    """Begin a session; return its id."""
    answer = await Response(app, "POST", None, INITIALIZE).done()
    assert (answer.status, answer.session is not None) == (200, True), answer.body
    session = str(answer.session)
    note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    assert (await Response(app, "POST", session, note).done()).status == 202
    return session


def call(app: Any, session: str, tool: str = "where") -> Response:
    params = {"name": tool, "arguments": {}}
    return Response(app, "POST", session, {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params})


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the loggers of the adapter that have warned, of which each warning costs a user a request."""
    return [record.name for record in caplog.records if record.levelname == "WARNING" and record.name != "eventbus"]


def result(response: Response) -> str:
    return str(response.messages()[-1]["result"]["content"][0]["text"])


async def test_each_replica_serves_the_requests_of_every_session(uri: str) -> None:
    async with replica(uri, "one") as one, replica(uri, "two") as two:
        session = await begin(one.app)
        for app in (one.app, two.app, two.app):
            response = await call(app, session).done()
            assert (response.status, result(response)) == (200, "one")
        other = await begin(two.app)
        assert result(await call(one.app, other).done()) == "two"


async def test_a_response_larger_than_an_event_comes_whole(uri: str) -> None:
    async with replica(uri, "one", max_event_size=400_000) as one, replica(uri, "two") as two:
        session = await begin(one.app)
        assert result(await call(two.app, session, "large").done()) == "x" * 700_000


async def test_a_request_larger_than_an_event_is_refused(uri: str) -> None:
    async with replica(uri, "a") as a, replica(uri, "b") as b:
        session = await begin(a.app)
        message = {"jsonrpc": "2.0", "id": 2, "method": "ping", "params": {"text": "x" * 2_000_000}}
        answer = await Response(b.app, "POST", session, message).done()
        assert (answer.status, b"max_event_size" in answer.body) == (413, True)
        assert result(await call(b.app, session).done()) == "a"


async def test_no_more_of_a_request_is_read_than_an_event_may_hold(uri: str) -> None:
    async with replica(uri, "a") as a, replica(uri, "b") as b:
        request = await InPieces(b.app, await begin(a.app), pieces=50).done()
        assert (request.status, request.read) == (413, 5)


async def test_a_request_whose_client_goes_before_its_end_is_not_forwarded(uri: str) -> None:
    async with replica(uri, "a") as a, replica(uri, "b") as b:
        session = await begin(a.app)
        request = await InPieces(b.app, session, pieces=1, piece=b"{}").done()
        assert (request.status, b.bus.stats().accepted) == (0, 0)


async def test_a_replica_that_cannot_reach_the_others_says_so(uri: str, caplog: pytest.LogCaptureFixture) -> None:
    """Its node holds as many clients as it may, so it cannot get answers; then its bus is closed."""
    async with replica(uri, "one") as one:
        session = await begin(one.app)
        async with replica(uri, "two", max_clients=1) as two:
            async with two.bus.client("alice"):
                full = await call(two.app, session).done()
            assert result(await call(two.app, session).done()) == "one"
        for answer in (full, await call(two.app, session).done()):
            assert (answer.status, b"try again" in answer.body) == (503, True)
    assert warnings(caplog) == ["eventbus.http", "eventbus.mcp"]


async def test_a_session_that_cannot_be_begun_is_refused(uri: str, caplog: pytest.LogCaptureFixture) -> None:
    async with replica(uri, "one", max_clients=1) as one, one.bus.client("alice"):
        refused = await Response(one.app, "POST", None, INITIALIZE).done()
        assert (refused.status, refused.session, b"try again" in refused.body) == (503, None, True)
    assert warnings(caplog) == ["eventbus.mcp"]


async def test_the_stream_of_a_session_comes_by_any_replica(uri: str) -> None:
    """What the server sends on its own comes at once; a client that goes away ends the stream, and may come again."""
    async with replica(uri, "one") as one, replica(uri, "two") as two:
        session = await begin(one.app)
        for _ in range(2):
            stream = Response(two.app, "GET", session)
            await until(lambda stream=stream: stream.status == 200)  # type: ignore[misc]
            await call(two.app, session).done()
            await until(lambda stream=stream: "list_changed" in stream.body.decode())  # type: ignore[misc]
            await stream.close()
            await until(lambda: not one.app._forwarded._serving)


async def test_a_session_that_has_ended_is_known_nowhere(uri: str) -> None:
    async with replica(uri, "one") as one, replica(uri, "two") as two:
        session = await begin(one.app)
        assert (await Response(two.app, "DELETE", session).done()).status == 200
        for app in (two.app, one.app):
            assert (await call(app, session).done()).status == 404
        assert [name async for name in one.bus.clients()] == []


def without_deletes(app: Any) -> Any:
    """Return *app* behind a middleware that lets no client end a session."""

    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        if scope.get("method") != "DELETE":
            await app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 401, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return refuse


async def test_a_session_that_may_not_be_ended_goes_on(uri: str) -> None:
    async with replica(uri, "one", around=without_deletes) as one, replica(uri, "two") as two:
        session = await begin(one.app)
        for app in (one.app, two.app):
            assert (await Response(app, "DELETE", session).done()).status == 401
        assert result(await call(two.app, session).done()) == "one"


async def test_a_forwarded_request_has_the_state_of_the_lifespan_only(uri: str) -> None:
    """Not what a middleware noted of another request."""
    states: list[dict[str, str]] = []

    def noting(app: Any) -> Any:
        async def note(scope: Any, receive: Any, send: Any) -> None:
            states.append(dict(scope["state"]))
            scope["state"]["user"] = "alice"
            await app(scope, receive, send)

        return note

    async with replica(uri, "one", around=noting) as one, replica(uri, "two") as two:
        assert result(await call(two.app, await begin(one.app)).done()) == "one"
    assert states == [{"opened": "by the lifespan"}] * 3


async def test_a_session_without_requests_is_forgotten(uri: str) -> None:
    async with replica(uri, "one", idle=0.0) as one:
        first, second = await begin(one.app), await begin(one.app)
        assert [name async for name in one.bus.clients()] == [f"mcp/{second}"]
        assert result(await call(one.app, first).done()) == "one"


async def test_a_session_with_an_open_request_is_not_idle(uri: str) -> None:
    """Another request of it that ends does not make it so."""
    async with replica(uri, "one", idle=0.0) as one, replica(uri, "two") as two:
        session = await begin(one.app)
        stream = Response(two.app, "GET", session)
        await until(lambda: stream.status == 200)
        assert result(await call(one.app, session).done()) == "one"
        await begin(one.app)
        assert result(await call(two.app, session).done()) == "one"
        await stream.close()


async def test_no_request_is_served_any_more_once_the_replica_has_closed(uri: str) -> None:
    ended: list[str] = []

    def slow_to_end(app: Any) -> Any:
        async def serve(scope: Any, receive: Any, send: Any) -> None:
            try:
                await app(scope, receive, send)
            finally:
                for _ in range(100):
                    await asyncio.sleep(0)
                ended.append(scope["method"])

        return serve

    async with replica(uri, "one", around=slow_to_end) as one, replica(uri, "two") as two:
        stream = Response(two.app, "GET", await begin(one.app))
        await until(lambda: stream.status == 200)
        await one.app.aclose()
        assert ended == ["POST", "POST", "GET"]
        await stream.done()


async def test_a_replica_that_leaves_ends_what_it_serves(uri: str) -> None:
    async with AsyncExitStack() as stack, replica(uri, "two") as two:
        one = await stack.enter_async_context(replica(uri, "one"))
        session = await begin(one.app)
        stream = Response(two.app, "GET", session)
        await until(lambda: stream.status == 200)
        await stack.aclose()
        await stream.done()
        assert (await call(two.app, session).done()).status == 404
