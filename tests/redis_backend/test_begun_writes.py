"""Writes that begin in the caller's turn of the event loop: ``Transport.begin_publish``."""

from __future__ import annotations

import pytest

from eventbus_core.backend import Frame, lane_partition
from eventbus_core.errors import TransportUnavailable
from eventbus_redis import line
from tests.redis_backend.support import transport
from tests.servers import RedisServer
from tests.support import tasks, until

pytestmark = pytest.mark.redis

LANE, OTHER = lane_partition(1), lane_partition(2)


@pytest.fixture(autouse=True)
def no_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no look for replicas become due."""
    monkeypatch.setattr(line, "LOOK_EVERY", 1e6)


async def test_g4_what_has_begun_comes_first_and_is_counted(redis_server: RedisServer) -> None:
    async with transport(redis_server.uri) as (one, items):
        await one.join([LANE])
        begun = one.begin_publish([Frame(LANE, b"1"), Frame(OTHER, b"2")])
        assert begun is not None
        assert one.begin_publish([Frame(LANE, b"too early")]) is None
        async with tasks() as group:
            group.start_soon(one.publish, [Frame(LANE, b"3")])
            assert await begun() == [1, 0]
        await until(lambda: len(items) == 2)
        assert items == [Frame(LANE, b"1"), Frame(LANE, b"3")]


async def test_g10_nothing_begins_while_another_caller_has_its_turn(redis_server: RedisServer) -> None:
    async with transport(redis_server.uri) as (one, _), tasks() as group:
        await one.publish([Frame(LANE, b"0")])
        redis_server.pause()
        group.start_soon(one.publish, [Frame(LANE, b"1")])
        await until(lambda: one._line.publisher._turn.value == 0)
        assert one.begin_publish([Frame(LANE, b"2")]) is None
        redis_server.resume()
        assert await one.publish([Frame(LANE, b"3")]) == [0]
        begun = one.begin_publish([Frame(LANE, b"4")])
        assert begun is not None
        assert await begun() == [0]


async def test_g5_a_write_that_began_fails_with_its_connection(redis_server: RedisServer) -> None:
    async with transport(redis_server.uri) as (one, _):
        redis_server.pause()
        begun = one.begin_publish([Frame(LANE, b"1")])
        assert begun is not None
        redis_server.kill()
        with pytest.raises(TransportUnavailable):
            await begun()
        assert one.begin_publish([Frame(LANE, b"2")]) is None
        with pytest.raises(TransportUnavailable):
            await one.publish([Frame(LANE, b"3")])
