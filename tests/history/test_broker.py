"""Retained topics while the broker fails: it restarts empty, loses its latest writes, hangs, or loses frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import anyio
import pytest
from redis import Redis

import eventbus
from eventbus import Bus, Dropped, EventBusError, Gap, Resumed, Retention, TransportUnavailable
from eventbus_core.backend import Frame, lane_partition
from eventbus_core.concurrency.deadlines import Deadline
from eventbus_core.history import feeds, retaining_sender
from eventbus_core.model.topics import SHARES, lane_of
from tests.servers import RedisServer
from tests.support import Hooked, Inbox, buses, fresh_namespace, publish_by, take, until

TOPIC = "chat.room"
RETAIN = {"chat.>": Retention(events=1000)}


async def fill(bus: Bus, first: int, last: int) -> None:
    for number in range(first, last + 1):
        await bus.publish(TOPIC, number)
    await bus.flush()


def snapshot(server: RedisServer) -> dict[bytes, bytes]:
    with Redis.from_url(server.uri) as redis:
        return {key: redis.dump(key) for key in redis.keys("*:h:*")}


def go_back(server: RedisServer, before: dict[bytes, bytes]) -> None:
    """Have the server lose every later write to retained streams, as the promotion of a late replica does."""
    with Redis.from_url(server.uri) as redis:
        for key, value in before.items():
            redis.restore(key, 0, value, replace=True)


async def test_g13_a_broker_that_restarts_empty_begins_a_new_stream(redis_server: RedisServer) -> None:
    """Readers hear it, those that are live and those that come back; nothing published after it is missed."""
    gaps = Hooked()
    async with buses(redis_server.uri, 2, retain=RETAIN, lease=9.0) as (a, b):
        b.on_gap(gaps)
        async with b.client("live") as live:
            await live.subscribe(TOPIC, since="")
            await fill(a, 1, 5)
            token = (await take(live, 5))[-1].position
            await anyio.to_thread.run_sync(redis_server.restart)
            await until(lambda: a.state == b.state == "open", "both nodes are back")
            await fill(a, 6, 8)
            loss, *rest = await take(live, 4)
            assert isinstance(loss.data, Gap)
            assert (loss.data.reason, loss.data.source) == ("new_stream", f"#{TOPIC}")
            assert [event.data for event in rest] == [6, 7, 8]
        assert token is not None
        async with a.client("back") as back:
            gap = await back.subscribe(TOPIC, since=token)
            assert isinstance(gap, Gap)
            assert gap.reason == "new_stream"
            assert [event.data for event in await take(back, 3)] == [6, 7, 8]
        await until(lambda: [gap.reason for gap in gaps] == ["new_stream"])


@pytest.mark.parametrize("later", [1, 5, 10])
async def test_g13_no_reader_resumes_over_writes_that_the_broker_lost(redis_server: RedisServer, later: int) -> None:
    """Fewer, as many or more events come than were lost: their offsets come again, and the reader is told."""
    async with buses(redis_server.uri, 2, retain=RETAIN) as (a, b):
        await fill(a, 1, 100)
        before = snapshot(redis_server)
        await fill(b, 101, 105)
        token = (await a.history(TOPIC, limit=1))[0].position
        assert token is not None
        go_back(redis_server, before)
        await fill(a, 201, 200 + later)
        async with b.client("back") as back:
            gap = await back.subscribe(TOPIC, since=token)
            assert isinstance(gap, Gap)
            assert (gap.reason, gap.missed) == ("rolled_back", 0)
            events = await take(back, 100 + later)
            assert [event.data for event in events] == [*range(1, 101), *range(201, 201 + later)]
            assert (gap.earliest, gap.position) == (events[0].position, events[-1].position)


async def test_g13_a_live_reader_hears_that_the_broker_lost_writes(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "ANCHOR_AGE", float("inf"))
    async with buses(redis_server.uri, 2, retain=RETAIN) as (a, b), b.client("live") as live:
        await live.subscribe(TOPIC, since="")
        await fill(a, 1, 3)
        before = snapshot(redis_server)
        await fill(a, 4, 6)
        await take(live, 6)
        go_back(redis_server, before)
        await fill(a, 7, 8)
        loss, *events = await take(live, 6)
        assert isinstance(loss.data, Gap)
        assert loss.data.reason == "rolled_back"
        assert b.stats().history_gaps == {"rolled_back": 1}
        assert [event.data for event in events] == [1, 2, 3, 7, 8]
        await fill(a, 9, 9)
        assert [event.data for event in await take(live, 1)] == [9]


async def test_a_live_reader_gets_again_what_follows_an_event_from_some_seconds_ago(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not all that is kept, which may be many times what its mailbox holds."""
    monkeypatch.setattr(feeds, "ANCHOR_AGE", 0.0)
    async with buses(redis_server.uri, 2, retain=RETAIN) as (a, b), b.client("live") as live:
        await live.subscribe(TOPIC, since="")
        await fill(a, 1, 3)
        before = snapshot(redis_server)
        await fill(a, 4, 4)
        await take(live, 4)
        go_back(redis_server, before)
        await fill(a, 5, 6)
        loss, *events = await take(live, 3)
        assert isinstance(loss.data, Gap)
        assert loss.data.reason == "rolled_back"
        assert [event.data for event in events] == [5, 6]


async def test_a_reader_that_came_back_moments_ago_gets_again_what_followed_then(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "ANCHOR_AGE", float("inf"))
    async with buses(redis_server.uri, 2, retain=RETAIN) as (a, b):
        async with b.client("reader") as reader:
            await reader.subscribe(TOPIC, since="")
            await fill(a, 1, 3)
            first = (await take(reader, 3))[-1].position
        assert first is not None
        async with a.client("reader") as reader:
            await reader.subscribe(TOPIC, since=first)
            await fill(a, 4, 5)
            before = snapshot(redis_server)
            await fill(a, 6, 6)
            second = (await take(reader, 3))[-1].position
        assert second is not None
        go_back(redis_server, before)
        await fill(a, 7, 7)
        async with b.client("reader") as reader:
            gap = await reader.subscribe(TOPIC, since=second)
            assert isinstance(gap, Gap)
            assert gap.reason == "rolled_back"
            assert [event.data for event in await take(reader, 3)] == [4, 5, 7]


async def test_g10_retained_events_wait_while_the_broker_hangs(redis_server: RedisServer) -> None:
    """Each is appended once, although the answers to some appends were lost."""
    options = {"retain": RETAIN, "command_timeout": 3.0, "probe_timeout": 3.0, "probe_interval": 0.2, "lease": 30.0}
    async with buses(redis_server.uri, 2, **options) as (a, b), b.client("live") as live:
        await live.subscribe(TOPIC, since="")
        await fill(a, 1, 3)
        redis_server.pause()
        try:
            for number in range(4, 10):
                await a.publish(TOPIC, number)
                await anyio.sleep(0.1)
            with pytest.raises(TransportUnavailable, match="history has not confirmed"):
                await a.publish(TOPIC, 10, durable=True, timeout=0.2)
            assert a.stats().waiting_appends >= 1
            await until(lambda: a.stats().append_failures >= 1, "the answer to an append is given up")
        finally:
            redis_server.resume()
        await a.flush()
        assert [event.data for event in await take(live, 10)] == list(range(1, 11))
        assert [event.data for event in await b.history(TOPIC)] == list(range(1, 11))


async def test_g11_publishers_wait_while_the_history_takes_nothing(redis_server: RedisServer) -> None:
    async with buses(redis_server.uri, 1, retain=RETAIN, outbox_size=2048, close_timeout=0.1) as (bus,):
        await fill(bus, 1, 1)
        redis_server.pause()
        try:
            history = bus._node.history
            assert history is not None
            while history.appender.has_room():
                await bus.publish(TOPIC, "x" * 100)
            with pytest.raises(TransportUnavailable, match="was not accepted"):
                await bus.publish(TOPIC, "x", timeout=0)
        finally:
            redis_server.resume()
        await bus.flush()


async def test_g11_a_durable_publish_ends_at_its_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait for room counts, too: only what is left of the timeout is spent on the history."""
    async with buses("memory://", 1, retain=RETAIN) as (bus,):
        history = bus._node.history
        assert history is not None
        moments = iter([1000.0, 1090.0])
        monkeypatch.setattr(retaining_sender, "monotonic", lambda: next(moments))
        waits: list[float | None] = []
        within = history.topics._deadlines.within

        def note(timeout: float | None, *late: Callable[[], EventBusError]) -> Deadline:
            waits.append(timeout)
            return within(timeout, *late)

        monkeypatch.setattr(history.topics._deadlines, "within", note)
        await bus.publish(TOPIC, 1, durable=True, timeout=100.0)
        assert waits == [100.0, 10.0]


async def test_g5_events_that_the_history_never_took_are_reported(redis_server: RedisServer) -> None:
    lost = Hooked()
    async with buses(redis_server.uri, 1, retain=RETAIN, close_timeout=0.2) as (bus,):
        bus.on_undeliverable(lost)
        await fill(bus, 1, 1)
        redis_server.kill()
        for number in range(2, 5):
            await bus.publish(TOPIC, number)
    assert [(event.target, event.reason) for event in lost] == [(f"#{TOPIC}", "bus closed")] * 3


async def test_g13_a_clock_that_is_set_back_leaves_no_hole(redis_server: RedisServer) -> None:
    """A fail-over may lead to a slower clock: no event ends before one that was published earlier."""
    async with buses(redis_server.uri, 1, retain=RETAIN) as (bus,):
        await fill(bus, 1, 1)
        with Redis.from_url(redis_server.uri) as redis:
            (position,), (entries,) = redis.keys("*:h:*:p"), redis.keys("*:h:*:e")
            ahead = int(redis.hget(position, "time")) + 300_000
            redis.hset(position, "time", ahead)
            await fill(bus, 2, 3)
            times = [int(fields[b"t"]) for _, fields in redis.xrange(entries)]
        assert times[0] < times[1]
        assert set(times[1:]) == {ahead}


async def test_g5_a_stream_that_the_history_refuses_takes_no_other_with_it(redis_server: RedisServer) -> None:
    """Topics that are appended together: what the history took is delivered, and not reported too."""
    lost = Hooked()
    async with buses(redis_server.uri, 1, retain=RETAIN) as (bus,):
        bus.on_undeliverable(lost)
        await bus.publish("chat.bad", 0, durable=True)
        with Redis.from_url(redis_server.uri) as redis:
            for key in redis.keys("*:h:*:e"):
                redis.set(key, "no stream")
        topics = ["chat.a", "chat.b", "chat.bad", "chat.c", "chat.d"]
        for topic in topics:
            await bus.publish(topic, 1)
        await bus.flush()
        await until(lambda: bool(lost))
        topics.remove("chat.bad")
        assert [[event.data for event in await bus.history(topic)] for topic in topics] == [[1]] * 4
        assert [event.target for event in lost] == ["#chat.bad"]


async def test_g13_frames_that_are_lost_or_doubled_leave_no_hole() -> None:
    """
    The sessions repair the shares, and the history what the sessions could not.

    A node with a reader of the topic has it from there on; another one from the first event that came.
    """
    uri = "chaos+memory://history?drop=0.2&double=0.1&reorder=0.1&seed=7"
    async with buses(uri, 3, retain=RETAIN, resend_size=0) as nodes:
        with_reader, without_reader = Inbox(), Inbox()
        nodes[0].on("chat.*")(with_reader)
        nodes[1].on("chat.*")(without_reader)
        for bus in nodes[:2]:
            await bus.ready()
        async with nodes[0].client("reader") as reader:
            await reader.subscribe(TOPIC, since="")
            for number in range(150):
                await nodes[number % 3].publish(TOPIC, number)
                if number % 10 == 0:
                    await anyio.sleep(0.002)
            for bus in nodes:
                await bus.flush()
            wanted = [event.data for event in await nodes[2].history(TOPIC, limit=1000)]
            assert sorted(wanted) == list(range(150))
            got = await take(reader, 150)
            assert not any(isinstance(event.data, Gap | Dropped) for event in got)
            assert [event.data for event in got] == wanted
        await until(lambda: len(with_reader.events) >= 150)
        assert sorted(event.data for event in with_reader.events) == list(range(150))
        await until(lambda: bool(without_reader.events))
        # Shares from before the first event may come late, or be lost.
        since_first = wanted[wanted.index(without_reader.events[0].data) :]
        await until(lambda: {event.data for event in without_reader.events} >= {*since_first})
        numbers = [event.data for event in without_reader.events]
        assert [number for number in numbers if number in since_first] == since_first
        assert len(set(numbers)) == len(numbers)
        assert len(since_first) > 100


async def test_g13_an_event_that_is_lost_for_good_before_the_first_one_is_a_gap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The history cannot tell it from those that were published before the handler was there."""
    async with buses("memory://", 2, retain=RETAIN, resend_size=0) as (a, b):
        inbox, gaps, lost = Inbox(), Hooked(), anyio.Event()
        lane = lane_partition(lane_of(SHARES + TOPIC, a._options.lanes))
        publish = a._node.transport.publish

        async def lose_the_first(frames: Sequence[Frame]) -> Sequence[int] | None:
            if lost.is_set() or all(frame.partition != lane for frame in frames):
                return await publish(frames)
            lost.set()
            return [1] * len(frames)

        b.on_gap(gaps)
        b.on("chat.*")(inbox)
        await b.ready()
        live = await b.client("live").open()
        await live.subscribe(TOPIC)
        publish_by(monkeypatch, a._node.transport, lose_the_first)
        await a.publish(TOPIC, 1)
        await lost.wait()
        await a.publish(TOPIC, 2)
        gap, event = await take(live, 2)
        assert isinstance(gap.data, Gap)
        assert (gap.data.partition, event.data) == (lane, 2)
        await inbox.got(1)
        await until(lambda: bool(gaps))
        assert [(gap.source, gap.partition, gap.reason, gap.missed) for gap in gaps] == [("@n0", lane, "lost", 1)]
        assert inbox.data == [2]
        assert [event.data for event in await b.history(TOPIC)] == [1, 2]


async def test_a_bus_that_waits_for_its_broker_keeps_retained_events(redis_server: RedisServer) -> None:
    options: dict[str, Any] = {"namespace": fresh_namespace(), "retain": RETAIN}
    redis_server.kill()
    async with eventbus.connect(redis_server.uri, wait_for_broker=False, **options) as bus:
        await bus.publish(TOPIC, "early")
        with pytest.raises(TransportUnavailable):
            await bus.history(TOPIC)
        redis_server.start()
        await until(lambda: bus.state == "open")
        await bus.flush()
        assert [event.data for event in await bus.history(TOPIC)] == ["early"]
        async with bus.client("alice") as alice:
            assert isinstance(await alice.subscribe(TOPIC, since=""), Resumed)
