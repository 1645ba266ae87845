"""Transports that are cancelled, closed or restarted in the middle of something."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import anyio
import pytest
from anyio import to_thread
from anyio.lowlevel import checkpoint

from eventbus_core.errors import TransportUnavailable
from eventbus_core.testing.guarantees import scenario
from eventbus_core.testing.parties import Party, numbered, parties
from eventbus_core.testing.under_test import UnderTest
from eventbus_core.testing.waiting import tasks, until, within_deadline
from eventbus_core.transport import Partition, lane_partition

LANE = lane_partition(7)
OTHER = lane_partition(8)


class UpsetSuite(UnderTest):
    """What a transport still keeps when it is disturbed."""

    @scenario()
    async def test_g9_a_transport_closes_while_others_wait(self, uri: str) -> None:
        """``aclose`` ends ``receive``, lets a ``join`` end, and does nothing the second time."""
        async with tasks() as group, parties(uri, "n0") as (one,):
            await one.join(LANE)
            group.start_soon(join_or_fail, one)
            await checkpoint()
            with within_deadline("the transport closed"):
                await one.transport.aclose()
                await one.ended.wait()
                await one.transport.aclose()

    @scenario()
    async def test_g9_a_transport_closes_unread(self, uri: str) -> None:
        """``aclose`` works right after ``open``, and while a frame waits that nobody reads."""
        async with parties(uri, "n0", receiving=False) as (one,):
            await one.transport.aclose()
        async with parties(uri, receiving=False) as (one, two):
            await two.join(LANE)
            await one.publish(LANE, *numbered(200))
            await two.transport.aclose()

    @scenario()
    async def test_g10_a_cancelled_join_harms_nobody(self, uri: str) -> None:
        """A ``join`` may be cancelled at every await: joining again works, and what was joined before stays so."""
        async with parties(uri) as (one, two):
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
    async def test_g10_a_cancelled_publish_harms_nobody(self, uri: str) -> None:
        """A ``publish`` may be cancelled at every await: the frames that follow arrive."""
        async with parties(uri) as (one, two):
            await two.join(LANE)
            for turns in range(12):
                after = b"after %d" % turns
                await cancelled_after(turns, partial(one.publish, LANE, *numbered(50)))
                await one.publish(LANE, after)
                await two.got(LANE, after)

    @scenario()
    async def test_g10_joins_and_publishes_run_beside_each_other(self, uri: str) -> None:
        """While a node joins and leaves partitions, frames that it publishes and receives pass unharmed."""

        async def publish(sender: Party) -> None:
            for data in numbered(100, sender.transport.node):
                await sender.publish(LANE, data)

        async with parties(uri) as (one, two):
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
        """When the broker restarts, the receiver hears that frames may be lost, and gets those published after that."""
        if restart is None:
            pytest.skip("there is no 'restart' fixture")
        async with parties(uri) as (one, two):
            await two.join(LANE)
            await to_thread.run_sync(restart)
            await until(lambda: two.interruptions > 0, "the receiver heard of the restart")
            await until(lambda: published(one, LANE, b"after"), "the broker takes frames again")
            await two.got(LANE, b"after")

    @scenario(needs="durable")
    async def test_g10_a_durable_frame_outlives_the_broker(
        self, uri: str, restart: Callable[[], object] | None
    ) -> None:
        """What was published arrives also if the broker restarts before anybody read it."""
        if restart is None:
            pytest.skip("there is no 'restart' fixture")
        async with parties(uri, receiving=False) as (one, two), tasks() as group:
            await two.join(LANE)
            await one.publish(LANE, *numbered(20))
            await to_thread.run_sync(restart)
            group.start_soon(two.run)
            await two.got(LANE, *numbered(20))


async def published(sender: Party, partition: Partition, data: bytes) -> bool:
    """Return whether the transport takes *data*."""
    try:
        await sender.publish(partition, data)
    except TransportUnavailable:
        return False
    return True


async def join_or_fail(one: Party) -> None:
    """Join; what it raises when the transport is closed meanwhile is its own affair."""
    with suppress(Exception):
        await one.join(OTHER)


async def cancelled_after(turns: int, operation: Callable[[], Awaitable[object]]) -> None:
    """Await *operation*, and cancel it after so many turns of the event loop, if it is not over by then."""

    async def run() -> None:
        await operation()
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        for _ in range(turns):
            await checkpoint()
        group.cancel_scope.cancel()
