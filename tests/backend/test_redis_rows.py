"""What the Redis backend stores: rows that are garbage, and rows that expire."""

from __future__ import annotations

import pytest
import redis.asyncio

from eventbus import ClientNotFound
from tests.support import buses, take


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("row", [b"", b"garbage", b"1 2", b"x y n0", b"1 1 n0", b"1 1 ../n0", b"\xff\xfe 1 n0"])
async def test_g12_a_garbage_row_of_the_directory_is_no_claim(redis_uri: str, row: bytes) -> None:
    """Whatever others wrote there: the client is free, can be claimed, and is then found."""
    async with buses(redis_uri, 2) as (a, b), redis.asyncio.from_url(redis_uri) as server:
        await server.hset(f"eventbus:{a.namespace}:owners", "bob", row)
        assert await a.locate("bob") is None
        assert [client async for client in a.clients()] == []
        with pytest.raises(ClientNotFound):
            await a.send("bob", "n")
        async with b.client("bob") as bob:
            await a.send("bob", "n", 1)
            assert [event.data for event in await take(bob, 1)] == [1]
        assert await a.locate("bob") is None


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_g11_the_keys_of_a_namespace_on_redis_expire(redis_uri: str) -> None:
    """Also if it lived for so short a time that no lease was renewed."""
    async with buses(redis_uri, 1) as (bus,), bus.client("bob"):
        pass
    async with redis.asyncio.from_url(redis_uri) as server:
        left = [key async for key in server.scan_iter(f"eventbus:{bus.namespace}:*")]
        assert left
        assert all([await server.pttl(key) > 0 for key in left])
