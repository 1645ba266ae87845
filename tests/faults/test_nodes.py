"""Nodes die, hang and are crowded, and the directory refuses to write: what is lost is reported."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from tests.faults.form import CHOSEN, FORM
from tests.faults.trial import all_reported, nothing_lost, trial
from tests.processes.support import Refused, gone
from tests.servers import HOST, RedisServer
from tests.support import until

pytestmark = [
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),
    pytest.mark.skipif(not CHOSEN, reason="set EVENTBUS_FAULTS=short or long: they take minutes"),
]

VICTIM = 0
HEIR = 1
WITNESS = 2


async def test_7_a_node_is_killed_and_its_clients_claimed_elsewhere(redis_server: RedisServer) -> None:
    name = "7 node killed, its clients claimed elsewhere"
    async with trial(name, redis_server, lease=FORM.lease, moved=True) as here:
        await here.load(FORM.rate)
        await here.flowing()
        here.kill(VICTIM)
        await here.nodes[HEIR].ask("hold", clients=[*here.plan.clients_of(VICTIM)])
        await gone(here.nodes[VICTIM].node, here.nodes[WITNESS])
        await here.flowing(HEIR, WITNESS)
    all_reported(here)


async def test_7_a_node_is_killed_and_its_clients_are_not_claimed(redis_server: RedisServer) -> None:
    name = "7 node killed, its clients left alone"
    async with trial(name, redis_server, lease=FORM.lease, moved=True) as here:
        await here.load(FORM.rate)
        await here.flowing()
        here.kill(VICTIM)
        await gone(here.nodes[VICTIM].node, here.nodes[WITNESS])
        await here.flowing(HEIR, WITNESS)
    all_reported(here)
    assert here.figures.reported > 0


async def test_8_a_node_is_stopped_for_longer_than_its_lease(redis_server: RedisServer) -> None:
    """Some of its clients are claimed elsewhere meanwhile, and some are not."""
    name = "8 node stopped beyond its lease"
    async with trial(name, redis_server, lease=FORM.lease, moved=True, absent=[VICTIM]) as here:
        await here.load(FORM.rate)
        await here.flowing()
        here.nodes[VICTIM].pause()
        await gone(here.nodes[VICTIM].node, here.nodes[WITNESS])
        await here.nodes[HEIR].ask("hold", clients=[*here.plan.clients_of(VICTIM)][:2])
        await anyio.sleep(FORM.calm)
        here.nodes[VICTIM].resume()
        await here.flowing()
    all_reported(here)


async def test_9_the_broker_has_no_memory_left(redis_server: RedisServer) -> None:
    """Events go on; claims say what is wrong, until there is memory again."""
    async with trial("9 `maxmemory` reached", redis_server, lease=FORM.lease) as here:
        await here.load(FORM.rate)
        await here.flowing()
        here.command("CONFIG", "SET", "maxmemory", 1)
        with pytest.raises(Refused, match=r"ClaimsSuspended: .*used memory > 'maxmemory'"):
            await here.nodes[HEIR].ask("try_claim")
        await anyio.sleep(2 * FORM.lease)
        await here.flowing()
        here.command("CONFIG", "SET", "maxmemory", 0)
        await here.flowing()
        await here.nodes[HEIR].ask("try_claim")
    nothing_lost(here.figures)


async def test_9_the_broker_is_demoted(redis_server: RedisServer, tmp_path: Path) -> None:
    """It follows another primary, an empty one: nodes leave it, and events wait; then it is the primary again."""
    with RedisServer(tmp_path) as primary:
        async with trial("9 primary demoted (`READONLY`)", redis_server, lease=FORM.lease) as here:
            await here.load(FORM.rate)
            await here.flowing()
            here.command("REPLICAOF", HOST, primary.port)
            await until(lambda: here.command("ROLE")[3] == b"connected", "it follows the other")
            with pytest.raises(Refused, match=r"TransportUnavailable: .*(is a replica|the lease of node .* ended)"):
                await here.nodes[HEIR].ask("try_claim")
            await anyio.sleep(2 * FORM.lease)
            reasons = [said["reason"] for said in here.nodes[HEIR].all("disconnected")]
            assert any("read only replica" in reason or "is a replica" in reason for reason in reasons), reasons
            here.command("REPLICAOF", "NO", "ONE")
            await here.flowing()
            await here.nodes[HEIR].ask("try_claim")
    nothing_lost(here.figures)


async def test_10_clients_come_and_go_by_the_hundred(redis_server: RedisServer) -> None:
    name = f"10 {FORM.churn:,} clients a second come and go"
    async with trial(name, redis_server) as here:
        await here.load(FORM.rate)
        for node in here.nodes:
            await node.ask("churn", rate=FORM.churn / len(here.nodes))
        await here.flowing()
        await anyio.sleep(FORM.hang)
        await here.flowing()
    print(here.refused)
    nothing_lost(here.figures)
    visits = sum(refused.pop("visits") for refused in here.refused)
    assert here.refused == [{}] * 3
    assert visits > FORM.churn * FORM.hang / 10
