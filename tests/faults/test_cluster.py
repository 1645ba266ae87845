"""Slots of a cluster move, primaries change, die or hang: nothing is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import anyio
import pytest

from eventbus_core.backend import ALL_NODES, Partition, lane_partition, node_partition
from eventbus_core.cli.demo.plan import node_name
from eventbus_redis.cluster.names import Names
from eventbus_redis.cluster.slots import key_slot
from tests.clusters import SLOTS, ClusterServer, RedisCluster, ranges
from tests.faults.form import CHOSEN, FORM
from tests.faults.trial import LANES, NODES, Trial, all_reported, nothing_lost, trial
from tests.servers import find_servers
from tests.support import until

pytestmark = [
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),
    pytest.mark.skipif(not CHOSEN, reason="set EVENTBUS_FAULTS=short or long: they take minutes"),
]

LEASE = 30.0
"""Longer than any time for which the directory has no primary: no node loses its clients."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RedisCluster]:
    with RedisCluster(tmp_path, replicas=1) as cluster:
        yield cluster


def slots(here: Trial) -> dict[Partition, int]:
    """Return the slots of all partitions of a trial."""
    names = Names("eventbus", here.plan.namespace)
    partitions = [ALL_NODES, *map(lane_partition, range(LANES)), *(node_partition(node_name(n)) for n in range(NODES))]
    return {partition: names.slot(partition) for partition in partitions}


def directory(cluster: RedisCluster, here: Trial) -> ClusterServer:
    """Return the primary that has the directory of a trial."""
    return cluster.owner(key_slot(Names("eventbus", here.plan.namespace).directory.encode()))


async def in_thread(call: Callable[[], object]) -> None:
    await anyio.to_thread.run_sync(call)


def at(cluster: RedisCluster, name: str, **options: object):  # type: ignore[no-untyped-def]
    """Have a trial at *cluster*."""
    return trial(name, cluster.servers[0], place=cluster.uri, **options)  # type: ignore[arg-type]


async def test_21_slots_of_lanes_and_nodes_move(cluster: RedisCluster) -> None:
    async with at(cluster, "21 cluster: every slot in use moved by SETSLOT") as here:
        await here.load(FORM.shared)
        await here.flowing()
        primaries = cluster.servers[:3]
        for slot in slots(here).values():
            source = cluster.owner(slot)
            target = primaries[(primaries.index(source) + 1) % len(primaries)]
            await in_thread(partial(cluster.migrate, slot, target))
        await here.flowing()
    nothing_lost(here.figures)


async def test_22_slots_move_atomically(tmp_path: Path) -> None:
    program = next((program for program in find_servers() if "valkey" in Path(program).name), None)
    if program is None:
        pytest.skip("only Valkey has CLUSTER MIGRATESLOTS")
    with RedisCluster(tmp_path, replicas=1, program=program) as cluster:
        source, target = cluster.servers[:2]
        async with at(cluster, "22 Valkey cluster: a third of the slots moved by MIGRATESLOTS") as here:
            await here.load(FORM.shared)
            await here.flowing()
            await in_thread(partial(cluster.migrate_atomically, 0, 5460, source, target))
            await here.flowing()
        nothing_lost(here.figures)


async def test_23_a_planned_failover(cluster: RedisCluster) -> None:
    async with at(cluster, "23 cluster: CLUSTER FAILOVER of each primary in turn") as here:
        await here.load(FORM.shared)
        await here.flowing()
        for primary in cluster.servers[:3]:
            await in_thread(partial(cluster.fail_over, primary))
            await here.flowing()
    nothing_lost(here.figures)


async def test_24_a_primary_is_killed(cluster: RedisCluster) -> None:
    async with at(cluster, "24 cluster: a primary killed, its replica promoted", lease=LEASE) as here:
        await here.load(FORM.shared)
        await here.flowing()
        primary = directory(cluster, here)
        replica = await anyio.to_thread.run_sync(cluster.replica, primary)
        primary.kill()
        await until(lambda: replica.primary, "the replica was promoted")
        await here.flowing()
    nothing_lost(here.figures)


async def test_24_the_same_and_all_leases_end_before(cluster: RedisCluster) -> None:
    """All nodes enter again, and claim their clients again; what was sent meanwhile is handled or reported."""
    name = "24 the same, leases shorter than the outage"
    async with at(cluster, name, lease=1.0, moved=True) as here:
        await here.load(FORM.shared)
        await here.flowing()
        primary = directory(cluster, here)
        await in_thread(partial(cluster.replica, primary))
        primary.kill()
        await here.flowing()
    all_reported(here)


async def test_25_a_primary_hangs_until_it_was_replaced(cluster: RedisCluster) -> None:
    async with at(
        cluster, "25 cluster: a primary stopped, and continued as its replica has taken over", lease=LEASE
    ) as here:
        await here.load(FORM.shared)
        await here.flowing()
        primary = directory(cluster, here)
        replica = await anyio.to_thread.run_sync(cluster.replica, primary)
        primary.pause()
        await until(lambda: replica.primary, "the replica was promoted")
        await anyio.sleep(1.0)
        primary.resume()
        await here.flowing()
    nothing_lost(here.figures)


async def test_26_a_primary_is_cut_off_from_the_others(cluster: RedisCluster) -> None:
    """Its clients still reach it: it takes their frames, and says nothing of its own accord."""
    async with at(
        cluster, "26 cluster: a primary cut off from the others, until its replica has taken over", lease=LEASE
    ) as here:
        await here.load(FORM.shared)
        await here.flowing()
        primary = directory(cluster, here)
        replica = await anyio.to_thread.run_sync(cluster.replica, primary)
        cluster.cut_off(primary)
        await until(lambda: replica.primary, "the replica was promoted")
        await here.flowing()
        cluster.heal()
        await here.flowing()
    nothing_lost(here.figures)


async def test_27_a_fourth_primary_is_added(cluster: RedisCluster) -> None:
    async with at(cluster, "27 cluster: resharded from 3 to 4 primaries") as here:
        await here.load(FORM.shared)
        await here.flowing()
        new = await anyio.to_thread.run_sync(cluster.add)
        await in_thread(partial(cluster.meet, new))
        await in_thread(partial(reshard, cluster, new))
        await here.flowing()
    nothing_lost(here.figures)


def reshard(cluster: RedisCluster, new: ClusterServer) -> None:
    """
    Give *new* a quarter of the slots, of each primary the same share.

    Redis moves them slot by slot. Valkey moves those of a primary at once: there, SETSLOT waits for replicas, and 4,095
    slots would take minutes on a machine that is busy.
    """
    for source, (start, _) in zip(cluster.servers[:3], ranges(3), strict=True):
        if "valkey" in Path(source.program).name:
            cluster.migrate_atomically(start, start + SLOTS // 12 - 1, source, new)
            continue
        for slot in range(start, start + SLOTS // 12):
            cluster.move_keys(slot, source, new)
            cluster.hand_over(slot, source, new)
    cluster.settle()
