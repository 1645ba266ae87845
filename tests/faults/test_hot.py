"""All nodes send as fast as they can to the clients of one: senders wait, Redis cuts no reader, memory stays flat."""

from __future__ import annotations

import anyio
import pytest

from tests.faults.form import CHOSEN, FORM
from tests.faults.trial import Trial, nothing_lost, trial
from tests.servers import RedisServer

pytestmark = [
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),
    pytest.mark.skipif(not CHOSEN, reason="set EVENTBUS_FAULTS=short or long: they take minutes"),
]

MIB = 1024 * 1024
SMALL = 4 * MIB  # a resend buffer that is soon full, so that memory can be seen to stay as it is
LIMIT = 32 * 1024
HOT = 0
STOPPED = 1
STOP = 5.0  # five times the default of slow_consumer_timeout, for which others wait


async def heat(here: Trial) -> None:
    """Have all send to the hot node for a while, and watch the memory."""
    await here.heat(HOT)
    async with anyio.create_task_group() as group:
        group.start_soon(here.watch)
        await anyio.sleep(FORM.hot)
        group.cancel_scope.cancel()


async def test_6_every_node_at_full_speed_to_one(redis_server: RedisServer) -> None:
    async with trial("6 full speed to one node", redis_server, resend_size=SMALL) as here:
        await heat(here)
    print(here.growth())
    nothing_lost(here.figures)
    assert here.cuts == 0
    assert max(here.growth()) < FORM.growth
    assert here.figures.p99 < FORM.p99


@pytest.mark.parametrize("milliseconds", [1, 5])
async def test_6_to_handlers_that_take_their_time(redis_server: RedisServer, milliseconds: int) -> None:
    """All of the node are slow: senders go at their pace, however long the events in flight at the start take them."""
    name = f"6 the same, handlers take {milliseconds} ms"
    async with trial(name, redis_server, delay=milliseconds / 1000, resend_size=SMALL) as here:
        await heat(here)
    print(here.growth())
    nothing_lost(here.figures)
    assert here.cuts == 0
    assert max(here.growth()) < FORM.growth


async def test_6_the_others_go_on_while_a_node_is_stopped(redis_server: RedisServer) -> None:
    """Its lease does not end: what was sent to it waits, and topics and broadcasts wait for it no longer than said."""
    async with trial("6 one of three nodes stopped for 5 s", redis_server, absent=[STOPPED]) as here:
        await here.load(FORM.rate)
        await here.flowing()
        here.nodes[STOPPED].pause()
        await anyio.sleep(STOP)
        here.nodes[STOPPED].resume()
        await here.flowing()
    nothing_lost(here.figures)
    assert here.figures.silence < 0.8 * STOP


@pytest.mark.parametrize("node", [STOPPED, HOT], ids=["sender", "receiver"])
async def test_6_a_node_is_stopped_at_full_speed(redis_server: RedisServer, node: int) -> None:
    """A sender: the others go on to the receiver. The receiver: events wait for it until it goes on."""
    stopped = "the receiver" if node == HOT else "a sender"
    name = f"6 full speed to one node, {stopped} stopped for 5 s"
    async with trial(name, redis_server, absent=[HOT] if node == HOT else [], resend_size=SMALL) as here:
        await here.heat(HOT)
        await here.flowing(at=[HOT])
        here.nodes[node].pause()
        await anyio.sleep(STOP)
        here.nodes[node].resume()
        await here.flowing(at=[HOT])
    nothing_lost(here.figures)
    assert here.cuts == 0
    assert set[str]().union(*here.refused) <= ({"TransportUnavailable"} if node == HOT else set())
    assert here.figures.silence < 0.8 * STOP


async def test_6_redis_cuts_all_the_same(redis_server: RedisServer) -> None:
    """The limit of the output buffers is so low that bursts pass it, one for certain; what was missed comes again."""
    name = "6 full speed, output buffers of 32 kB"
    async with trial(name, redis_server, frame_size=LIMIT // 2) as here:
        here.command("CONFIG", "SET", "client-output-buffer-limit", f"pubsub {LIMIT} 0 0")
        await here.heat(HOT)
        await here.flowing(at=[HOT])
        await here.burst(HOT, 2 * LIMIT)
        await anyio.sleep(FORM.hot)
    assert here.cuts > 0
    nothing_lost(here.figures)
