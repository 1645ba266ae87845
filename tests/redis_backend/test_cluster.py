"""Slots that move and primaries that change: what a transport receives, publishes and records meanwhile."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from time import monotonic

import anyio
import pytest

from eventbus_core.backend import (
    Disconnected,
    Frame,
    Interrupted,
    Partition,
    TransportURI,
    lane_partition,
)
from eventbus_core.errors import TransportUnavailable
from eventbus_core.testing import until
from eventbus_redis import RedisClusterTransport
from eventbus_redis.cluster import topology
from eventbus_redis.cluster.names import Names
from eventbus_redis.cluster.slots import key_slot
from tests.clusters import ClusterServer, RedisCluster
from tests.redis_backend.support import TERMS, directory_of
from tests.servers import find_servers

pytestmark = [pytest.mark.redis, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

NAMES = Names("eventbus", "default")
LANES = [lane_partition(lane) for lane in range(12)]
NODE_LEASE = 60.0


@pytest.fixture(scope="module", params=[*find_servers()], ids=lambda program: Path(program).name)
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    with RedisCluster(tmp_path_factory.mktemp("cluster"), replicas=1, program=request.param) as cluster:
        yield cluster


@pytest.fixture
def well(cluster: RedisCluster) -> RedisCluster:
    """The cluster, with all of its servers up and in agreement."""
    for server in cluster.servers:
        server.start()
    cluster.settle()
    return cluster


class Reading:
    """An open transport, and the items that it has received."""

    def __init__(self, transport: RedisClusterTransport) -> None:
        self.transport = transport
        self.items: list[Frame | Interrupted | Disconnected] = []

    def interrupted(self) -> set[Partition]:
        """Return the partitions that were interrupted."""
        parts = [item.partitions for item in self.items if isinstance(item, Interrupted)]
        assert None not in parts
        return {partition for part in parts for partition in part or ()}

    def disconnected(self) -> set[Partition]:
        """Return the partitions that could not be read for a while."""
        parts = [item.partitions for item in self.items if isinstance(item, Disconnected)]
        assert None not in parts
        return {partition for part in parts for partition in part or ()}

    async def rejoined(self, partition: Partition) -> None:
        await until(lambda: partition in self.interrupted(), f"{partition} was interrupted and joined again")

    async def read(self) -> None:
        async for item in self.transport.receive():
            self.items.append(item)


@asynccontextmanager
async def reading(uri: str, node: str = "n0", *partitions: Partition) -> AsyncIterator[Reading]:
    transport = RedisClusterTransport(TransportURI.parse(uri), node)
    here = Reading(transport)
    async with anyio.create_task_group() as group, transport:
        group.start_soon(here.read)
        await transport.join(partitions)
        yield here
        group.cancel_scope.cancel()


async def publish(here: Reading, partition: Partition, data: bytes) -> None:
    """Publish as the core does: again if the call failed, or the frame surely had no receiver."""
    while True:
        try:
            if await here.transport.publish([Frame(partition, data)]) != [0]:
                return
        except TransportUnavailable:
            await anyio.sleep(0.02)
        await anyio.sleep(0.002)


async def counts(sender: Reading, lane: Partition) -> bool:
    """Return whether *sender* is told of the one receiver."""
    found = await sender.transport.publish([Frame(lane, b"count")])
    assert found in (None, [1])
    return found is not None


@asynccontextmanager
async def flowing(sender: Reading, receiver: Reading, partition: Partition) -> AsyncIterator[None]:
    """Publish numbered frames to *partition*, in the end until they arrive without a hole."""
    highest = 0

    def missing(first: int) -> set[int]:
        came = {int(item.data) for item in receiver.items if isinstance(item, Frame) and item.partition == partition}
        return set(range(first, highest)) - came

    async def send() -> None:
        nonlocal highest
        for number in count():
            await publish(sender, partition, b"%d" % number)
            highest = number

    async with anyio.create_task_group() as group:
        group.start_soon(send)
        await until(lambda: highest > 5, "frames flow")
        yield
        first = highest + 2
        await until(lambda: highest > first + 20 and not missing(first), "frames arrive again")
        group.cancel_scope.cancel()


def same_primary(cluster: RedisCluster, server: ClusterServer) -> set[Partition]:
    return {lane for lane in LANES if cluster.owner(NAMES.slot(lane)) is server}


async def test_a_transport_that_opens_waits_for_slow_servers(
    well: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For as long as ``connect_timeout`` says: a machine may stand still for a while."""
    monkeypatch.setattr(topology, "ANSWER_TIMEOUT", 0.05)
    transport = RedisClusterTransport(TransportURI.parse(f"{well.uri}?connect_timeout=60"), "n0")
    well.pause()
    async with anyio.create_task_group() as group:
        group.start_soon(transport.open)
        begun = monotonic()
        await until(lambda: monotonic() > begun + 0.3)
        well.resume()
    await transport.aclose()


@pytest.mark.parametrize("source_first", [False, True])
async def test_a_moved_slot_interrupts_its_channel_alone(well: RedisCluster, source_first: bool) -> None:
    lane = LANES[0]
    slot = NAMES.slot(lane)
    source = well.owner(slot)
    target = next(server for server in well.running if server.primary and server is not source)
    async with (
        reading(well.uri, "n0", *LANES) as receiver,
        reading(well.uri, "n1") as sender,
        flowing(sender, receiver, lane),
    ):
        assert sender.transport.route(lane).endswith(f":{source.port}")
        await anyio.to_thread.run_sync(lambda: well.migrate(slot, target, source_first=source_first))
        await receiver.rejoined(lane)
        assert receiver.interrupted() == {lane}
        await until(lambda: sender.transport.route(lane).endswith(f":{target.port}"), "the sender follows")
    assert receiver.disconnected() <= {lane}
    await anyio.to_thread.run_sync(lambda: well.migrate(slot, source))


async def test_a_planned_failover_moves_the_channels_of_one_primary(well: RedisCluster) -> None:
    lane = LANES[1]
    former = well.owner(NAMES.slot(lane))
    concerned = same_primary(well, former)
    async with (
        reading(well.uri, "n0", *LANES) as receiver,
        reading(well.uri, "n1") as sender,
        flowing(sender, receiver, lane),
    ):
        latter = await anyio.to_thread.run_sync(well.fail_over, former)
        await until(lambda: receiver.interrupted() == concerned, "all channels of that primary are joined again")
        await until(lambda: sender.transport.route(lane).endswith(f":{latter.port}"), "the sender follows")
    assert len(concerned) < len(LANES)


async def test_a_demoted_primary_counts_no_receivers(well: RedisCluster) -> None:
    """It takes frames for ever and answers 0, though they arrive: that must not pass for a fact."""
    lane = LANES[2]
    former = well.owner(NAMES.slot(lane))
    async with reading(well.uri, "n0", lane) as receiver, reading(well.uri, "n1") as sender:
        assert await sender.transport.publish([Frame(lane, b"before")]) == [1]
        await anyio.to_thread.run_sync(well.fail_over, former)
        await receiver.rejoined(lane)
        await until(lambda: not former.primary, "the former primary is a replica")
        assert await sender.transport.publish([Frame(lane, b"between")]) in (None, [1])
        await until(lambda: Frame(lane, b"between") in receiver.items, "the frame arrives all the same")
        await until(lambda: counts(sender, lane), "receivers are counted again")


async def test_a_killed_primary_is_replaced(well: RedisCluster) -> None:
    lane = LANES[3]
    former = well.owner(NAMES.slot(lane))
    concerned = same_primary(well, former)
    async with (
        reading(well.uri, "n0", *LANES) as receiver,
        reading(well.uri, "n1") as sender,
        flowing(sender, receiver, lane),
    ):
        well.replica(former)
        former.kill()
        await until(lambda: receiver.interrupted() == concerned, "its channels are joined at its replica")
        assert receiver.disconnected() == concerned


async def test_a_primary_that_hangs_until_it_is_replaced(well: RedisCluster) -> None:
    lane = LANES[4]
    former = well.owner(NAMES.slot(lane))
    async with (
        reading(well.uri, "n0", *LANES) as receiver,
        reading(well.uri, "n1") as sender,
        flowing(sender, receiver, lane),
    ):
        replica = well.replica(former)
        former.pause()
        await until(lambda: replica.primary, "the replica was promoted")
        await receiver.rejoined(lane)
        former.resume()


async def test_the_directory_follows_its_slot(well: RedisCluster) -> None:
    slot = key_slot(NAMES.directory.encode())
    source = well.owner(slot)
    target = next(server for server in well.running if server.primary and server is not source)
    async with reading(well.uri, "n2") as here:
        directory = directory_of(here.transport)
        incarnation = await directory.enter("n2", NODE_LEASE, TERMS)
        (first,) = await directory.claim(["alice"], True)
        await anyio.to_thread.run_sync(lambda: well.migrate(slot, target))
        (owner,) = await directory.locate(["alice"])
        assert owner is not None
        assert (owner.node, owner.incarnation, owner.epoch) == ("n2", incarnation, first.epoch)
        assert await directory.renew()
        await anyio.to_thread.run_sync(lambda: well.migrate(slot, source))
        assert await directory.renew()


async def test_the_directory_waits_while_its_keys_are_being_moved(well: RedisCluster) -> None:
    slot = key_slot(NAMES.directory.encode())
    source = well.owner(slot)
    target = next(server for server in well.running if server.primary and server is not source)
    async with reading(well.uri, "n3") as here:
        directory = directory_of(here.transport)
        await directory.enter("n3", NODE_LEASE, TERMS)
        await anyio.to_thread.run_sync(well.move_keys, slot, source, target)
        with pytest.raises(TransportUnavailable, match="ASK"):
            await directory.locate(["bob"])
        await anyio.to_thread.run_sync(well.hand_over, slot, source, target)
        assert await directory.renew()
        await anyio.to_thread.run_sync(lambda: well.migrate(slot, source))


async def test_frames_that_nobody_reads_are_left_at_the_server(
    well: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line stops reading; a join behind the frames that wait is confirmed all the same."""
    monkeypatch.setattr("eventbus_redis.cluster.reader.FRAMES_AHEAD", 1)
    frames = [Frame(LANES[0], bytes([number]) * 100_000) for number in range(30)]
    async with RedisClusterTransport(TransportURI.parse(well.uri), "n0") as opened:
        await opened.join(LANES[:1])
        reader = opened._reader
        [line] = reader._lines.values()
        for frame in frames:
            assert await opened.publish([frame]) == [1]
        await until(lambda: line._connection is not None and line._connection._paused, "the line does not read")
        assert len(reader._arrived) < len(frames)
        await opened.join(LANES)
        here = Reading(opened)
        async with anyio.create_task_group() as group:
            group.start_soon(here.read)
            await until(lambda: here.items == frames, "all have arrived")
            group.cancel_scope.cancel()


async def _nothing() -> None: ...


def noted_refreshes(
    here: Reading, monkeypatch: pytest.MonkeyPatch, instead: Callable[[], Awaitable[None]] = _nothing
) -> list[float]:
    """Do *instead* what asks the servers for the owners of slots; return the times at which that is done, as a list."""
    asked: list[float] = []

    async def refresh() -> None:
        asked.append(monotonic())
        await instead()

    monkeypatch.setattr(here.transport._topology, "refresh", refresh)
    return asked


async def test_to_join_and_leave_on_open_lines_asks_no_server_for_the_owners_of_slots(
    well: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with reading(well.uri, "n0", *LANES) as here:
        asked = noted_refreshes(here, monkeypatch)
        for number in range(100, 120):
            await here.transport.join([lane_partition(number)])
            await here.transport.leave([lane_partition(number)])
        assert len(asked) < 5, "more than those that the opening of the lines asked for"
        await here.transport.leave(LANES[1:])
        await publish(here, LANES[0], b"still read")
        await until(lambda: Frame(LANES[0], b"still read") in here.items, "the frame arrived")
        await here.transport.leave(LANES[:1])
        assert not here.transport._reader._lines, "a line is closed with its last channel"


async def test_a_join_that_opens_a_line_asks_for_the_owners_of_slots(
    well: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise one whose primary is gone, and does not refuse the connection, would fail as often as it is made."""
    async with reading(well.uri) as here:
        asked = noted_refreshes(here, monkeypatch)
        await here.transport.join(LANES[:1])
        assert asked


async def test_an_outage_of_the_cluster_is_told_once(
    well: RedisCluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its attempts to read fail for other reasons in between: the connection is lost, or refused."""
    caplog.set_level(logging.WARNING, "eventbus")
    primary = well.owner(NAMES.slot(LANES[0]))
    async with reading(well.uri, "n0", *LANES) as here:
        well.replica(primary).kill()
        primary.kill()
        await until(lambda: "no server finds the state of the cluster ok" in caplog.text, "the servers say so")
        asked = noted_refreshes(here, monkeypatch, here.transport._topology.refresh)
        await until(lambda: len(asked) > 5, "they were asked again and again")

        async def silent() -> None:
            raise here.transport._topology._no_view([])

        noted_refreshes(here, monkeypatch, silent)
        await until(lambda: "all are silent" in caplog.text, "what is another fault is told, too")
    assert caplog.text.count("no server finds the state of the cluster ok") == 1
    assert caplog.text.count("all are silent") == 1


async def test_a_join_of_a_closed_transport_opens_no_line(well: RedisCluster) -> None:
    async with RedisClusterTransport(TransportURI.parse(well.uri), "n0") as opened:
        pass
    with pytest.raises(TransportUnavailable, match="is closed"):
        await opened.join(LANES)
    assert not opened._reader._lines
