"""A fail-over in which connections to the former primary survive: no connection stays there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from redis import Redis

from eventbus_core.backend import Claim, Frame, TransportURI, lane_partition
from eventbus_core.errors import TransportUnavailable
from eventbus_redis.commands import Commands
from eventbus_redis.options import RedisOptions
from eventbus_redis.server import Server
from tests.redis_backend.support import TERMS, Relay, directory_of, interruptions, run, transport
from tests.servers import HOST, RedisServer
from tests.support import DEADLINE, until

pytestmark = pytest.mark.redis

LANE = lane_partition(3)
META = "eventbus:default:meta"
SECOND = 1_000_000


@pytest.fixture
def replica(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    run(redis_server, "CONFIG", "SET", "repl-diskless-sync-delay", 0)
    with RedisServer(tmp_path_factory.mktemp("replica"), "--replicaof", f"{HOST} {redis_server.port}") as server:
        yield server


async def synchronised(replica: RedisServer) -> None:
    await until(lambda: run(replica, "ROLE")[3] == "connected", "the replica is in step")


def in_step(former: RedisServer, latter: RedisServer) -> None:
    """Return once *latter* has all that *former* has."""
    assert run(former, "INFO", "replication")["connected_slaves"] == 1
    offset = run(former, "INFO", "replication")["master_repl_offset"]
    while run(latter, "INFO", "replication")["slave_repl_offset"] < offset:
        pass


def shift_time(server: RedisServer, by: int, *, clock: int = 0) -> None:
    """Have the time of the directory go on *by* seconds later, at a server whose clock is ahead by *clock* seconds."""
    reached, at = map(int, run(server, "HGET", META, "clock").split())
    run(server, "HSET", META, "clock", f"{reached + by * SECOND} {at - clock * SECOND}")


def fail_over(former: RedisServer, latter: RedisServer) -> None:
    in_step(former, latter)
    run(latter, "REPLICAOF", "NO", "ONE")
    run(former, "REPLICAOF", HOST, latter.port)


def listed(server: RedisServer, kind: str) -> list[dict[str, str]]:
    """Return the clients of *server* of this *kind*."""
    with Redis(port=server.port) as connection:
        found: list[dict[str, str]] = connection.client_list(kind)
    return found


async def test_a_rejected_write_reopens_all_three_connections(redis_server: RedisServer, replica: RedisServer) -> None:
    await synchronised(replica)
    calm = "probe_interval=60&probe_timeout=60&command_timeout=60"  # the write alone finds out
    async with Relay(redis_server.port) as relay, transport(f"{relay.uri}?{calm}") as (opened, items):
        await opened.join([LANE])
        await directory_of(opened).enter("n0", 10.0, TERMS)
        relay.lead_to(replica.port)
        fail_over(redis_server, replica)
        with pytest.raises(TransportUnavailable, match="rejects writes"):
            await directory_of(opened).claim(["alice"], True)
        await until(lambda: interruptions(items) == 1, "the reading connection was reopened")
        assert await directory_of(opened).renew()
        assert await opened.publish([Frame(LANE, b"here")]) == [1]
        await until(lambda: Frame(LANE, b"here") in items, "frames go by way of the new primary")
        assert run(replica, "PUBSUB", "NUMSUB", "eventbus:default:l:3") == ["eventbus:default:l:3", 1]
        assert not listed(redis_server, "pubsub")


async def test_one_reopened_connection_takes_the_others_with_it(
    redis_server: RedisServer, replica: RedisServer
) -> None:
    """The directory finds the new primary by itself; the others, which write nothing, follow it."""
    await synchronised(replica)
    async with Relay(redis_server.port) as relay, transport(f"{relay.uri}?probe_interval=0.1") as (opened, items):
        await opened.join([LANE])
        await directory_of(opened).enter("n0", 10.0, TERMS)
        assert await directory_of(opened).renew()
        relay.lead_to(replica.port)
        fail_over(redis_server, replica)
        (directory,) = [client for client in listed(redis_server, "normal") if client["cmd"] == "evalsha"]
        run(redis_server, "CLIENT", "KILL", "ID", directory["id"])
        await until(lambda: interruptions(items) == 1, "the reading connection was reopened")
        assert await opened.publish([Frame(LANE, b"here")]) == [1]
        assert not listed(redis_server, "pubsub")


def replicated(server: RedisServer) -> int:
    offset: int = run(server, "INFO", "replication")["master_repl_offset"]
    return offset


async def test_frames_stay_out_of_the_replication_stream(redis_server: RedisServer, replica: RedisServer) -> None:
    await until(lambda: len(run(redis_server, "ROLE")[2]) == 1, f"{replica} is online")
    async with transport(redis_server.uri) as (opened, _):
        await opened.join([LANE])
        before = replicated(redis_server)
        run(redis_server, "SCRIPT", "FLUSH")
        assert await opened.publish([Frame(LANE, bytes(10_000))] * 10) == [1] * 10
        assert replicated(redis_server) - before < 10_000


async def test_a_replica_that_comes_later_is_noticed(redis_server: RedisServer, tmp_path: Path) -> None:
    async with transport(f"{redis_server.uri}?probe_interval=60") as (opened, _):
        await opened.join([LANE])
        run(redis_server, "CONFIG", "SET", "repl-diskless-sync-delay", 0)
        with RedisServer(tmp_path, "--replicaof", f"{HOST} {redis_server.port}") as replica:
            await synchronised(replica)
            with anyio.fail_after(DEADLINE):
                while True:
                    before = replicated(redis_server)
                    assert await opened.publish([Frame(LANE, bytes(10_000))]) == [1]
                    if replicated(redis_server) - before < 10_000:
                        break


async def test_without_the_right_to_ask_for_replicas_frames_go_on(
    redis_server: RedisServer, replica: RedisServer
) -> None:
    await synchronised(replica)
    run(redis_server, "ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all", "-role")
    async with transport(redis_server.uri.replace("//", "//app:secret@")) as (opened, _):
        await opened.join([LANE])
        before = replicated(redis_server)
        assert await opened.publish([Frame(LANE, bytes(10_000))]) == [1]
        assert replicated(redis_server) - before > 10_000


@pytest.mark.parametrize("lost", [True, False])
async def test_a_lost_claim_is_noticed_though_an_earlier_one_got_no_answer(
    redis_server: RedisServer, replica: RedisServer, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    """A mere count would be right again: the server made one change more than the node knows of, and lost one."""
    await synchronised(replica)
    async with Relay(redis_server.port) as relay, transport(relay.uri) as (opened, _):
        directory = directory_of(opened)
        await directory.enter("n0", 60.0, TERMS)
        execute = Commands.run

        async def unanswered(*arguments: Any) -> None:
            await execute(*arguments)
            raise TransportUnavailable("no answer in time")

        with monkeypatch.context() as patch:
            patch.setattr(Commands, "run", unanswered)
            with pytest.raises(TransportUnavailable):
                await directory.claim(["alice"], True)
        if not lost:
            await directory.claim(["bob"], True)
        in_step(redis_server, replica)
        run(replica, "REPLICAOF", "NO", "ONE")
        if lost:
            await directory.claim(["bob"], True)
        relay.lead_to(replica.port)
        run(redis_server, "CLIENT", "KILL", "TYPE", "normal")
        with pytest.raises(TransportUnavailable):
            await directory.renew()
        assert await directory.renew() is not lost


@pytest.mark.parametrize("clock", [-5, 15])
async def test_no_epoch_is_lower_than_a_lost_one(redis_server: RedisServer, replica: RedisServer, clock: int) -> None:
    """Another node issued it, and the clock of the new primary is behind, or ahead."""
    await synchronised(replica)
    async with Relay(redis_server.port) as relay, transport(relay.uri, "n0") as (one, _):
        await directory_of(one).enter("n0", 60.0, TERMS)
        shift_time(redis_server, 60)  # so that it does not come from the clock, which all servers here share
        assert await directory_of(one).renew()
        async with transport(redis_server.uri, "n1") as (two, _):
            await directory_of(two).enter("n1", 60.0, TERMS)
            in_step(redis_server, replica)
            run(replica, "REPLICAOF", "NO", "ONE")
            (lost,) = await directory_of(two).claim(["alice"], True)
            assert isinstance(lost, Claim)
        shift_time(replica, 0, clock=clock)
        relay.lead_to(replica.port)
        run(redis_server, "CLIENT", "KILL", "TYPE", "normal")
        with pytest.raises(TransportUnavailable):
            await directory_of(one).claim(["alice"], True)
        (later,) = await directory_of(one).claim(["alice"], True)
        assert isinstance(later, Claim)
        assert later.epoch > lost.epoch


async def test_a_replica_is_not_there_until_it_is_the_primary(redis_server: RedisServer) -> None:
    async with transport(redis_server.uri) as (opened, items):
        await opened.join([LANE])
        await directory_of(opened).enter("n0", 10.0, TERMS)
        run(redis_server, "REPLICAOF", HOST, 1)
        with pytest.raises(TransportUnavailable, match="rejects writes"):
            await directory_of(opened).claim(["alice"], True)
        for _ in range(2):
            with pytest.raises(TransportUnavailable, match="is a replica"):
                await opened.publish([Frame(LANE, b"lost")])
        assert not interruptions(items)
        run(redis_server, "REPLICAOF", "NO", "ONE")
        await until(lambda: interruptions(items) == 1, "the reading connection was reopened")
        assert await opened.publish([Frame(LANE, b"here")]) == [1]


async def test_a_primary_without_its_replicas_is_left_once(redis_server: RedisServer) -> None:
    """It may be the former primary, cut off: so nodes look for another; but a lasting refusal is no reason to flap."""
    async with transport(redis_server.uri) as (opened, items):
        await opened.join([LANE])
        await directory_of(opened).enter("n0", 10.0, TERMS)
        run(redis_server, "CONFIG", "SET", "min-replicas-to-write", 1)
        for _ in range(10):
            with pytest.raises(TransportUnavailable, match="NOREPLICAS"):
                await directory_of(opened).renew()
            await until(lambda: interruptions(items) == 1, "the reading connection was reopened")
        assert interruptions(items) == 1
        run(redis_server, "CONFIG", "SET", "min-replicas-to-write", 0)
        assert await directory_of(opened).renew()


def test_connections_are_dropped_more_and_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("eventbus_redis.server.monotonic", lambda: now)
    server = Server(TransportURI.parse("redis://localhost"), RedisOptions())
    drops: list[float] = []

    class Recorded:
        def close(self, reason: str) -> None:
            drops.append(now)

    recorded = Recorded()
    server._connections.add(recorded)  # type: ignore[arg-type]
    while now < 1300:
        server.drop("NOREPLICAS")
        now += 1
    assert drops == [1000, 1005, 1015, 1035, 1075, 1135, 1195, 1255]
