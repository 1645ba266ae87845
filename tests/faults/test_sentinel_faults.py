"""Another server becomes the primary that sentinels name: nodes follow at once, and what is lost is reported."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from tests.faults.form import CHOSEN, FORM
from tests.faults.trial import Trial, nothing_lost, trial
from tests.sentinels import Service, command
from tests.servers import RedisServer

pytestmark = [
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),
    pytest.mark.skipif(not CHOSEN, reason="set EVENTBUS_FAULTS=short or long: they take minutes"),
]

SECOND = 1_000_000
AHEAD = 60
"""Seconds by which the time of the directory is ahead of all clocks, so that a test can set it at each server."""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with Service(tmp_path) as service:
        yield service


@asynccontextmanager
async def taken_over(service: Service, name: str, *, lease: float = 10.0) -> AsyncIterator[tuple[Trial, RedisServer]]:
    """Have a trial; yield it and its primary under load, return once another is the primary, and nodes use it."""
    former = service.primary
    async with trial(name, former, place=service.uri, lease=lease) as here:
        await here.load(FORM.shared)
        await here.flowing()
        yield here, former
        await anyio.to_thread.run_sync(service.wait, lambda: service.taken_over(former), "another is the primary")
        await here.flowing()
        for node in here.nodes:
            await node.ask("try_claim")


async def test_31_the_primary_is_killed(service: Service) -> None:
    async with taken_over(service, "31 Sentinel: primary killed") as (here, former):
        former.kill()
    nothing_lost(here.figures)


async def test_32_the_primary_hangs_until_it_was_replaced(service: Service) -> None:
    """It goes on as a primary, with the connections that it had, until sentinels demote it."""
    async with taken_over(service, "32 Sentinel: primary stopped, replaced, continued") as (here, former):
        former.pause()
        await anyio.to_thread.run_sync(service.wait, lambda: service.taken_over(former), "another is the primary")
        await here.flowing()
        former.resume()
    nothing_lost(here.figures)


async def test_33_a_planned_fail_over(service: Service) -> None:
    async with taken_over(service, "33 Sentinel: planned fail-over") as (here, _):
        await anyio.to_thread.run_sync(service.fail_over)
    nothing_lost(here.figures)


async def test_34_the_primary_is_cut_off_from_all_but_its_clients(service: Service) -> None:
    async with taken_over(service, "34 Sentinel: primary cut off from replicas and sentinels") as (here, former):
        service.cut_off(former)
    service.reconnect(former)
    nothing_lost(here.figures)


async def test_35_an_empty_replica_becomes_the_primary(service: Service) -> None:
    async with taken_over(service, "35 Sentinel: an empty replica takes over") as (here, former):
        former.kill()
        for server in service.servers:
            if server is not former:
                server.restart()
    nothing_lost(here.figures)


@pytest.mark.parametrize(("number", "clock"), [(36, -5), (37, 15)])
async def test_the_clock_of_the_new_primary_is_wrong(service: Service, number: int, clock: int) -> None:
    """Behind: no epoch is lower than an earlier one. Ahead by more than a lease: no node loses its lease for that."""
    words = f"{abs(clock)} s {'ahead' if clock > 0 else 'behind'}"
    async with taken_over(service, f"{number} Sentinel: primary killed, clock of the next {words}") as (here, former):
        key = f"eventbus:{here.plan.namespace}:meta"
        shift(former, key, later=AHEAD)
        await here.nodes[0].ask("try_claim")
        before = int(command(former, "HGET", key, "last"))
        former.kill()
        await anyio.to_thread.run_sync(service.wait, lambda: service.taken_over(former), "another is the primary")
        shift(service.primary, key, clock=clock)
    nothing_lost(here.figures)
    assert int(command(service.primary, "HGET", key, "last")) > before


def shift(server: RedisServer, key: str, *, later: int = 0, clock: int = 0) -> None:
    """Have the time of the directory go on *later*, at a server whose clock is ahead by *clock* seconds."""
    reached, at = map(int, command(server, "HGET", key, "clock").split())
    command(server, "HSET", key, "clock", f"{reached + later * SECOND} {at - clock * SECOND}")
