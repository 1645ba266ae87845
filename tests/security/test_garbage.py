"""A flood of garbage at the channel of one node: counted, logged once, and its work goes on without more memory."""

from __future__ import annotations

import tracemalloc

import pytest
import redis.asyncio

from tests.security.test_seals import OLD
from tests.support import DEADLINE, Inbox, buses, until

GARBAGE = 20_000
CHUNK = 500
MOST_MEMORY = 1024 * 1024


@pytest.mark.parametrize("secret", [None, OLD], ids=["without a secret", "sealed"])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_g12_a_flood_of_garbage_leaves_a_node_at_work(redis_uri: str, secret: str | None) -> None:
    options = {} if secret is None else {"secret": secret}
    async with (
        buses(redis_uri, 2, lease=DEADLINE, **options) as (a, b),
        redis.asyncio.from_url(redis_uri) as server,
        a.client("alice", handler=(inbox := Inbox())),
    ):
        channel = f"eventbus:{a.namespace}:n:n0"

        async def flood(number: int) -> None:
            async with server.pipeline(transaction=False) as pipeline:
                for _ in range(CHUNK):
                    pipeline.publish(channel, b"ES" + bytes(98) if number % 2 else b"rubbish of some length")
                await pipeline.execute()

        await flood(0)
        await flood(1)
        await until(lambda: sum(a.stats().refused.values()) == 2 * CHUNK)
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            chunks = range(GARBAGE // CHUNK)
            for number in chunks:
                await flood(number)
                await b.send("alice", "n", number)
            await until(lambda: sum(a.stats().refused.values()) == GARBAGE + 2 * CHUNK, "all are counted")
            await inbox.got(len(chunks))
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert inbox.data == list(chunks)
        assert grown < MOST_MEMORY
        assert a.stats().leases_lost == a.stats().missed == 0
