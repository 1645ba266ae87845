"""Reading, writing and renewing the lease: each may fail alone, and the application is told of the whole."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

import eventbus
from eventbus_core.backend import Disconnected, Frame, Interrupted
from eventbus_core.model.state import NodeState
from eventbus_core.outbox.broker_status import Ability, BrokerStatus
from eventbus_memory import MemoryTransport
from tests.redis_backend.support import run
from tests.servers import HOST, RedisServer
from tests.support import Hooked, Inbox, buses, until

changes = st.lists(st.tuples(st.sampled_from(Ability), st.booleans()), max_size=40)


@given(changes)
def test_the_application_is_told_when_the_first_ability_goes_and_the_last_comes_back(
    steps: list[tuple[Ability, bool]],
) -> None:
    told: list[str] = []
    status = BrokerStatus("n0", NodeState(), told.append, lambda: told.append("up"))
    lacking: set[Ability] = set()
    expected: list[str] = []
    for ability, works in steps:
        before = bool(lacking)
        if works:
            status.succeeded(ability)
            lacking.discard(ability)
        else:
            status.failed(ability, "x")
            lacking.add(ability)
        if bool(lacking) != before:
            expected.append(f"cannot {ability}: x" if lacking else "up")
        assert status.up == (not lacking)
        assert {ability for ability, _ in status.faults} == lacking
    assert told == expected
    assert status.outages == len(told) - told.count("up")


def test_each_reason_of_an_outage_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("eventbus").setLevel(logging.INFO)
    status = BrokerStatus("n0", NodeState(), lambda _: None, lambda: None)
    for _ in range(50):
        status.failed(Ability.RENEW, "out of memory")
        status.failed(Ability.READ, "no right")
        status.succeeded(Ability.WRITE)
    status.succeeded(Ability.READ)
    status.succeeded(Ability.RENEW)
    assert [record.getMessage().partition(": ")[2].partition(" after")[0] for record in caplog.records] == [
        "broker unavailable, retrying: cannot renew its lease: out of memory",
        "broker unavailable, retrying: cannot read: no right",
        "broker available again",
    ]


class Deaf(MemoryTransport):
    """Says that it cannot read when a frame with ``b"deaf"`` comes, and that it can again with ``b"well"``."""

    async def receive(self) -> AsyncIterator[Frame | Interrupted | Disconnected]:  # type: ignore[override]
        async for item in super().receive():
            yield item
            if isinstance(item, Frame) and b"deaf" in item.data:
                yield Disconnected("the wire is cut")
            if isinstance(item, Frame) and b"well" in item.data:
                yield Interrupted("the wire is whole")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("scheme", ["deaf", "chaos+deaf"])
async def test_a_node_that_cannot_read_is_disconnected_until_it_can(scheme: str) -> None:
    eventbus.register("deaf", Deaf)
    async with buses(f"{scheme}://x") as (a, b):
        for event in ("deaf", "well"):
            b.on(event)(Inbox())
        b.on_disconnected(down := Hooked())
        up = Hooked()
        b.on_reconnected(lambda: up("up"))
        await a.send(b.address, "deaf")
        await until(lambda: b.state == "disconnected" and len(down) == 1)
        await b.publish("news.x")
        await b.flush()
        assert (list(down), list(up), a.state) == (["cannot read: the wire is cut"], [], "open")
        await a.send(b.address, "well")
        await until(lambda: b.state == "open" and list(up) == ["up"])


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("cause", ["maxclients", "rights", "password"])
async def test_a_node_whose_reading_connection_cannot_come_back_says_so(redis_server: RedisServer, cause: str) -> None:
    run(redis_server, "ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all")
    run(redis_server, "CONFIG", "SET", "maxclients", 40)
    with ExitStack() as others:
        async with buses(redis_server.uri.replace("//", "//app:secret@")) as (a, b), b.client("bob") as bob:
            b.on_disconnected(down := Hooked())
            b.on("news.*")(news := Inbox())
            await b.ready()
            if cause == "rights":
                run(redis_server, "ACL", "SETUSER", "app", "-subscribe")
            if cause == "password":
                run(redis_server, "ACL", "SETUSER", "app", "resetpass", ">new")
            run(redis_server, "CLIENT", "KILL", "TYPE", "pubsub")
            if cause == "maxclients":
                for _ in range(50):
                    others.enter_context(socket.create_connection((HOST, redis_server.port)))
            await until(lambda: (a.state, b.state, len(down)) == ("disconnected", "disconnected", 1))
            assert [reason.partition(":")[0] for reason in down] == ["cannot read"]
            await b.send("bob", "n", 1)  # within the node
            assert (await bob.receive()).data == 1
            await a.publish("news.x", 1)
            others.close()
            if cause != "maxclients":
                run(redis_server, "ACL", "SETUSER", "app", "resetpass", ">secret", "+subscribe")
            await until(lambda: (a.state, b.state) == ("open", "open"))
            await news.got(1)
            assert (len(down), b.stats().disconnects) == (1, 1)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_events_wait_while_the_right_to_publish_is_missing(redis_server: RedisServer) -> None:
    run(redis_server, "ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all")
    async with buses(redis_server.uri.replace("//", "//app:secret@")) as (a, b):
        b.on("news.*")(news := Inbox())
        await b.ready()
        down, lost = Hooked(), Hooked()
        a.on_disconnected(down)
        a.on_undeliverable(lost)
        run(redis_server, "ACL", "SETUSER", "app", "-publish")
        for number in range(20):
            await a.publish("news.x", number)
        await until(lambda: a.state == "disconnected" and len(down) == 1)
        assert down[0].startswith("cannot write: ")
        run(redis_server, "ACL", "SETUSER", "app", "+publish")
        await news.got(20)
        assert (news.data, list(lost)) == (list(range(20)), [])
        await until(lambda: a.state == "open")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("cause", ["memory", "rights"])
async def test_a_lasting_refusal_of_renewals_is_told_once(
    redis_server: RedisServer, cause: str, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("eventbus").setLevel(logging.WARNING)
    run(redis_server, "ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all")
    async with buses(redis_server.uri.replace("//", "//app:secret@"), lease=6.0) as (a, b):
        b.on("news.*")(news := Inbox())
        await b.ready()
        a.on_disconnected(down := Hooked())
        up = Hooked()
        a.on_reconnected(lambda: up("up"))
        caplog.clear()
        if cause == "memory":
            run(redis_server, "CONFIG", "SET", "maxmemory", 1)
        else:
            run(redis_server, "ACL", "SETUSER", "app", "-evalsha")
        await until(lambda: a.state == "disconnected" and len(down) == 1)
        refused = run(redis_server, "INFO", "errorstats")
        for number in range(100):  # writes succeed, and say nothing of the lease
            await a.publish("news.x", number)
            await a.flush()
        await until(lambda: run(redis_server, "INFO", "errorstats") != refused, "renewals were refused meanwhile")
        assert a.state == "disconnected"
        assert [reason.partition(":")[0] for reason in down] == ["cannot renew its lease"]
        assert list(up) == []
        warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert len([text for text in warnings if text.startswith(f"node {a.node}: broker unavailable")]) <= 2, warnings
        if cause == "memory":
            run(redis_server, "CONFIG", "SET", "maxmemory", 0)
        else:
            run(redis_server, "ACL", "SETUSER", "app", "+evalsha")
        await until(lambda: a.state == "open" and len(up) == 1)
        assert len(down) == 1
        await news.got(100)
