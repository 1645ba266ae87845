"""What a bus counts of itself: the same on every backend."""

from __future__ import annotations

import anyio
import msgspec
import pytest

import eventbus
from tests.servers import RedisServer
from tests.support import DEADLINE, Inbox, buses, fence, take, until

ASKING = True


async def test_deliveries_are_counted_at_the_receiver_each_by_itself(uri: str) -> None:
    async with buses(uri, 2) as (a, b), b.client("bob") as bob:
        for pattern in ("order.*", "order.>"):
            b.on(pattern)(Inbox())
        await b.ready()
        await a.send("bob", "n")
        await b.send("bob", "n")
        await a.publish("order.created")
        await take(bob, 2)
        await until(lambda: b.stats().delivered == 4)
        assert (b.stats().local, a.stats().delivered, a.stats().accepted) == (1, 0, 2)


async def test_frames_tell_how_many_events_they_had(uri: str) -> None:
    """The sizes of all frames with events add up to the events that were sent."""
    async with buses(uri, 2) as (a, b), b.client("bob") as bob:
        await a.send("bob", "n")
        await a.flush()
        for _ in range(100):
            await a.send("bob", "n")
        await take(bob, 101)
        stats = a.stats()
        assert stats.frame_events.total == stats.sent_events >= 101
        assert stats.frame_events.count == stats.send_seconds.count <= stats.sent_frames
        assert (stats.frame_events.quantile(1) or 0) > 50, "nothing was batched"


async def test_a_frame_is_handled_once_all_of_its_events_are(uri: str) -> None:
    """A receiver that takes its time is seen in ``handle_seconds``, and what waits in ``mailbox_events``."""
    async with buses(uri, 2) as (a, b), b.client("bob") as bob:
        await fence([a], [b])
        before = b.stats().handle_seconds
        for number in range(10):
            await a.send("bob", "n", number)
        await until(lambda: b.stats().mailbox_events == 10)
        await take(bob, 10)
        with anyio.move_on_after(0):
            await bob.receive()
        assert b.stats().mailbox_events == 0
        assert 0 < b.stats().handle_seconds.since(before).count < 10, "frames are counted, not events"
        await a.send("bob", "n")
        await until(lambda: b.stats().mailbox_events == 1)
        with anyio.move_on_after(0.25):
            await anyio.sleep_forever()
        await take(bob, 1)
        with anyio.move_on_after(0):
            await bob.receive()
        assert b.stats().handle_seconds.since(before).total >= 0.2


async def test_the_wait_for_credit_is_part_of_the_time_to_send(uri: str) -> None:
    """It counts from when the oldest of its events was accepted, not from when there was room for it."""
    async with buses(uri, 2, receive_budget=1024, slow_consumer_timeout=60.0) as (a, b), b.client("bob") as bob:
        block = "x" * 100_000
        for _ in range(3):
            await a.send("bob", "n", block)
        await until(lambda: a.stats().waiting_events > 0 and b.stats().mailbox_events > 0)
        with anyio.move_on_after(0.3):
            await anyio.sleep_forever()
        await take(bob, 3)
        await until(lambda: a.stats().waiting_events == 0)
        assert (a.stats().send_seconds.quantile(1) or 0) >= 0.2


async def test_hooks_that_are_too_many_are_counted(
    uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("eventbus_core.node.hooks.MAX_PENDING", 2)
    async with buses(uri, 1) as (bus,):
        bus.on_undeliverable(lambda _fate: None)
        for _ in range(5):
            await bus.send(bus.address, "without.handler")
        assert bus.stats().hooks_skipped == 3
        assert caplog.text.count("skipped a call of hook on_undeliverable") == 1
        assert bus.stats().undeliverable_by_reason == {"no handler": 5}


async def test_unreadable_messages_between_nodes_are_rejected(uri: str) -> None:
    async with buses(uri, 2) as (a, b):
        a._node.channel.send(b.node, "$sys.moved", "no such thing")
        await until(lambda: b.stats().refused.get("own event") == 1)
        assert (await a.node_stats(b.node)).refused == b.stats().refused


async def test_a_lost_lease_is_counted_once(uri: str) -> None:
    async with buses(uri, 2, lease=DEADLINE) as (a, b):
        await b._node.directory.leave()  # as if the lease had ended
        b._node.lease.hurry()
        await until(lambda: b.stats().leases_lost == 1)
        entered = b.stats().incarnation
        await until(lambda: a.state == "open" and b.stats().incarnation >= entered)
        assert (a.stats().leases_lost, b.stats().leases_lost) == (0, 1)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_outages_are_counted_and_timed(redis_server: RedisServer) -> None:
    """While the broker is away the time runs; a connection that was made again is an interruption."""
    async with buses(redis_server.uri, 1, lease=60.0) as (bus,):
        assert (bus.stats().disconnects, bus.stats().outage_seconds) == (0, 0)
        redis_server.kill()
        await bus.broadcast("n", include_self=False)
        await until(lambda: bus.stats().outage_seconds > 0.1)
        redis_server.start()
        await until(lambda: bus.state == "open" and bus.stats().interruptions >= 1)
        stats = bus.stats()
        assert stats.disconnects >= 1
        await bus.flush()
        assert bus.stats().outage_seconds == stats.outage_seconds >= 0.1


async def test_a_node_of_an_older_release_can_be_asked(uri: str) -> None:
    """What it does not count yet has a default."""
    async with buses(uri, 1) as (bus,):
        sent = msgspec.msgpack.decode(msgspec.msgpack.encode(bus.stats()))
        for field in ("handle_seconds", "send_seconds", "frame_events", "hooks_skipped", "delivered"):
            del sent[field]
        read = msgspec.convert(sent, eventbus.Stats)
        assert (read.delivered, read.handle_seconds.count) == (0, 0)
