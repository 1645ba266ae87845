"""The broker dies, hangs, cuts its subscribers or is cut off: nothing is lost, or exactly what is reported."""

from __future__ import annotations

import anyio
import pytest

from tests.faults.form import CHOSEN, FORM
from tests.faults.proxy import Proxy
from tests.faults.trial import Trial, nothing_lost, trial
from tests.servers import RedisServer

pytestmark = [
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),
    pytest.mark.skipif(not CHOSEN, reason="set EVENTBUS_FAULTS=short or long: they take minutes"),
]

AWAY = 3.0
CUT_EVERY = 0.1


async def down(here: Trial) -> None:
    """Kill the broker, and start it again on its port, empty."""
    here.server.kill()
    await anyio.sleep(AWAY)
    await anyio.to_thread.run_sync(here.server.start)


async def cut_subscribers(here: Trial) -> int:
    """Cut all subscribers ten times a second; return how many that were."""
    cut = 0
    with anyio.move_on_after(FORM.cuts):
        while True:
            cut += here.command("CLIENT", "KILL", "TYPE", "pubsub")
            await anyio.sleep(CUT_EVERY)
    return cut


async def test_1_the_broker_is_killed_and_comes_back_empty(redis_server: RedisServer) -> None:
    async with trial("1 broker killed, back empty after 3 s", redis_server) as here:
        await here.load(FORM.rate)
        await here.flowing()
        await down(here)
        await here.flowing()
    nothing_lost(here.figures)


async def test_2_the_broker_is_killed_five_times_in_a_row(redis_server: RedisServer) -> None:
    async with trial("2 the same five times in a row", redis_server) as here:
        await here.load(FORM.rate)
        await here.flowing()
        for _ in range(5):
            await down(here)
            await here.flowing()
    nothing_lost(here.figures)


async def test_3_subscribers_are_cut_ten_times_a_second(redis_server: RedisServer) -> None:
    async with trial("3 `CLIENT KILL TYPE pubsub` ten times a second", redis_server) as here:
        await here.load(FORM.rate)
        await here.flowing()
        assert await cut_subscribers(here) > 0
        await here.flowing()
    nothing_lost(here.figures)


async def test_3_events_that_are_no_longer_kept_are_reported_exactly(redis_server: RedisServer) -> None:
    """The frames kept to be sent again do not suffice: gaps tell how many events were lost, no more and no fewer."""
    name = "3 the same, `resend_size` of 1 kB"
    async with trial(name, redis_server, resend_size=1_000) as here:
        await here.load(FORM.rate)
        await here.flowing()
        await cut_subscribers(here)
        await here.flowing()
    figures = here.figures
    assert figures.lost > 0
    assert (figures.silent, figures.lost - figures.gaps, figures.reported) == (0, 0, 0)
    assert (figures.doubled, figures.reordered) == (0, 0)


async def test_4_the_broker_hangs(redis_server: RedisServer) -> None:
    async with trial("4 broker stopped (SIGSTOP)", redis_server) as here:
        await here.load(FORM.rate)
        await here.flowing()
        redis_server.pause()
        await anyio.sleep(FORM.hang)
        redis_server.resume()
        await here.flowing()
    nothing_lost(here.figures)


async def test_5_a_line_that_is_cut(redis_server: RedisServer) -> None:
    async with (
        Proxy(redis_server.port) as proxy,
        trial("5 every connection cut ten times a second", redis_server, port=proxy.port) as here,
    ):
        await here.load(FORM.rate)
        await here.flowing()
        with anyio.move_on_after(FORM.cuts):
            while True:
                proxy.cut()
                await anyio.sleep(CUT_EVERY)
        await here.flowing()
    nothing_lost(here.figures)


async def test_5_a_line_that_swallows_everything(redis_server: RedisServer) -> None:
    async with (
        Proxy(redis_server.port) as proxy,
        trial("5 every connection black-holed", redis_server, port=proxy.port) as here,
    ):
        await here.load(FORM.rate)
        await here.flowing()
        proxy.passing.clear()
        await anyio.sleep(FORM.hang)
        proxy.passing.set()
        await here.flowing()
    nothing_lost(here.figures)


async def test_5_a_line_that_takes_its_time(redis_server: RedisServer) -> None:
    async with (
        Proxy(redis_server.port) as proxy,
        trial("5 everything delayed by 200 ms, each way", redis_server, port=proxy.port) as here,
    ):
        await here.load(FORM.rate)
        await here.flowing()
        proxy.delay = 0.2
        await here.flowing()
        await anyio.sleep(FORM.calm)
        proxy.delay = 0.0
        await here.flowing()
    nothing_lost(here.figures)


async def test_5_a_line_that_delivers_a_byte_at_a_time(redis_server: RedisServer) -> None:
    async with (
        Proxy(redis_server.port) as proxy,
        trial("5 one byte at a time", redis_server, port=proxy.port) as here,
    ):
        await here.load(FORM.dribble)
        await here.flowing()
        proxy.dribble = True
        await here.flowing()
        await anyio.sleep(FORM.calm)
        proxy.dribble = False
        await here.flowing()
    nothing_lost(here.figures)
