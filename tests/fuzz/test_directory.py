"""Another program writes into the keys of the directory: calls answer or raise an EventBusError; no task ends."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest
import redis

from eventbus import Bus, EventBusError
from tests.servers import RedisServer
from tests.support import Inbox, buses, until

ROUNDS = 150
NAMES = (
    "alice",
    "bob",
    "n0",
    "n1",
    "incarnation",
    "last",
    "changes",
    "token",
    "\n",
    "x" * 5000,
)
VALUES = (
    *(
        "",
        "0",
        "1",
        "-1",
        "1e300",
        "inf",
        "nan",
        "9" * 18,
        "9" * 19,
        "9" * 5000,
        "1.5",
        "\0",
        b"\xff\xfe",
        "x" * 100_000,
    ),
    *("1 1 n0", "1 1 n1", f"{9**18} 1 n1", f"{'9' * 30} {'9' * 30} n1", "1 1 a b", "1 1 " + "n" * 100, "a b c", "1 1"),
)
MEMBERS: tuple[Any, ...] = (
    "n0 1",
    "n1 1",
    "n9 1",
    "n9 " + "9" * 30,
    "n9 " + "9" * 5000,
    "n" * 100 + " 1",
    "garbage",
    "",
    b"\xff",
    "n0",
)
SCORES = (0, 1, -1, 1e18, 1e300, float("inf"), float("-inf"))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def _spoil(server: redis.Redis, luck: random.Random) -> None:
    """
    Write into a key or replace it.

    Not the terms, because other terms end a node by design; so does the row of another node in the place of its own.
    """
    keys = [key for key in server.keys("eventbus:*") if isinstance(key, bytes)] or [b"eventbus:spoilt"]
    key = luck.choice(sorted(keys))
    value, name = luck.choice(VALUES), luck.choice(NAMES)
    with suppress(redis.ResponseError):  # the key has another type now; the node has to cope with that too
        match luck.randrange(9):
            case 0:
                server.set(key, value)
            case 1:
                server.delete(key)
            case 2 | 3:
                server.hset(key, name, value)
            case 4 | 5:
                server.zadd(key, {luck.choice(MEMBERS): luck.choice(SCORES)})
            case 6:
                server.sadd(key, value)
            case 7:
                other = luck.choice(sorted(keys))
                if b":node:" not in key or b":node:" not in other:
                    server.rename(key, other)
            case _:
                server.pexpire(key, 1)


async def _use(bus: Bus, number: int) -> None:
    """Use each call that asks the directory."""
    uses: list[Callable[[], Awaitable[object]]] = [
        lambda: bus.locate("alice"),
        lambda: bus.nodes(),
        lambda: bus.explain("bob"),
        lambda: _listed(bus),
        lambda: _claimed(bus, "bob"),
        lambda: _claimed(bus, f"client-{number}"),
        lambda: bus.send("alice", "order", number),
        lambda: bus.send("@n1", "order", number),
        lambda: bus.request("@n1", "order", timeout=0.01),
    ]
    for use in uses:
        with suppress(EventBusError), anyio.move_on_after(0.2):
            await use()


async def _listed(bus: Bus) -> None:
    for name in [client async for client in bus.clients()] + [client async for client in bus.clients("n1")]:
        assert isinstance(name, str)


async def _claimed(bus: Bus, name: str) -> None:
    async with bus.client(name):
        pass


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_g12_no_key_ends_a_node(redis_server: RedisServer, seed: int) -> None:
    """Calls answer or raise an EventBusError, whatever the keys contain; after a FLUSHALL the bus works again."""
    luck = random.Random(seed)
    async with (
        buses(redis_server.uri, 2, lease=0.5, send_timeout=0.2) as (a, b),
        a.client("alice", handler=(inbox := Inbox())),
    ):
        with redis.Redis(port=redis_server.port) as server:
            for number in range(ROUNDS):
                await anyio.to_thread.run_sync(_spoil, server, luck)
                await _use(b if number % 2 else a, number)
            server.flushall()
        before = len(inbox)

        async def arrives() -> bool:
            with suppress(EventBusError):
                await b.send("alice", "after")
            return len(inbox) > before

        await until(arrives, "events reach alice again")
        await until(lambda: _knows_both(a), "both nodes have entered again")


async def _knows_both(bus: Bus) -> bool:
    with suppress(EventBusError):
        return [node.id for node in await bus.nodes()] == ["n0", "n1"]
    return False
