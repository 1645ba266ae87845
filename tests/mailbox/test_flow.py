"""Bounds: who waits for whom, who loses what, and that nothing grows without end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import anyio
import pytest

from eventbus import Dropped, Event, TransportUnavailable
from eventbus_core.backend import node_partition
from tests.support import DEADLINE, Hooked, Inbox, buses, fence, read, take, tasks, until

KIB = 1024


async def test_g4_a_hundred_thousand_events_in_order(uri: str) -> None:
    """A long stream from one node to one client arrives whole and in order."""
    count = 100_000
    async with buses(uri, 2) as (a, b), tasks() as group:
        expected = 0

        def check(event: Event) -> None:
            nonlocal expected
            assert event.data == expected
            expected += 1

        await b.client("bob", handler=check).__aenter__()

        async def send() -> None:
            for number in range(count):
                await a.send("bob", "n", number)

        group.start_soon(send)
        await until(lambda: expected == count or b.stats().handler_failures > 0)
        stats = b.stats()
        assert (stats.handler_failures, stats.dropped, stats.missed, stats.duplicates) == (0, 0, 0, 0)
        assert expected == count


@pytest.mark.parametrize("near", [True, False], ids=["near", "far"])
async def test_g11_a_slow_consumer_loses_the_oldest_events_and_is_told(uri: str, near: bool) -> None:
    """A client that reads nothing for long keeps the newest; in place of the others stands how many they were."""
    count, kept = 1000, 50
    async with buses(uri, 2, mailbox_events=kept, slow_consumer_timeout=0.1) as nodes, nodes[1].client("bob") as bob:
        dropped = Hooked()
        nodes[1].on_dropped(dropped)
        sender = nodes[1 if near else 0]
        for number in range(count):
            await sender.send("bob", "n", number)
        await fence([sender], [nodes[1]])
        await until(lambda: nodes[1].stats().dropped == count - kept)
        events = await take(bob, kept + 1)
        assert [event.data for event in events] == [Dropped(count - kept), *range(count - kept, count)]
        await sender.send("bob", "n", "next")
        assert [event.data for event in await take(bob, 1)] == ["next"]
        assert nodes[1].stats().dropped == count - kept
        await until(lambda: bool(dropped))
        assert dropped == [("bob", Dropped(count - kept))]


@pytest.mark.parametrize("near", [True, False], ids=["near", "far"])
async def test_g11_the_loss_stands_where_the_events_were(uri: str, near: bool) -> None:
    """What a client gets and what it is told that it lost make up what was sent, in order, none counted twice."""
    async with buses(uri, 2, mailbox_events=10, slow_consumer_timeout=0.1) as nodes, nodes[1].client("bob") as bob:
        sender = nodes[1 if near else 0]
        expected = 0
        for turn in range(3):
            await sender.send("bob", "n", 200 * turn)
            assert [event.data for event in await take(bob, 1)] == [200 * turn]
            before = nodes[1].stats().dropped
            for number in range(1, 200):
                await sender.send("bob", "n", 200 * turn + number)
            await fence([sender], [nodes[1]])

            def dropped(before: int = before) -> bool:
                return nodes[1].stats().dropped > before

            await until(dropped)
            expected += 1
            while expected < 200 * (turn + 1):
                (event,) = await take(bob, 1)
                if isinstance(event.data, Dropped):
                    expected += event.data.missed
                else:
                    assert event.data == expected
                    expected += 1
            assert expected == 200 * (turn + 1)


@pytest.mark.parametrize("near", [True, False], ids=["near", "far"])
async def test_g11_a_brisk_sender_waits_for_a_brisk_consumer(uri: str, near: bool) -> None:
    """While a consumer keeps at it, its senders wait and nothing is dropped, however small its mailbox."""
    count = 3000
    options = {"mailbox_events": 20, "outbox_size": 4 * KIB, "receive_budget": 16 * KIB}
    async with buses(uri, 2, **options) as nodes, tasks() as group:
        sender = nodes[1 if near else 0]
        got: list[int] = []

        async def slow(event: Event) -> None:
            got.append(event.data[0])
            await anyio.lowlevel.checkpoint()

        await nodes[1].client("bob", handler=slow).__aenter__()

        async def send() -> None:
            for number in range(count):
                await sender.send("bob", "n", (number, "x" * 500))

        group.start_soon(send)
        await until(lambda: len(got) == count)
        assert got == list(range(count))
        assert nodes[1].stats().dropped == 0


@pytest.mark.parametrize("kind", ["client", "topic", "broadcast"])
async def test_g11_waiting_events_are_bounded_in_bytes(uri: str, kind: str) -> None:
    """A sender whose receiver takes nothing is stopped once the buffers between them are full, and goes on after."""
    options = {"outbox_size": 32 * KIB, "receive_budget": 64 * KIB, "slow_consumer_timeout": 60.0}
    async with buses(uri, 2, **options) as (a, b), tasks() as group:
        gate = anyio.Event()
        handled = 0

        async def wait(event: Event) -> None:
            nonlocal handled
            await gate.wait()
            handled += 1

        sent = 0
        data = b"x" * 1000
        send: Callable[[], Awaitable[object]]
        if kind == "client":
            await b.client("bob", handler=wait).__aenter__()
            send = partial(a.send, "bob", "n", data)
        else:
            b.on("n")(wait)
            await b.ready()
            send = partial(a.publish if kind == "topic" else a.broadcast, "n", data)

        async def flood() -> None:
            nonlocal sent
            while sent < 5000:
                await send()
                sent += 1

        group.start_soon(flood)
        seen = frames = -1

        def stopped() -> bool:
            """Whether the bus has asked for credit several times, and yet taken nothing from its sender."""
            nonlocal seen, frames
            if sent != seen:
                seen, frames = sent, a.stats().sent_frames
            return a.stats().sent_frames >= frames + 2

        await until(stopped)
        assert handled == 0
        assert sent < 512, "the window is 256 KiB or less, the outbox has 32, and there may be a frame between"
        gate.set()
        await until(lambda: handled == 5000)
        assert (a.stats().dropped, b.stats().dropped, b.stats().missed) == (0, 0, 0)


async def test_g11_a_slow_client_slows_no_other(uri: str) -> None:
    """While one client reads nothing, others of its node get theirs, before and after it counts as slow."""
    async with (
        buses(uri, 2, slow_consumer_timeout=3.0, mailbox_events=100, receive_budget=64 * KIB) as (a, b),
        tasks() as group,
        b.client("slow") as slow,
        b.client("brisk") as brisk,
    ):
        reader = read(group, brisk)
        for number in range(2000):
            await a.send("slow", "n", b"x" * 1000)
            await a.send("brisk", "n", number)
        await reader.got(2000)
        assert reader.data == list(range(2000))
        assert b.stats().dropped >= 1800
        first = await take(slow, 1)
        assert isinstance(first[0].data, (Dropped, bytes))


async def test_g11_a_full_local_mailbox_makes_senders_wait_and_then_no_more(uri: str) -> None:
    """On one node a sender waits for a client that reads nothing, but only for ``slow_consumer_timeout``."""
    async with buses(uri, 1, mailbox_events=10, slow_consumer_timeout=0.3) as (bus,), bus.client("bob") as bob:
        with anyio.fail_after(DEADLINE):
            before = anyio.current_time()
            for number in range(100):
                await bus.send("bob", "n", number)
            assert anyio.current_time() - before >= 0.25
            for number in range(100):
                with pytest.raises(StopIteration):  # at once, without waiting for anything
                    bus.publish("nobody", number).send(None)
        events = await take(bob, 11)
        assert [event.data for event in events] == [Dropped(90), *range(90, 100)]


async def test_g11_senders_do_not_wait_for_events_of_other_senders_of_their_node(uri: str) -> None:
    """However much of other nodes waits for a client, its own node may still be ahead of it by ``local_backlog``."""
    async with buses(uri, 2, local_backlog=10, slow_consumer_timeout=10 * DEADLINE) as (a, b), b.client("bob") as bob:
        for number in range(50):
            await a.send("bob", "far", number)
        await fence([a], [b])
        with anyio.fail_after(DEADLINE):
            for number in range(10):
                await b.send("bob", "near", number)
        assert len(await take(bob, 60)) == 60


async def test_g5_an_event_behind_one_of_another_node_is_reported_to_its_own_sender(uri: str) -> None:
    """Also when the credit for the one before was given back long ago, as its client lags."""
    async with buses(uri, 2, slow_consumer_timeout=0.01) as (a, b):
        far, near = Hooked(), Hooked()
        a.on_undeliverable(far)
        b.on_undeliverable(near)
        async with b.client("bob"):
            await a.send("bob", "far")
            await fence([a], [b])
            mailbox = b._node.ownership.clients["bob"].mailbox
            await until(lambda: mailbox._slow)
            await b.send("bob", "near")
        await until(lambda: bool(far) and bool(near), "both senders are told")
        assert [fate.type for fate in far] == ["far"]
        assert [fate.type for fate in near] == ["near"]


async def test_events_without_a_receiver_count_as_sent_once(uri: str) -> None:
    """A node that does not listen gets its events when it does; the counters tell of one sending."""
    async with buses(uri, 2) as (a, b), b.client("bob", handler=(bob := Inbox())):
        await a.send("bob", "n", 0)
        await bob.got(1)
        sent = a.stats().sent_events
        await b._node.transport.leave([node_partition(b.node)])
        frames = a.stats().sent_frames
        await a.send("bob", "n", 1)
        await until(lambda: a.stats().sent_frames > frames, "it was tried")
        await b._node.transport.join([node_partition(b.node)])
        await bob.got(2)
        assert bob.data == [0, 1]
        assert a.stats().sent_events == sent + 1


async def test_g11_a_send_without_space_raises_in_time(uri: str) -> None:
    """A send that waits longer than ``send_timeout`` raises, and its event is never handled."""
    options = {"mailbox_events": 5, "slow_consumer_timeout": 60.0, "send_timeout": 0.2}
    async with buses(uri, 1, **options) as (bus,), bus.client("bob") as bob:
        for number in range(5):
            await bus.send("bob", "n", number)
        accepted = bus.stats().accepted
        with pytest.raises(TransportUnavailable, match="was not accepted"):
            await bus.send("bob", "n", "no room")
        assert bus.stats().accepted == accepted
        assert [event.data for event in await take(bob, 5)] == list(range(5))
        await bus.send("bob", "n", "room again")
        assert [event.data for event in await take(bob, 1)] == ["room again"]


async def test_g11_a_topic_event_without_space_reaches_no_receiver(uri: str) -> None:
    """If one local subscriber stays full, no subscriber gets the event: all get it, or none."""
    options = {"mailbox_events": 5, "slow_consumer_timeout": 60.0, "send_timeout": 0.2}
    async with buses(uri, 2, **options) as (a, b), a.client("full") as full:
        a.on("n")(near := Inbox())
        b.on("n")(far := Inbox())
        await b.ready()
        await full.subscribe("n")
        for number in range(5):
            await a.publish("n", number)
        with pytest.raises(TransportUnavailable):
            await a.publish("n", "no room")
        await take(full, 5)
        await a.publish("n", "last")
        for inbox in (near, far):
            await inbox.got(6)
            assert inbox.data == [0, 1, 2, 3, 4, "last"]
        assert [event.data for event in await take(full, 1)] == ["last"]


async def test_g11_a_handler_that_lags_is_told_by_the_hook(uri: str) -> None:
    """Handlers lose like clients; ``on_dropped`` says of which pattern, and how many."""
    async with buses(uri, 2, mailbox_events=10, slow_consumer_timeout=0.1) as (a, b):
        dropped = Hooked()
        b.on_dropped(dropped)
        gate = anyio.Event()
        got: list[int] = []

        @b.on("n.*")
        async def slow(event: Event) -> None:
            await gate.wait()
            got.append(event.data)

        await b.ready()
        await a.publish("n.1", 0)
        await until(lambda: b.stats().received_events == 1)
        for number in range(1, 300):
            await a.publish("n.1", number)
        await until(lambda: b.stats().received_events >= 300 and b.stats().dropped > 0)
        gate.set()
        await until(lambda: bool(got) and got[-1] == 299)
        await until(lambda: sum(loss.missed for _, loss in dropped) == 300 - len(got))
        assert {name for name, _ in dropped} == {"n.*"}
        assert b.stats().dropped == 300 - len(got)


async def test_g5_events_lost_by_a_slow_consumer_are_reported_to_their_senders(uri: str) -> None:
    """Events of this node behind one of another, whose sender is held up no more, are reported here and not there."""
    async with buses(uri, 2, mailbox_events=3, slow_consumer_timeout=0.1) as (a, b), b.client("bob") as bob:
        far, near = Hooked(), Hooked()
        a.on_undeliverable(far)
        b.on_undeliverable(near)
        await a.send("bob", "far")
        await until(lambda: b.stats().received_events == 1)
        assert bob._held.mailbox._chunks is not None
        waiting = bob._held.mailbox._chunks[0]
        await until(lambda: waiting.ticket is None)
        for _ in range(4):
            await b.send("bob", "near")
        await until(lambda: len(far) + len(near) == 2)
        assert [fate.type for fate in far] == ["far"]
        assert [fate.type for fate in near] == ["near"]


async def test_large_events_pass(uri: str) -> None:
    """Events up to the limit arrive whole, alone and among small ones, larger than frames and windows."""
    async with (
        buses(uri, 2, receive_budget=64 * KIB, outbox_size=16 * KIB) as (a, b),
        tasks() as group,
        b.client("bob") as bob,
    ):
        reader = read(group, bob)
        sizes = [1, 1000, 700_000, 3, 1_000_000, 1_000_000, 0, 128 * KIB, 200_000]
        for size in sizes:
            await a.send("bob", "n", b"x" * size)
        await reader.got(len(sizes))
        assert [len(data) for data in reader.data] == sizes
        assert b.stats().refused == {}


async def test_ids_are_unique(uri: str) -> None:
    """No two events of a namespace share an id, whatever node they come from and however often it came back."""
    async with buses(uri, 2) as nodes, nodes[0].client("bob") as bob, tasks() as group:
        reader = read(group, bob)
        await bob.subscribe("n")
        nodes[0].on(">")(inbox := Inbox())
        for _ in range(50):
            for bus in nodes:
                await bus.send("bob", "n")
                await bus.publish("n")
                await bus.broadcast("n")
                await bus.send("@n0", "n")
        await reader.got(200)
        await inbox.got(300)
        ids = {event.id for event in reader.events} | {event.id for event in inbox.events}
        assert len(ids) == 400


async def test_flush_waits_for_the_broker(uri: str) -> None:
    """After ``flush`` nothing that was accepted is left in the outbox."""
    async with buses(uri, 2) as (a, b):
        b.on("n")(inbox := Inbox())
        await b.ready()
        await a.flush()
        for number in range(2000):
            await a.publish("n", number)
        with anyio.fail_after(DEADLINE):
            await a.flush()
        assert a.stats().waiting_events == 0
        assert a.stats().sent_events >= 2000
        await inbox.got(2000)


async def test_stats_count_alike_on_every_backend(uri: str) -> None:
    """The counters say what happened, the same wherever it happened."""
    async with (
        buses(uri, 2) as (a, b),
        a.client("near", handler=(near := Inbox())),
        b.client("far", handler=(far := Inbox())),
    ):
        b.on("n")(handler := Inbox())
        await b.ready()
        for _ in range(10):
            await a.send("near", "n")
            await a.send("far", "n")
            await a.publish("n")
        await near.got(10)
        await far.got(10)
        await handler.got(10)
        await a.flush()
        sent, got = a.stats(), b.stats()
        assert (sent.node, sent.clients, got.clients) == ("n0", 1, 1)
        assert sent.accepted == 30
        assert sent.local == 10
        assert sent.sent_events == got.received_events == 20
        assert sent.waiting_events == sent.pending_requests == sent.undeliverable == sent.forwarded == 0
        assert got.duplicates == got.missed == got.stale == got.dropped == 0
        assert sent.incarnation != got.incarnation


async def test_many_waiting_senders_are_let_in(uri: str) -> None:
    """Senders that wait for the same full mailbox all get through, and none of their events is lost or doubled."""
    async with buses(uri, 1, mailbox_events=5) as (bus,), bus.client("bob") as bob:

        async def send(number: int) -> None:
            await bus.send("bob", "n", number)

        with anyio.fail_after(DEADLINE):
            async with anyio.create_task_group() as group:
                for number in range(100):
                    group.start_soon(send, number)
                events = await take(bob, 100)
        assert sorted(event.data for event in events) == list(range(100))
        assert bus.stats().dropped == 0
