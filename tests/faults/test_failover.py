"""A replica becomes the primary, and a sender hangs while receivers are cut: what is lost is reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
import redis

from tests.faults.form import CHOSEN, FORM
from tests.faults.proxy import Proxy
from tests.faults.trial import all_reported, trial
from tests.servers import HOST, RedisServer
from tests.support import until

pytestmark = [
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),
    pytest.mark.skipif(not CHOSEN, reason="set EVENTBUS_FAULTS=short or long: they take minutes"),
]

HUNG = 0
OTHERS = (1, 2)
CUTS = 20
CUT_EVERY = 0.05


def command(server: RedisServer, *arguments: str | int) -> Any:
    """Return what *server* answers to a command."""
    with redis.Redis(HOST, server.port) as connection:
        return connection.execute_command(*arguments)


def subscribers(server: RedisServer) -> int:
    """Return how many connections of *server* read."""
    shown: bytes = command(server, "CLIENT", "LIST", "TYPE", "pubsub")
    return len(shown.splitlines())


async def test_15_the_old_primary_stays_up_as_a_replica(redis_server: RedisServer, tmp_path: Path) -> None:
    """Its connections live on: nodes must find out by themselves that they are not at the primary any more."""
    with RedisServer(
        tmp_path, "--replicaof", f"{HOST} {redis_server.port}", "--repl-diskless-sync-delay", "0"
    ) as other:
        async with (
            Proxy(redis_server.port) as proxy,
            trial(
                "15 fail-over, the old primary becomes a replica",
                redis_server,
                port=proxy.port,
                lease=FORM.lease,
                moved=True,
            ) as here,
        ):
            await until(lambda: command(other, "ROLE")[3] == b"connected", "the replica follows the primary")
            await here.load(FORM.rate)
            await here.flowing()
            command(other, "REPLICAOF", "NO", "ONE")
            command(redis_server, "REPLICAOF", HOST, other.port)
            proxy.target = other.port
            await until(lambda: subscribers(redis_server) == 0, "no node reads from the old primary")
            await until(lambda: subscribers(other) == len(here.nodes), "all nodes read from the new primary")
            await here.flowing()
            await here.nodes[HUNG].ask("try_claim")
    all_reported(here)


async def test_16_a_sender_hangs_while_its_receivers_are_cut(redis_server: RedisServer) -> None:
    """Its last frames are lost on their way, and the receivers give it up before it continues."""
    name = "16 receivers cut, then the sender stopped beyond its lease"
    async with trial(name, redis_server, lease=FORM.lease, moved=True, absent=[HUNG]) as here:
        await here.load(FORM.rate)
        await here.flowing()
        for _ in range(CUTS):
            here.command("CLIENT", "KILL", "TYPE", "pubsub")
            await anyio.sleep(CUT_EVERY)
        here.command("CLIENT", "KILL", "TYPE", "pubsub")
        here.nodes[HUNG].pause()
        await anyio.sleep(FORM.forgotten)
        here.nodes[HUNG].resume()
        await here.flowing()
    all_reported(here)
