"""The programs in examples/frameworks: two servers each, in processes of their own, on Redis."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from uuid import uuid4

import anyio
import pytest
import socketio
from mcp import Client
from mcp.shared.subscriptions import ResourceUpdated
from websockets.asyncio.client import connect

import eventbus
from eventbus_core.testing import until
from tests.servers import HOST, free_port
from tests.support import DEADLINE

FOLDER: Final = Path(__file__).parents[2] / "examples" / "frameworks"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def servers(request: pytest.FixtureRequest, redis_uri: str, tmp_path: Path) -> Iterator[list[int]]:
    """The ports of two servers of the example that the test names."""
    uri = f"{redis_uri}?namespace=examples-{uuid4().hex}"
    with _server(request.param, uri, tmp_path / "1.log") as one, _server(request.param, uri, tmp_path / "2.log") as two:
        yield [one, two]


@contextmanager
def _server(example: str, uri: str, log: Path) -> Iterator[int]:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", f"{example}:app", "--host", HOST, "--port", str(port)]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=FOLDER,
            env={**os.environ, "EVENTBUS_URI": uri},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    try:
        yield port
    finally:
        process.terminate()
        try:
            status = process.wait(20)
        finally:
            process.kill()
        text = log.read_text()
        assert status in (0, -15), text
        assert "Traceback" not in text, text


async def serving(*ports: int) -> None:
    """Return once all answer, with whatever status."""

    def answers(port: int) -> bool:
        try:
            urllib.request.urlopen(f"http://{HOST}:{port}/none", timeout=5).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    await until(lambda: all(map(answers, ports)), "the servers answer")


@pytest.mark.parametrize("servers", ["broadcaster_chat", "channels_chat", "litestar_chat"], indirect=True)
async def test_what_one_browser_says_another_hears_on_the_other_server(servers: list[int]) -> None:
    await serving(*servers)
    one, two = servers
    with anyio.fail_after(DEADLINE):
        async with connect(f"ws://{HOST}:{one}/") as here, connect(f"ws://{HOST}:{two}/") as there:
            assert await here.recv() == await there.recv() == "you are in"
            await here.send("hello")
            assert await here.recv() == await there.recv() == "hello"


async def test_a_server_with_a_channel_layer_leaves_the_bus_on_sigterm(redis_uri: str, tmp_path: Path) -> None:
    """At once, long before its lease ends."""
    uri = f"{redis_uri}?namespace=examples-{uuid4().hex}&lease=600"
    async with eventbus.connect(uri) as observer:
        with _server("channels_chat", uri, tmp_path / "1.log") as port:
            await serving(port)
            async with connect(f"ws://{HOST}:{port}/") as browser:
                assert await browser.recv() == "you are in"
            assert len(await observer.nodes()) == 2
        assert [node.id for node in await observer.nodes()] == [observer.node]


@pytest.mark.parametrize("servers", ["socketio_chat"], indirect=True)
async def test_socketio_clients_of_two_servers_share_a_room(servers: list[int]) -> None:
    await serving(*servers)
    heard: list[str] = []
    browsers = [socketio.AsyncClient(), socketio.AsyncClient()]
    for browser, port in zip(browsers, servers, strict=True):
        browser.on("said", heard.append)
        await browser.connect(f"http://{HOST}:{port}", transports=["websocket"])
    await browsers[0].emit("say", "hello")
    await until(lambda: heard == ["hello", "hello"], "both have heard it")
    for browser in browsers:
        await browser.disconnect()


@pytest.mark.parametrize("servers", ["mcp_server"], indirect=True)
async def test_a_change_on_one_replica_is_told_by_the_other(servers: list[int]) -> None:
    await serving(*servers)
    one, two = servers
    with anyio.fail_after(DEADLINE):
        async with (
            Client(f"http://{HOST}:{one}/mcp") as here,
            Client(f"http://{HOST}:{two}/mcp") as there,
            there.listen(resource_subscriptions=["weather://today"]) as changes,
        ):
            await here.call_tool("look_again")
            assert await anext(aiter(changes)) == ResourceUpdated("weather://today")
