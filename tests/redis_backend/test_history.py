"""Retained streams on several servers: they work at the same time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import anyio
import pytest

from eventbus_core.backend import NewEntry, Position, TransportURI
from eventbus_core.errors import TransportUnavailable
from eventbus_core.model.retention import Retention
from eventbus_core.testing import until
from eventbus_redis.commands import Commands
from eventbus_redis.history import RedisHistory, Shelf
from eventbus_redis.options import RedisOptions
from eventbus_redis.server import Server
from tests.redis_backend.support import run
from tests.servers import RedisServer
from tests.support import DEADLINE

pytestmark = [pytest.mark.redis, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

STREAMS = [f"stream-{number}" for number in range(12)]
KEYS = len(STREAMS)
"""At each of two servers: two for every stream."""


@asynccontextmanager
async def spread(directory: Path) -> AsyncIterator[tuple[RedisHistory, RedisServer, RedisServer]]:
    """Yield a history whose streams lie on two servers, and both: the first has the stream that comes first."""
    with ExitStack() as stack:
        folders = [directory / name for name in ("first", "second")]
        for folder in folders:
            folder.mkdir()
        first, second = (stack.enter_context(RedisServer(folder)) for folder in folders)
        lines = [
            Commands(Server(TransportURI.parse(server.uri), RedisOptions()), timeout=DEADLINE)
            for server in (first, second)
        ]
        for line in lines:
            stack.callback(line.close)
        shelves: dict[str, Shelf] = {}

        def shelf(digest: str) -> Shelf:
            return shelves.setdefault(digest, Shelf(lines[len(shelves) % 2], digest))

        history = RedisHistory(shelf)
        assert await history.positions(STREAMS) == [None] * len(STREAMS)
        yield history, first, second


def entries() -> list[NewEntry]:
    return [NewEntry(stream, number, 1, b"x", Retention()) for number, stream in enumerate(STREAMS)]


async def test_a_server_that_hangs_delays_no_append_to_another(tmp_path: Path) -> None:
    async with spread(tmp_path) as (history, first, second), anyio.create_task_group() as group:
        positions: list[Position] = []

        async def append() -> None:
            positions.extend(await history.append(entries()))

        first.pause()
        try:
            group.start_soon(append)
            await until(lambda: run(second, "DBSIZE") == KEYS, "the second server has its streams")
            assert positions == []
        finally:
            first.resume()
        await until(lambda: len(positions) == len(STREAMS), "both servers have answered")
        assert [position.fingerprint for position in positions] == list(range(len(STREAMS)))
        assert run(first, "DBSIZE") == KEYS


async def test_a_server_that_fails_keeps_no_append_from_another(tmp_path: Path) -> None:
    async with spread(tmp_path) as (history, first, second):
        first.kill()
        with pytest.raises(TransportUnavailable):
            await history.append(entries())
        assert run(second, "DBSIZE") == KEYS
