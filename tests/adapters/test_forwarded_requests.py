"""Requests that one node has another one serve, of an application that is no one's in particular."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import anyio
import pytest

import eventbus
from eventbus_core.integrations.forwarded_requests import ForwardedRequests

SCOPE = {"type": "http", "method": "POST", "path": "/", "headers": [(b"host", b"localhost")]}
Ask = Callable[..., Awaitable[tuple[int, bytes]]]
PARTS = [b"one", b"x" * 600_000, b""]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def forwarded(app: Any) -> AsyncIterator[tuple[eventbus.Client, Ask]]:
    """Yield a client whose node serves requests by *app*, and a function by which another node asks it to."""
    uri = f"memory://{uuid4().hex}"
    async with eventbus.connect(uri, max_event_size=400_000) as here, eventbus.connect(uri) as there:
        serving, asking = ForwardedRequests(here, app, "http"), ForwardedRequests(there, app, "http")

        async def ask(body: bytes, left: Callable[[], Awaitable[None]] = anyio.sleep_forever) -> tuple[int, bytes]:
            pieces = [{"type": "http.request", "body": body}]
            status, received = 0, b""

            async def receive() -> Any:
                if pieces:
                    return pieces.pop()
                await left()
                return {"type": "http.disconnect"}

            async def send(message: Any) -> None:
                nonlocal status, received
                status = message.get("status", status)
                received += message.get("body", b"")

            with anyio.fail_after(30):
                await asking.forward(SCOPE, receive, send, "server")
            return status, received

        async with here.client("server", handler=serving.take) as client:
            yield client, ask
            await serving.aclose()


async def start(send: Any, status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})


async def test_a_request_and_its_response_are_what_they_were() -> None:
    async def echo(scope: Any, receive: Any, send: Any) -> None:
        assert {name: scope[name] for name in SCOPE} == SCOPE
        await start(send, 201)
        body = (await receive())["body"]
        for part in (body, *PARTS):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})

    async with forwarded(echo) as (_, ask):
        assert await ask(b"zero") == (201, b"zero" + b"".join(PARTS))


async def test_an_application_that_fails_costs_its_request_only(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(scope: Any, receive: Any, send: Any) -> None:
        if (await receive())["body"]:
            raise ValueError("no body, please")

    async with forwarded(fail) as (_, ask):
        for body in (b"raises", b""):
            status, reason = await ask(body)
            assert (status, b"try again" in reason) == (503, True)
    assert ["no body" in record.getMessage() for record in caplog.records if record.name == "eventbus.http"] == [
        True,
        False,
        False,
    ]


async def test_a_response_that_breaks_off_ends() -> None:
    """It has begun, so its status is that of the application."""

    async def break_off(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})

    async with forwarded(break_off) as (_, ask):
        assert (await ask(b""))[0] == 200


async def test_a_user_who_leaves_in_mid_stream_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    """The application does not listen for that, and is told by a message that it sends."""
    begun, ended = anyio.Event(), anyio.Event()

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        try:
            while True:
                await send({"type": "http.response.body", "body": b"more", "more_body": True})
                begun.set()
                await anyio.lowlevel.checkpoint()
        finally:
            ended.set()

    async with forwarded(stream) as (_, ask):
        await ask(b"", begun.wait)
        with anyio.fail_after(30):
            await ended.wait()
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == []


async def test_a_response_is_whole_if_its_client_is_released_at_once() -> None:
    clients: list[eventbus.Client] = []

    async def end(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await send({"type": "http.response.body", "body": b"the last"})
        await clients[0].aclose()

    async with forwarded(end) as (client, ask):
        clients.append(client)
        assert await ask(b"") == (200, b"the last")
