"""The broker goes away and comes back: what the application is told, and what it loses: nothing."""

from __future__ import annotations

from typing import Any

import pytest

import eventbus
from tests.servers import RedisServer
from tests.support import Hooked, Inbox, buses, take, until

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])


async def test_g10_nothing_is_lost_when_redis_is_killed_and_started_again(redis_server: RedisServer) -> None:
    """Events accepted before, while and after Redis is away arrive in order and once; the application is told of it."""
    async with buses(redis_server.uri, 2, lease=9.0) as (a, b), b.client("bob", handler=(bob := Inbox())):
        b.on("n")(topic := Inbox())
        await b.ready()
        down, up, lost = Hooked(), Hooked(), Hooked()
        a.on_disconnected(down)
        a.on_reconnected(lambda: up("up"))
        a.on_undeliverable(lost)
        assert (a.state, b.state) == ("open", "open")
        for number in range(100):
            await a.send("bob", "n", number)
            await a.publish("n", number)
        await bob.got(100)
        redis_server.kill()
        for number in range(100, 200):
            await a.send("bob", "n", number)
            await a.publish("n", number)
        await until(lambda: a.state == "disconnected")
        redis_server.start()
        await until(lambda: a.state == "open")
        for number in range(200, 300):
            await a.send("bob", "n", number)
            await a.publish("n", number)
        await bob.got(300)
        await topic.got(300)
        assert bob.data == topic.data == list(range(300))
        await until(lambda: bool(down) and bool(up))
        assert (b.stats().missed, a.stats().disconnects >= 1, list(lost)) == (0, True, [])


async def test_delivery_within_a_node_goes_on_without_redis(redis_server: RedisServer) -> None:
    """What needs no broker does not notice that it is away."""
    async with buses(redis_server.uri, 1, lease=60.0) as (bus,), bus.client("near") as near:
        await bus.send("near", "n", 1)
        redis_server.kill()
        await bus.send("near", "n", 2)
        assert [event.data for event in await take(near, 2)] == [1, 2]
        redis_server.start()
        await until(lambda: bus.state == "open")


async def test_g5_events_that_a_closing_bus_gives_up_are_reported(redis_server: RedisServer) -> None:
    """Events that were accepted and never got to the broker are told to the hook and counted, none in silence."""
    options: dict[str, Any] = {"lease": 60.0, "close_timeout": 0.2, "send_timeout": 3.0}
    async with buses(redis_server.uri, 1, **options) as (b,), b.client("bob", handler=(inbox := Inbox())):
        lost = Hooked()
        a = eventbus.connect(redis_server.uri, namespace=b.namespace, node="a", **options)
        a.on_undeliverable(lost)
        async with a:
            await a.send("bob", "n", 0)
            await inbox.got(1)
            redis_server.kill()
            for number in range(10):
                await a.send("bob", f"to.bob.{number}")
            await until(lambda: a.state == "disconnected")
            await a.publish("topic.1")
            await a.broadcast("broadcast.1")
            with pytest.raises(eventbus.TransportUnavailable, match=r"within 3 s the broker has not taken 12 accepted"):
                await a.flush()
        types = [*(f"to.bob.{number}" for number in range(10)), "topic.1", "broadcast.1"]
        assert sorted(fate.type for fate in lost) == sorted(types)
        assert {fate.reason for fate in lost} == {"bus closed"}
        assert a.stats().undeliverable_by_reason == {"bus closed": 12}
        redis_server.start()
        await until(lambda: b.state == "open")


async def test_a_send_that_finds_no_room_while_redis_is_away_raises(redis_server: RedisServer) -> None:
    """The outbox holds what fits; then senders wait, and are told after ``send_timeout`` which events were refused."""
    options = {"outbox_size": 4096, "send_timeout": 3.0, "lease": 60.0}
    async with buses(redis_server.uri, 2, **options) as (a, b), b.client("bob", handler=(inbox := Inbox())):
        await a.send("bob", "n", -1)
        await inbox.got(1)
        redis_server.kill()
        accepted = 0

        async def send_on() -> None:
            nonlocal accepted
            while True:
                await a.send("bob", "n", accepted)
                accepted += 1

        with pytest.raises(eventbus.TransportUnavailable, match="was not accepted"):
            await send_on()
        redis_server.start()
        await inbox.got(accepted + 1)
        await a.send("bob", "last")
        await inbox.got(accepted + 2)
        assert inbox.data == [*range(-1, accepted), None]
