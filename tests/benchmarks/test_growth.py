"""What an event makes the server do, as it is reckoned, holds on a real one."""

from __future__ import annotations

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from tests.benchmarks.growth import Kind, count, frames_per_event, weigh
from tests.servers import RedisServer

CASES: tuple[tuple[Kind, int, int], ...] = (("client", 3, 0), ("topic", 4, 2), ("everyone", 4, 4))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize(("kind", "nodes", "subscribers"), CASES)
async def test_the_server_forwards_each_event_to_the_nodes_that_need_it(
    redis_server: RedisServer, kind: Kind, nodes: int, subscribers: int
) -> None:
    with redis.Redis(port=redis_server.port) as server:
        found = await count(server, redis_server.uri, kind, nodes, subscribers)
    assert found.copies == pytest.approx(found.expected, rel=0.1)
    assert found.channels == found.expected_channels
    assert found.publishes < 0.02


async def test_the_directory_keeps_little_for_a_client(redis_server: RedisServer) -> None:
    with redis.Redis(port=redis_server.port) as server:
        found = await weigh(server, redis_server.uri, 1000)
    assert 0 < found.bytes_each < 400


@given(st.integers(2, 1000), st.integers(1, 5000))
def test_an_event_never_needs_more_than_a_frame(nodes: int, batch: int) -> None:
    """However many nodes share a write, it has no more frames than events, nor than nodes to send to."""
    frames = frames_per_event(nodes, batch) * batch
    assert 1 - 1e-9 <= frames <= min(batch, nodes - 1) + 1e-6
