"""A node that has nothing to look after ticks seldom, and at once again when there is something."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from eventbus import Bus, Undeliverable, register
from eventbus_core.backend import Frame
from eventbus_core.concurrency import pace
from eventbus_core.concurrency.pace import LONGEST_REST, TICK, Pace, longest_rest
from eventbus_memory import MemoryTransport
from tests.support import Hooked, Inbox, buses, tasks, until

NEVER = 3600.0
LOSING = "losing://pace"
LEASE = 86_400.0


class _Losing(MemoryTransport):
    """Loses the next frames that are sent, as many as ``to_lose`` says, and counts them as received."""

    to_lose = 0

    async def publish(self, frames: Sequence[Frame]) -> Sequence[int]:
        lost = min(self.to_lose, len(frames))
        self.to_lose -= lost
        return [1] * lost + list(await super().publish(frames[lost:]))


@pytest.fixture
def endless_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nodes rest until something ends their rest."""
    monkeypatch.setattr(pace, "LONGEST_REST", NEVER)
    register("losing", _Losing)


async def _rests(*nodes: Bus) -> None:
    for bus in nodes:
        await until(lambda: bus._node.pace.resting, f"{bus.node} rests")  # noqa: B023


def _lose(bus: Bus, frames: int) -> None:
    transport = bus._node.transport
    assert isinstance(transport, _Losing)
    transport.to_lose = frames


@pytest.mark.parametrize(("lease", "rest"), [(0.1, TICK), (2.0, 0.1), (10.0, LONGEST_REST), (LEASE, LONGEST_REST)])
def test_a_rest_is_a_small_part_of_the_lease(lease: float, rest: float) -> None:
    assert longest_rest(lease) == rest


async def test_a_rest_ends_in_time_or_when_there_is_something_to_look_after() -> None:
    short, endless = Pace(0.001), Pace(NEVER)
    await short.pause(rest=True)
    assert not short.resting
    await endless.pause(rest=False)
    async with tasks() as group:
        ended: list[bool] = []

        async def rest() -> None:
            await endless.pause(rest=True)
            ended.append(True)

        group.start_soon(rest)
        await until(lambda: endless.resting)
        endless.hurry()
        assert not endless.resting
        await until(lambda: bool(ended), "the rest has ended")


async def test_a_node_rests_again_after_its_traffic(uri: str) -> None:
    async with buses(uri, 2) as (a, b):
        await _rests(a, b)
        b.on("n")(inbox := Inbox())
        await a.send(b.address, "n", 1)
        await inbox.got(1)
        assert a._node.has_due()  # the event may be lost as far as it knows
        await _rests(a, b)


@pytest.mark.usefixtures("endless_rests")
async def test_g2_a_lost_frame_is_sent_again_by_a_node_that_rested() -> None:
    async with buses(LOSING, 2, lease=LEASE) as (a, b):
        b.on("n")(inbox := Inbox())
        await _rests(a, b)
        _lose(a, 1)
        await a.send(b.address, "n", 1)
        await inbox.got(1)


@pytest.mark.usefixtures("endless_rests")
async def test_a_node_that_rested_tells_what_it_has_handled() -> None:
    async with buses(LOSING, 2, lease=LEASE) as (a, b):
        b.on("n")(Inbox())
        await _rests(a, b)
        await a.send(b.address, "n", 1)
        queue = a._node.outbox.known(b.node)
        assert queue is not None
        await until(lambda: queue.session.handled == queue.session.next > 1)


@pytest.mark.usefixtures("endless_rests")
async def test_a_node_that_rested_asks_again_for_positions_of_which_it_heard_nothing() -> None:
    async with buses(LOSING, 2, lease=LEASE) as (a, b):
        await _rests(a, b)
        _lose(b, 1)
        b.on("topic")(inbox := Inbox())
        await b.ready()
        await a.publish("topic", 1)
        await inbox.got(1)


@pytest.mark.usefixtures("endless_rests")
async def test_a_node_that_rested_applies_the_bounds_of_a_slow_consumer() -> None:
    async with buses(LOSING, 1, lease=LEASE, mailbox_events=2, slow_consumer_timeout=0.1) as (bus,):
        dropped: Hooked = Hooked()
        bus.on_undeliverable(dropped)
        async with bus.client("slow"):
            await _rests(bus)
            for number in range(5):
                await bus.send("slow", "n", number)
            await until(lambda: len(dropped) == 3)
            assert all(isinstance(one, Undeliverable) for one in dropped)
