"""Transports that are cancelled or closed while they work, or whose broker restarts or hangs."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import TypeAlias

import anyio
import pytest
from anyio import to_thread
from anyio.lowlevel import checkpoint

from eventbus_core.backend import ALL_NODES, Partition, lane_partition
from eventbus_core.errors import TransportUnavailable
from eventbus_core.testing.simulation.bare_nodes import LANE, OTHER, BareNode, bare_nodes, cancelled_after, numbered
from eventbus_core.testing.suite.fixtures import UnderTest
from eventbus_core.testing.suite.guarantees import scenario
from eventbus_core.testing.waiting import tasks, until, within_deadline

AFTER_RESTART = 50
HANG = 0.3
"""Seconds that the broker hangs."""

Freeze: TypeAlias = Callable[[], AbstractContextManager[object]]


class DisruptionSuite(UnderTest):
    """The contract of a transport while it is disturbed."""

    @scenario()
    async def test_g9_a_transport_closes_while_calls_wait(self, uri: str) -> None:
        """``aclose`` ends ``receive`` and a ``join`` in progress; a second ``aclose`` does nothing."""
        async with tasks() as group, bare_nodes(uri, "n0") as (one,):
            await one.join(LANE)
            group.start_soon(join_or_fail, one)
            await checkpoint()
            with within_deadline("the transport closed"):
                await one.transport.aclose()
                await one.ended.wait()
                await one.transport.aclose()

    @scenario()
    async def test_g9_a_transport_closes_unread(self, uri: str) -> None:
        """``aclose`` works directly after ``open``, and while frames wait that were never read."""
        async with bare_nodes(uri, "n0", receiving=False) as (one,):
            await one.transport.aclose()
        async with bare_nodes(uri, receiving=False) as (one, two):
            await two.join(LANE)
            await one.publish(LANE, *numbered(200))
            await two.transport.aclose()

    @scenario()
    async def test_g10_a_cancelled_join_can_be_repeated(self, uri: str) -> None:
        """A ``join`` may be cancelled at every await: it can be repeated, and other partitions stay joined."""
        async with bare_nodes(uri) as (one, two):
            await two.join(OTHER)
            for turns in range(12):
                lane = lane_partition(20 + turns)
                await cancelled_after(turns, partial(two.join, lane))
                await two.join(lane)
                await one.publish(lane, b"joined again")
                await one.publish(OTHER, b"%d" % turns)
                await two.got(lane, b"joined again")
                await two.got(OTHER, b"%d" % turns)

    @scenario()
    async def test_g10_frames_arrive_after_a_cancelled_publish(self, uri: str) -> None:
        """A ``publish`` may be cancelled at every await: the next frames arrive."""
        async with bare_nodes(uri) as (one, two):
            await two.join(LANE)
            for turns in range(12):
                after = b"after %d" % turns
                await cancelled_after(turns, partial(one.publish, LANE, *numbered(50)))
                await one.publish(LANE, after)
                await two.got(LANE, after)

    @scenario()
    async def test_g10_joins_and_publishes_run_at_the_same_time(self, uri: str) -> None:
        """While a node joins and leaves partitions, it can publish and receive frames."""

        async def publish(sender: BareNode) -> None:
            for data in numbered(100, sender.transport.node):
                await sender.publish(LANE, data)

        async with bare_nodes(uri) as (one, two):
            await one.join(LANE)
            await two.join(LANE)
            async with anyio.create_task_group() as group:
                for each in (one, two):
                    group.start_soon(publish, each)
                for number in range(20):
                    lane = lane_partition(20 + number)
                    await two.join(lane)
                    await two.transport.leave([lane])
            await two.got(LANE, *numbered(100, "n0"))
            await one.got(LANE, *numbered(100, "n1"))

    @scenario()
    async def test_g10_frames_arrive_again_after_a_restart_of_the_broker(
        self, uri: str, restart: Callable[[], object] | None
    ) -> None:
        """After the broker restarts, nodes get ``Interrupted``, and then the frames that are published from then on."""
        if restart is None:
            pytest.skip("there is no 'restart' fixture")
        async with bare_nodes(uri) as (one, two):
            for node in (one, two):
                await node.join(LANE)
            await to_thread.run_sync(restart)
            await until(lambda: were_interrupted(one, two), "both nodes got Interrupted after the restart")
            await until(lambda: published(one, LANE, b"after"), "the broker accepts frames again")
            await two.got(LANE, b"after")

    @scenario()
    async def test_g10_interrupted_comes_after_the_subscription_is_back(
        self, uri: str, restart: Callable[[], object] | None
    ) -> None:
        """Every frame that the broker accepts after both the sender and the receiver got ``Interrupted`` arrives."""
        if restart is None:
            pytest.skip("there is no 'restart' fixture")
        async with bare_nodes(uri) as (one, two), tasks() as group:
            for node in (one, two):
                await node.join(LANE)
            accepted: list[tuple[bytes, int]] = []

            async def publish() -> None:
                for number in itertools.count():
                    data, interruptions = b"%d" % number, one.interruptions + two.interruptions
                    concerned = were_interrupted(one, two)
                    if await published(one, LANE, data) and concerned:
                        accepted.append((data, interruptions))
                    await checkpoint()

            group.start_soon(publish)
            await to_thread.run_sync(restart)

            def undisturbed() -> list[bytes]:
                total = one.interruptions + two.interruptions
                return [data for data, interruptions in accepted if interruptions == total]

            await until(lambda: len(undisturbed()) >= AFTER_RESTART, "the broker accepts frames after Interrupted")
            await two.got(LANE, *undisturbed())

    @scenario()
    async def test_g10_interrupted_names_every_partition_that_lost_frames(
        self, uri: str, restart: Callable[[], object] | None
    ) -> None:
        """After the broker restarts, ``Interrupted`` came for every joined partition, or once for all of them."""
        if restart is None:
            pytest.skip("there is no 'restart' fixture")
        lanes = [lane_partition(lane) for lane in range(16)]
        async with bare_nodes(uri) as (_, two):
            await two.join(ALL_NODES, *lanes)
            await to_thread.run_sync(restart)
            await until(lambda: two.was_interrupted(ALL_NODES, *lanes), "all partitions were named in Interrupted")

    @scenario()
    async def test_g10_a_server_that_hangs_stalls_its_own_partitions_only(
        self, uri: str, freeze_one: Callable[[], AbstractContextManager[str]] | None
    ) -> None:
        """While one server hangs, frames to partitions of the others are accepted and arrive, without interruption."""
        if freeze_one is None:
            pytest.skip("there is no 'freeze_one' fixture")
        ended = anyio.Event()

        async def publish_stalled() -> None:
            await published(one, stalled, b"stalled")
            ended.set()

        async with bare_nodes(uri) as (one, two), tasks() as group:
            lanes = {one.transport.route(lane): lane for lane in map(lane_partition, range(64))}
            await two.join(*lanes.values())
            with freeze_one() as hung:
                stalled = lanes.pop(hung)
                group.start_soon(publish_stalled)
                await checkpoint()
                for number, lane in itertools.product(range(20), lanes.values()):
                    with within_deadline("a partition of a server that serves was published to"):
                        await one.publish(lane, b"%d" % number)
                for lane in lanes.values():
                    await two.got(lane, *numbered(20))
                    assert not two.was_interrupted(lane), f"{lane} was interrupted"
            with within_deadline("the write to the server that hung ended"):
                await ended.wait()
            await until(lambda: published(one, stalled, b"after"), "the server that hung accepts frames again")
            await two.got(stalled, b"after")

    @scenario()
    async def test_g9_a_transport_closes_while_the_broker_hangs(self, uri: str, freeze: Freeze | None) -> None:
        """``aclose`` returns though the broker does not answer, and ends the calls that wait for it."""
        if freeze is None:
            pytest.skip("there is no 'freeze' fixture")
        ended = anyio.Event()

        async def publish_until_closed() -> None:
            with suppress(Exception):
                while True:
                    await one.publish(LANE, b"lost")
            ended.set()

        async with bare_nodes(uri) as (one, two), tasks() as group:
            await two.join(LANE)
            with freeze():
                group.start_soon(publish_until_closed)
                group.start_soon(join_or_fail, two)
                for _ in range(10):
                    await checkpoint()
                with within_deadline("the transports closed while the broker hung"):
                    await one.transport.aclose()
                    await two.transport.aclose()
                    await ended.wait()
                    await two.ended.wait()

    @scenario()
    async def test_g10_frames_arrive_again_after_the_broker_hung(self, uri: str, freeze: Freeze | None) -> None:
        """Once the broker answers again, every call that waited ends, and the next frames arrive."""
        if freeze is None:
            pytest.skip("there is no 'freeze' fixture")
        ended = Counter[str]()

        async def call(name: str, operation: Callable[[], Awaitable[object]]) -> None:
            with suppress(TransportUnavailable):
                await operation()
            ended[name] += 1

        async with bare_nodes(uri) as (one, two), tasks() as group:
            await two.join(LANE)
            with freeze():
                group.start_soon(call, "publish", partial(one.publish, LANE, b"while it hangs"))
                group.start_soon(call, "join", partial(two.join, OTHER))
                await anyio.sleep(HANG)
            await until(lambda: ended.total() == 2, f"publish and join ended: {dict(ended)}")
            await until(lambda: published(one, LANE, b"after"), "the broker accepts frames again")
            await two.got(LANE, b"after")

    @scenario(needs="durable")
    async def test_g10_a_durable_frame_outlives_the_broker(
        self, uri: str, restart: Callable[[], object] | None
    ) -> None:
        """A published frame arrives even if the broker restarts before it was read."""
        if restart is None:
            pytest.skip("there is no 'restart' fixture")
        async with tasks() as group, bare_nodes(uri, receiving=False) as (one, two):
            await two.join(LANE)
            await one.publish(LANE, *numbered(20))
            await to_thread.run_sync(restart)
            group.start_soon(two.run)
            await two.got(LANE, *numbered(20))


def were_interrupted(*nodes: BareNode) -> bool:
    """Return whether all *nodes* got ``Interrupted`` for ``LANE``: until then a node may use the former server."""
    return all(node.was_interrupted(LANE) for node in nodes)


async def published(sender: BareNode, partition: Partition, data: bytes) -> bool:
    """Return whether the transport accepts *data*."""
    try:
        await sender.publish(partition, data)
    except TransportUnavailable:
        return False
    return True


async def join_or_fail(one: BareNode) -> None:
    """Join; ignore the error that it raises if the transport is closed meanwhile."""
    with suppress(Exception):
        await one.join(OTHER)
