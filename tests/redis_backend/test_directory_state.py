"""The directory's time, its numbers and its lost keys."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis

from eventbus_core.backend import Claim, Directory, Owner
from eventbus_core.errors import NodeAlreadyPresent
from eventbus_redis.packing import load_script
from tests.redis_backend.support import TERMS, directory_of, run, transport
from tests.servers import RedisServer
from tests.support import until

pytestmark = pytest.mark.redis

META, NODES, OWNERS = (f"eventbus:default:{name}" for name in ("meta", "nodes", "owners"))
SECOND = 1_000_000
HOUR = 3600 * SECOND
TOO_LARGE = 2**53


def server_time(server: RedisServer) -> int:
    seconds, microseconds = run(server, "TIME")
    return int(seconds) * SECOND + int(microseconds)


def set_clock_back(server: RedisServer, by: int) -> None:
    """Leave the keys as a server leaves them whose clock was ahead by so much until now."""
    now = server_time(server) + by
    run(server, "HSET", META, "clock", f"{now} {now}")
    run(server, "HINCRBY", META, "beat", by)
    for member, end in run(server, "ZRANGE", NODES, 0, -1, "WITHSCORES"):
        run(server, "ZADD", NODES, float(end) + by, member)


def hang(server: RedisServer, by: int) -> None:
    """Leave the keys as after a time of *by* in which the server answered no client."""
    for field in ("beat", "since", "until"):
        if run(server, "HEXISTS", META, field):
            run(server, "HINCRBY", META, field, -by)
    reached, at = (int(part) - by for part in run(server, "HGET", META, "clock").split())
    run(server, "HSET", META, "clock", f"{reached} {at}")
    for member, end in run(server, "ZRANGE", NODES, 0, -1, "WITHSCORES"):
        run(server, "ZADD", NODES, float(end) - by, member)


async def alive(directory: Directory) -> list[str]:
    return [node.id for node in await directory.nodes()]


@pytest.mark.parametrize(
    ("reached", "at", "expected"),
    [
        (None, None, 0),
        (-HOUR, -HOUR, 0),
        (HOUR, HOUR, HOUR),
        (HOUR, -5 * SECOND, HOUR + 5 * SECOND),
        (2 * SECOND, -HOUR, HOUR + 2 * SECOND),
        (TOO_LARGE, TOO_LARGE, 0),
    ],
)
def test_time_goes_on_from_the_last_reading(
    redis_server: RedisServer, reached: int | None, at: int | None, expected: int
) -> None:
    """All relative to the server's clock. A reading that Lua cannot hold exactly is none of ours."""
    before = server_time(redis_server)
    if reached is not None and at is not None:
        run(redis_server, "HSET", META, "clock", f"{before + reached} {before + at}")
    now, _ = run(redis_server, "EVAL", load_script("nodes").source, 2, META, NODES)
    assert before + expected <= int(now) <= server_time(redis_server) + expected


async def test_a_clock_that_is_set_back_keeps_no_dead_node_alive(redis_server: RedisServer) -> None:
    async with transport(redis_server.uri, "dead") as (one, _), transport(redis_server.uri, "alive") as (two, _):
        await directory_of(one).enter("dead", 3.0, TERMS)
        await directory_of(two).enter("alive", 60.0, TERMS)
        (claim,) = await directory_of(one).claim(["alice"], True)
        set_clock_back(redis_server, HOUR)
        assert await alive(directory_of(two)) == ["dead", "alive"]

        async def only_one_left() -> bool:
            assert await directory_of(two).renew()
            return await alive(directory_of(two)) == ["alive"]

        await until(only_one_left, "the lease of the dead node has ended")
        assert await directory_of(two).locate(["alice"]) == [None]
        (again,) = await directory_of(two).claim(["alice"], False)
        assert isinstance(claim, Claim)
        assert isinstance(again, Claim)
        assert again.epoch > claim.epoch


async def test_a_restarted_node_enters_though_the_clock_was_set_back(redis_server: RedisServer) -> None:
    """It is alone: its own attempts make time go on."""
    async with transport(redis_server.uri) as (one, _), transport(redis_server.uri) as (two, _):
        await directory_of(one).enter("n0", 0.5, TERMS)
        set_clock_back(redis_server, HOUR)

        async def entered() -> bool:
            try:
                return bool(await directory_of(two).enter("n0", 0.5, TERMS))
            except NodeAlreadyPresent:
                return False

        await until(entered, "the lease of the former process has ended")


async def test_numbers_grow_beyond_all_that_the_node_has_met(redis_server: RedisServer) -> None:
    """Also if the server came back without its latest data, and with a clock that is behind."""
    async with transport(redis_server.uri) as (opened, _):
        directory = directory_of(opened)
        first = await directory.enter("n0", 60.0, TERMS)
        ahead = first + HOUR
        run(redis_server, "HSET", OWNERS, "bob", f"{ahead} 1 n9")
        await directory.locate(["bob"])  # no live owner; its row was not met
        run(redis_server, "ZADD", NODES, ahead + HOUR, f"n9 {ahead}")
        run(redis_server, "HSET", OWNERS, "bob", f"{ahead + 1} {ahead} n9")
        assert await directory.locate(["bob"]) != [None]
        run(redis_server, "FLUSHALL")
        assert not await directory.renew()
        assert await directory.enter("n0", 60.0, TERMS) > ahead + 1
        (claim,) = await directory.claim(["alice"], True)
        assert isinstance(claim, Claim)
        run(redis_server, "FLUSHALL")
        second = await directory.enter("n0", 60.0, TERMS)
        assert second > claim.epoch
        (later,) = await directory.claim(["alice"], True)
        assert isinstance(later, Claim)
        assert later.epoch > second


@pytest.mark.parametrize("number", [2**53, 10**18 - 1, 10**30])
async def test_a_number_of_another_program_is_no_floor(redis_server: RedisServer, number: int) -> None:
    async with transport(redis_server.uri) as (opened, _):
        directory = directory_of(opened)
        await directory.enter("n0", 60.0, TERMS)
        run(redis_server, "HSET", META, "last", number)
        run(redis_server, "HSET", OWNERS, "bob", f"{number} {number} n9")
        run(redis_server, "ZADD", NODES, "+inf", f"n9 {number}")
        await directory.locate(["bob"])
        await directory.nodes()
        claims: Any = await directory.claim(["alice", "carol", "bob"], True)
        epochs = [claim.epoch for claim in claims]
        assert epochs == sorted(set(epochs))
        assert max(epochs) < 2**53


@pytest.mark.parametrize("kind", ["owners", "held", "node"])
async def test_a_lost_key_is_noticed_at_the_next_renewal(redis_server: RedisServer, kind: str) -> None:
    async with transport(redis_server.uri, "n0") as (one, _), transport(redis_server.uri, "n1") as (two, _):
        directory = directory_of(one)
        await directory.enter("n0", 60.0, TERMS)
        await directory_of(two).enter("n1", 60.0, TERMS)
        await directory.claim(["alice", "bob"], True)
        assert await directory.renew()
        with Redis(port=redis_server.port) as admin:
            for key in admin.keys(f"eventbus:default:{kind}*"):
                if not key.endswith(b":n1"):
                    admin.delete(key)
        if kind == "owners":
            await directory_of(two).claim(["carol"], True)  # the key is there again, without our rows
        assert not await directory.renew()
        await directory.enter("n0", 60.0, TERMS)
        await directory.claim(["alice", "bob"], False)
        assert await directory.renew()
        assert sorted([client async for client in directory.clients("n0")]) == ["alice", "bob"]


async def test_clients_that_go_in_good_order_are_not_lost(redis_server: RedisServer) -> None:
    async with transport(redis_server.uri, "n0") as (one, _), transport(redis_server.uri, "n1") as (two, _):
        directory = directory_of(one)
        await directory.enter("n0", 60.0, TERMS)
        await directory_of(two).enter("n1", 60.0, TERMS)
        assert await directory.renew()
        claims = await directory.claim([f"c{i}" for i in range(20)], True)
        await directory_of(two).claim([f"c{i}" for i in range(10)], True)
        assert await directory.renew()
        await directory.release([claim for claim in claims[10:] if isinstance(claim, Claim)])
        assert await directory.renew()
        assert [client async for client in directory.clients("n0")] == []
        await directory.leave()
        await directory_of(two).leave()
        assert {key.rpartition(":")[2] for key in run(redis_server, "KEYS", "*")} == {"meta", "owners"}
        assert run(redis_server, "HKEYS", OWNERS) == [""]


async def test_each_script_declares_every_key(redis_server: RedisServer) -> None:
    """Some services refuse other keys; in a cluster, a key in another slot is on another server."""
    with Redis(port=redis_server.port, decode_responses=True) as admin, admin.monitor() as monitor:
        async with transport(redis_server.uri, "n0") as (one, _), transport(redis_server.uri, "n1") as (two, _):
            former, latter = directory_of(one), directory_of(two)
            await former.enter("n0", 60.0, TERMS)
            await latter.enter("n1", 60.0, TERMS)
            await former.claim(["alice", "bob", "carol"], True)
            claims = await latter.claim(["alice", "bob"], True)
            await latter.renew()
            await latter.locate(["alice"])
            await latter.release([claim for claim in claims[1:] if isinstance(claim, Claim)])
            for _ in range(3):
                hang(redis_server, 25 * SECOND)
                await latter.renew()
            assert await alive(latter) == ["n1"]
            await latter.leave()
        run(redis_server, "ECHO", "end")
        declared: list[str] = []
        scripts = 0
        while (seen := monitor.next_command())["command"] != "ECHO end":
            words = seen["command"].split(" ")
            if words[0] == "EVALSHA":
                declared = words[3 : 3 + int(words[2])]
            elif seen["client_type"] == "lua" and words[0] != "TIME":
                assert words[1] in declared, seen["command"]
                scripts += 1
        assert scripts > 50


async def test_a_client_that_was_taken_over_is_forgotten(redis_server: RedisServer) -> None:
    """By the set of its former owner, unless that claims it again."""
    async with transport(redis_server.uri, "n0") as (one, _), transport(redis_server.uri, "n1") as (two, _):
        former = await directory_of(one).enter("n0", 60.0, TERMS)
        await directory_of(two).enter("n1", 60.0, TERMS)
        await directory_of(one).claim(["alice", "bob", "carol"], True)
        await directory_of(two).claim(["alice", "bob"], True)
        assert [client async for client in directory_of(one).clients("n0")] == ["carol"]
        await directory_of(one).claim(["bob"], True)
        assert await directory_of(two).renew()
        assert run(redis_server, "SMEMBERS", f"eventbus:default:held:{former}") == {"", "bob", "carol"}


async def test_a_server_that_hung_lets_all_nodes_renew_first(redis_server: RedisServer) -> None:
    """The leases of both have ended; the quicker node gets nothing of the other, and both go on."""
    async with transport(redis_server.uri, "n1") as (one, _), transport(redis_server.uri, "n2") as (two, _):
        slow, quick = directory_of(one), directory_of(two)
        await slow.enter("n1", 4.0, TERMS)
        await quick.enter("n2", 4.0, TERMS)
        clients = [f"c{i}" for i in range(9)]
        await slow.claim(clients, True)
        hang(redis_server, 6 * SECOND)
        assert await quick.renew()
        assert [owner.node for owner in await quick.claim(clients, False) if isinstance(owner, Owner)] == ["n1"] * 9
        assert await alive(quick) == ["n1", "n2"]
        assert await slow.renew()
        assert await quick.locate(clients) != [None] * 9


async def test_a_claim_that_comes_first_after_a_hang_gets_nothing(redis_server: RedisServer) -> None:
    async with transport(redis_server.uri, "n1") as (one, _), transport(redis_server.uri, "n2") as (two, _):
        await directory_of(one).enter("n1", 4.0, TERMS)
        await directory_of(two).enter("n2", 60.0, TERMS)
        await directory_of(one).claim(["alice"], True)
        hang(redis_server, 40 * SECOND)
        (owner,) = await directory_of(two).claim(["alice"], False)
        assert isinstance(owner, Owner)


async def test_a_dead_node_is_dead_after_the_grace(redis_server: RedisServer) -> None:
    async with transport(redis_server.uri, "n1") as (one, _), transport(redis_server.uri, "n2") as (two, _):
        await directory_of(one).enter("n1", 3.0, TERMS)
        await directory_of(two).enter("n2", 3.0, TERMS)
        await directory_of(one).claim(["alice"], True)
        hang(redis_server, 4 * SECOND)
        assert await directory_of(two).renew()
        assert await directory_of(two).locate(["alice"]) != [None]

        async def free() -> bool:
            assert await directory_of(two).renew()
            return isinstance((await directory_of(two).claim(["alice"], False))[0], Claim)

        await until(free, "the dead node had one lease more")
        assert await alive(directory_of(two)) == ["n2"]


async def test_a_node_that_dies_while_another_renews_has_no_grace(redis_server: RedisServer) -> None:
    async with transport(redis_server.uri, "n1") as (one, _), transport(redis_server.uri, "n2") as (two, _):
        await directory_of(one).enter("n1", 60.0, TERMS)
        await directory_of(two).enter("n2", 60.0, TERMS)
        (claim,) = await directory_of(one).claim(["alice"], True)
        assert isinstance(claim, Claim)
        for _ in range(3):  # each less than half a lease
            hang(redis_server, 25 * SECOND)
            assert await directory_of(two).renew()
        assert not await directory_of(one).renew()
        assert await directory_of(two).locate(["alice"]) == [None]
