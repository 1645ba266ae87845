"""Nodes leave while the broker hangs, and come back under their own id: what is lost is reported."""

from __future__ import annotations

import anyio
import pytest

from tests.faults.form import CHOSEN, FORM
from tests.faults.trial import all_reported, trial
from tests.servers import RedisServer

pytestmark = [
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),
    pytest.mark.skipif(not CHOSEN, reason="set EVENTBUS_FAULTS=short or long: they take minutes"),
]

LEAVER = 0
OTHERS = (1, 2)
STALL = 4.0
BACKLOG_DELAY = 60.0 / FORM.rate  # seconds an event, four times what the load leaves: events wait in the mailboxes


async def test_11_a_bus_closes_in_good_order_while_the_broker_hangs(redis_server: RedisServer) -> None:
    """It sends no more, but events wait in its mailboxes, and the others go on sending to it."""
    name = "11 a bus closes while the broker is stopped for 4 s"
    async with trial(name, redis_server, delay=BACKLOG_DELAY, lease=FORM.lease, moved=True) as here:
        await here.load(FORM.rate)
        await here.flowing()
        await here.nodes[LEAVER].ask("stop")
        redis_server.pause()
        async with anyio.create_task_group() as group:
            group.start_soon(here.leave, LEAVER)
            await anyio.sleep(STALL)
            redis_server.resume()
        await here.flowing(*OTHERS)
    all_reported(here)
    assert here.figures.reported > 0


async def test_12_a_node_is_killed_and_started_again_under_its_own_id(redis_server: RedisServer) -> None:
    name = "12 node killed, and restarted at once under its id"
    async with trial(name, redis_server, lease=FORM.lease, moved=True) as here:
        await here.load(FORM.rate)
        await here.flowing()
        await here.restart(LEAVER)
        await here.flowing(*OTHERS)
    all_reported(here)
    assert here.figures.reported > 0
