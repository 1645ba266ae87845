"""Retained queues: what was sent is handled, whichever nodes end, as long as the history keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Any

import anyio
import attrs
import pytest
from redis import Redis

import eventbus
from eventbus import (
    Bus,
    ConfigurationError,
    Event,
    Gap,
    InvalidName,
    LimitExceeded,
    NamespaceMismatch,
    RequestFailed,
    Retention,
)
from eventbus_core.backend import POSITION_LIFE, NewEntry, Page, Position
from eventbus_core.history import queue_dispatcher
from eventbus_core.history.queue_dispatcher import QueueDispatcher
from eventbus_core.history.queue_progress import QueueRecord, encode_record
from eventbus_core.history.stream_names import queue_stream
from eventbus_core.model.tokens import Mark
from eventbus_memory import MemoryTransport
from tests.history.test_broker import go_back, snapshot
from tests.servers import RedisServer
from tests.support import DEADLINE, Hooked, Inbox, buses, fresh_namespace, tasks, until, within_deadline
from tests.workers import Desk, crashing, noted, noted_count

ASKING = True
LEASE = 6.0
RETAIN = {"jobs": Retention(events=1000, seconds=600)}


def dispatcher(bus: Bus) -> QueueDispatcher | None:
    """Return what dispatches the queue on the node of *bus*, if that node does."""
    assert bus._node.dispatchers is not None
    return bus._node.dispatchers._active.get("jobs")


async def test_events_outlive_their_sender_and_wait_for_a_consumer(uri: str) -> None:
    """Each is handled once, in order, although the nodes that sent, dispatched and consumed close in between."""
    namespace = fresh_namespace()
    options: dict[str, Any] = {"namespace": namespace, "retain_queues": RETAIN}
    async with buses(uri, 1, **options):
        for first in (0, 5):
            inbox = Inbox()
            async with eventbus.connect(uri, **options) as a:
                jobs, numbers = a.queue("jobs"), range(first, first + 5)
                ids = [await jobs.send("n", number, headers={"h": "1"}) for number in numbers]
                assert a.stats().queued_events == 0
            async with eventbus.connect(uri, **options) as b, b.queue("jobs").consume(inbox):
                await inbox.got(5)
            assert (inbox.data, [event.id for event in inbox.events]) == (list(numbers), ids)
            assert {(event.target, event.type) for event in inbox.events} == {("jobs", "n")}
            assert inbox.events[0].headers == {"h": "1"}


async def test_no_event_is_lost_with_its_sender_its_consumer_and_its_dispatcher(uri: str) -> None:
    """All three are one node, which dies; the next consumer gets all that it had not finished, and no more."""
    async with buses(uri, 1, retain_queues=RETAIN, lease=LEASE) as (c,):
        first, second = Desk(), Inbox()
        async with crashing(uri, namespace=c.namespace, retain_queues=RETAIN, lease=LEASE) as (b, crash):
            await b.queue("jobs").consume(first, concurrency=2).open()
            for number in range(10):
                await b.queue("jobs").send("n", number)
            await until(lambda: len(first.begun) == 2)
            first.permit()
            await until(lambda: len(first.begun) == 3)
            await until(lambda: noted_count(b) == 1)
            crash.set()
            await anyio.sleep_forever()
        (done,) = (event.data for event in first.done)
        async with c.queue("jobs").consume(second):
            await second.got(9)
            await noted(c)
        assert sorted(second.data) == sorted({*range(10)} - {done})


async def test_an_event_that_others_overtook_is_not_lost(uri: str) -> None:
    """One event is with a consumer for long; later ones are handled, and noted; then the node dies."""
    async with buses(uri, 1, retain_queues=RETAIN, lease=LEASE) as (c,):
        done, second = list[int](), Inbox()

        async def work(event: Event) -> None:
            if not event.data:
                await anyio.sleep_forever()
            done.append(event.data)

        async with crashing(uri, namespace=c.namespace, retain_queues=RETAIN, lease=LEASE) as (b, crash):
            await b.queue("jobs").consume(work, concurrency=2).open()
            for number in range(5):
                await b.queue("jobs").send("n", number)
            await until(lambda: noted_count(b) == 4)
            crash.set()
            await anyio.sleep_forever()
        async with c.queue("jobs").consume(second):
            await c.queue("jobs").send("n", 5)
            await second.got(2)
            await noted(c)
        assert (done, sorted(second.data)) == ([1, 2, 3, 4], [0, 5])


async def test_a_retained_event_is_handled_as_a_consumer_receives_it(uri: str) -> None:
    async with buses(uri, 2, retain_queues=RETAIN) as (a, b), b.queue("jobs").consume() as consumer:
        for number in range(5):
            await a.queue("jobs").send("n", number)
        with within_deadline("all events are received"):
            assert [(await consumer.receive()).data for _ in range(5)] == list(range(5))
        await noted(b)


async def test_a_send_returns_once_the_history_has_the_event(uri: str) -> None:
    async with buses(uri, 1, retain_queues=RETAIN) as (a,), tasks() as group:
        assert a._node.history is not None
        appender, go_on, sent = a._node.history.appender, anyio.Event(), list[str]()
        history = appender._history
        append = history.append

        async def append_late(entries: Sequence[NewEntry]) -> Sequence[Position]:
            await go_on.wait()
            return await append(entries)

        async def send() -> None:
            sent.append(await a.queue("jobs").send("n", 1))

        history.append = append_late  # type: ignore[method-assign]
        group.start_soon(send)
        await until(lambda: bool(appender._being_appended))
        assert sent == []
        go_on.set()
        await until(lambda: bool(sent))


async def test_an_event_whose_consumer_dies_goes_to_another(uri: str) -> None:
    """The dispatcher lives; so only what was with that consumer comes again."""
    async with buses(uri, 2, retain_queues=RETAIN, lease=LEASE) as (a, c):
        first, second = Desk(), Inbox()
        async with a.queue("jobs").consume(Desk()) as own:
            await until(lambda: dispatcher(a) is not None)
            await own.aclose()
        async with crashing(uri, namespace=a.namespace, retain_queues=RETAIN, lease=LEASE) as (b, crash):
            await b.queue("jobs").consume(first).open()
            for number in range(5):
                await c.queue("jobs").send("n", number)
            await until(lambda: bool(first.begun))
            crash.set()
            await anyio.sleep_forever()
        async with c.queue("jobs").consume(second):
            await second.got(5)
            await noted(a, c)
        assert sorted(second.data) == list(range(5))
        assert a.stats().redelivered == 1


async def test_what_is_beyond_the_retention_is_told(uri: str) -> None:
    async with buses(uri, 2, retain_queues={"jobs": Retention(events=10)}) as (a, b):
        gaps, inbox = Hooked(), Inbox()
        b.on_gap(gaps)
        for number in range(25):
            await a.queue("jobs").send("n", number)
        async with b.queue("jobs").consume(inbox):
            await inbox.got(10)
        await until(lambda: bool(gaps))
        assert inbox.data == list(range(15, 25))
        assert gaps == [Gap("jobs", "", 15, "trimmed")]
        assert (b.stats().missed, b.stats().history_gaps) == (15, {"trimmed": 1})


async def test_consumers_that_are_too_slow_miss_no_event_untold(uri: str) -> None:
    """The dispatcher reads ahead only as far as events may wait; those that are trimmed meanwhile are counted."""
    options: dict[str, Any] = {"retain_queues": {"jobs": Retention(events=10)}, "mailbox_events": 4}
    async with buses(uri, 2, **options) as (a, b):
        gaps, desk = Hooked(), Desk()
        b.on_gap(gaps)
        async with b.queue("jobs").consume(desk):
            await a.queue("jobs").send("n", 0)
            await until(lambda: bool(desk.begun))
            for number in range(1, 60):
                await a.queue("jobs").send("n", number)
            desk.permit(60)
            await until(lambda: bool(desk.done) and desk.done[-1].data == 59)
        handled = [event.data for event in desk.done]
        assert handled == sorted(set(handled))
        assert handled[-10:] == list(range(50, 60))
        assert sum(gap.missed for gap in gaps) == 60 - len(handled) == b.stats().missed


async def test_a_gap_is_told_once(uri: str) -> None:
    """The next dispatcher knows, although no event was handled in between."""
    options: dict[str, Any] = {"retain_queues": {"jobs": Retention(events=10)}, "lease": LEASE}
    async with buses(uri, 1, **options) as (c,):
        gaps, again, desk, inbox = Hooked(), Hooked(), Desk(), Inbox()
        for number in range(25):
            await c.queue("jobs").send("n", number)
        async with crashing(uri, namespace=c.namespace, **options) as (b, crash):
            b.on_gap(gaps)
            await b.queue("jobs").consume(desk).open()
            await until(lambda: noted_count(b) == 1, "the gap is noted")
            crash.set()
            await anyio.sleep_forever()
        c.on_gap(again)
        async with c.queue("jobs").consume(inbox):
            await inbox.got(10)
            await noted(c)
        assert (gaps, again) == ([Gap("jobs", "", 15, "trimmed")], [])
        assert inbox.data == list(range(15, 25))


async def test_unhandled_events_of_a_stream_that_is_gone_are_told(redis_server: RedisServer) -> None:
    """Later events were handled, so the record names the one that was not; the broker has lost the stream since."""
    async with buses(redis_server.uri, 1, retain_queues=RETAIN, lease=LEASE) as (c,):
        gaps, inbox = Hooked(), Inbox()

        async def work(event: Event) -> None:
            if not event.data:
                await anyio.sleep_forever()

        for number in range(3):
            await c.queue("jobs").send("n", number)
        stream = snapshot(redis_server)  # without a record
        async with crashing(redis_server.uri, namespace=c.namespace, retain_queues=RETAIN, lease=LEASE) as (b, crash):
            await b.queue("jobs").consume(work, concurrency=2).open()
            await until(lambda: noted_count(b) == 2)
            crash.set()
            await anyio.sleep_forever()
        with Redis.from_url(redis_server.uri) as redis:
            redis.delete(*stream)
        c.on_gap(gaps)
        async with c.queue("jobs").consume(inbox):
            await until(lambda: bool(gaps))
            await c.queue("jobs").send("n", 3)
            await inbox.got(1)
            await noted(c)
        assert (gaps, inbox.data) == ([Gap("jobs", "", 0, "new_stream")], [3])


async def test_a_dispatcher_that_may_have_lost_its_lease_hands_nothing_out(uri: str) -> None:
    """It notes nothing either, until the directory has confirmed that the queue is still its own."""
    async with buses(uri, 3, retain_queues=RETAIN, lease=10 * DEADLINE) as (a, b, c):
        desk, renew, asked, go_on = Desk(), b._node.directory.renew, anyio.Event(), anyio.Event()

        async def renew_late() -> bool:
            asked.set()
            await go_on.wait()
            return await renew()

        async with b.queue("jobs").consume(Desk()) as own:
            await until(lambda: dispatcher(b) is not None)
            await own.aclose()
        async with c.queue("jobs").consume(desk):
            for number in range(5):
                await a.queue("jobs").send("n", number)
            await until(lambda: bool(desk.begun) and b.stats().queued_events == 5)
            b._node.directory.renew = renew_late  # type: ignore[method-assign]
            b._node.lease.hurry()
            await asked.wait()
            b._node.pool.limits.fresh_until = 0.0  # as in a process that was stopped for longer than its lease
            try:
                desk.permit()
                await until(lambda: not b._node.queues._queues["jobs"]._working, "nothing is handed out")
                assert noted_count(b) == 0
            finally:
                go_on.set()
                desk.permit(10)
            await noted(b)
        assert [event.data for event in desk.begun] == list(range(5))


async def test_a_dispatcher_that_claims_again_begins_with_what_is_noted(uri: str) -> None:
    """Another node dispatched while it hung, and has closed since: what that one noted does not come again."""
    async with buses(uri, 2, retain_queues=RETAIN, lease=10 * DEADLINE) as (b, c):
        desk = Desk()
        assert b._node.history is not None
        async with b.queue("jobs").consume(desk, concurrency=2):
            for number in range(5):
                await c.queue("jobs").send("n", number)
            await until(lambda: len(desk.begun) == 2 and b.stats().queued_events == 5)
            former, streams = dispatcher(b), b._node.history.queues
            b._node.pool.limits.freeze()
            page = await streams.reader.page(queue_stream("jobs"), 1)
            assert page is not None
            noted_by_another = QueueRecord(page.top.epoch, Mark(page.top.offset, page.top.fingerprint), None, [], 0)
            await streams.record("jobs", RETAIN["jobs"], encode_record(noted_by_another))
            held = b._node.ownership.clients["queue-dispatcher/jobs"]
            await b._node.directory.release([held.claim])
            await b._node.confirmation._claim_again([held])
            b._node.lease.hurry()
            await until(lambda: dispatcher(b) not in (None, former), "it starts again")
            desk.permit(10)
            await c.queue("jobs").send("n", 5)
            await until(lambda: len(desk.done) == 3)
        assert sorted(event.data for event in desk.done) == [0, 1, 5]


async def test_what_cannot_be_handled_is_reported_to_its_sender(uri: str) -> None:
    """Also if another node dispatches; and it does not come again."""
    async with buses(uri, 2, retain_queues=RETAIN) as (a, b):
        reports, inbox = Hooked(), Inbox()
        a.on_undeliverable(reports)
        id = await a.queue("jobs").send("n", 0, expires=0.0)
        await a.queue("jobs").send("n", 1)
        async with b.queue("jobs").consume(inbox):
            await inbox.got(1)
            await until(lambda: bool(reports))
            await noted(b)
        assert [(fate.id, fate.target, fate.reason) for fate in reports] == [(id, "jobs", "expired")]
        assert inbox.data == [1]


async def test_a_dispatcher_that_drains_hands_out_until_it_closes(uri: str) -> None:
    """Then another node does; no event comes twice."""
    async with buses(uri, 2, retain_queues=RETAIN) as (a, c):
        mine, others = Inbox(), Inbox()
        async with eventbus.connect(uri, namespace=a.namespace, retain_queues=RETAIN) as b:
            await b.queue("jobs").consume(mine).open()
            await a.queue("jobs").send("n", 0)
            await mine.got(1)
            await b.drain(over=0.0)
            async with c.queue("jobs").consume(others):
                await a.queue("jobs").send("n", 1)
                await others.got(1)
        async with c.queue("jobs").consume(others):
            await a.queue("jobs").send("n", 2)
            await others.got(2)
            await noted(c)
        assert (mine.data, others.data) == ([0], [1, 2])


async def test_a_dispatcher_that_closes_leaves_what_comes_back_to_the_next(uri: str) -> None:
    """It waits for an event that a consumer has; if that consumer dies, it closes at once."""
    async with buses(uri, 1, retain_queues=RETAIN, lease=LEASE) as (c,), tasks() as group:
        options: dict[str, Any] = {"namespace": c.namespace, "retain_queues": RETAIN, "lease": LEASE}
        desk, inbox = Desk(), Inbox()
        a = eventbus.connect(uri, close_timeout=10 * DEADLINE, **options)

        async def consume() -> None:
            async with crashing(uri, **options) as (b, crash):
                await b.queue("jobs").consume(desk).open()
                await until(lambda: a._node.dispatchers._withdrawn)  # type: ignore[union-attr]
                crash.set()
                await anyio.sleep_forever()

        with within_deadline("the dispatcher has closed"):
            async with a:
                async with a.queue("jobs").consume(Desk()):
                    await until(lambda: dispatcher(a) is not None)
                group.start_soon(consume)
                await c.queue("jobs").send("n", 1)
                await until(lambda: bool(desk.begun))
        async with c.queue("jobs").consume(inbox):
            await inbox.got(1)


async def test_what_is_sent_to_the_client_of_a_dispatcher_is_reported(uri: str) -> None:
    """It dispatches, and handles nothing."""
    async with buses(uri, 2, retain_queues=RETAIN) as (a, b), a.queue("jobs").consume(Inbox()):
        await until(lambda: dispatcher(a) is not None)
        for bus in (a, b):
            reports = Hooked()
            bus.on_undeliverable(reports)
            id = await bus.send("queue-dispatcher/jobs", "n")
            await until(lambda reports=reports: bool(reports))  # type: ignore[misc]
            assert [(fate.id, fate.reason) for fate in reports] == [(id, "no handler")]
            with pytest.raises(RequestFailed, match="no handler"):
                await bus.request("queue-dispatcher/jobs", "n", timeout=DEADLINE)
        assert a._node.pool.waiting() == 0


async def test_a_dispatcher_that_closes_waits_for_nothing_once_another_node_dispatches(uri: str) -> None:
    async with buses(uri, 1, retain_queues=RETAIN, lease=LEASE) as (c,), tasks() as group:
        options: dict[str, Any] = {"namespace": c.namespace, "retain_queues": RETAIN, "lease": LEASE}
        desk, a = Desk(), eventbus.connect(uri, close_timeout=10 * DEADLINE, **options)

        async def take_over() -> None:
            await until(lambda: a._node.dispatchers._withdrawn)  # type: ignore[union-attr]
            async with c.client("queue-dispatcher/jobs"):
                await anyio.sleep_forever()

        with within_deadline("the dispatcher has closed"):
            async with a:
                async with a.queue("jobs").consume(Desk()):
                    await until(lambda: dispatcher(a) is not None)
                await c.queue("jobs").consume(desk).open()
                await c.queue("jobs").send("n", 1)
                await until(lambda: bool(desk.begun))
                group.start_soon(take_over)
        desk.permit()


async def test_events_that_the_broker_lost_do_not_hide_later_ones(redis_server: RedisServer) -> None:
    """Their offsets come again; the next dispatcher knows of handled events that the history has no more."""
    async with buses(redis_server.uri, 1, retain_queues=RETAIN) as (a,):
        gaps, first, second = Hooked(), Inbox(), Inbox()
        for number in range(3):
            await a.queue("jobs").send("n", number)
        before = snapshot(redis_server)  # no record yet
        for number in range(3, 5):
            await a.queue("jobs").send("n", number)
        options: dict[str, Any] = {"namespace": a.namespace, "retain_queues": RETAIN}
        async with eventbus.connect(redis_server.uri, **options) as b, b.queue("jobs").consume(first):
            await first.got(5)
        go_back(redis_server, before)
        for number in range(5, 7):
            await a.queue("jobs").send("n", number)
        a.on_gap(gaps)
        async with a.queue("jobs").consume(second):
            await until(lambda: {5, 6} <= {*second.data}, "the new events are handled")
            await noted(a)
        assert [(gap.source, gap.reason, gap.missed) for gap in gaps] == [("jobs", "rolled_back", 0)]


async def test_a_dispatcher_notices_that_the_broker_lost_events(redis_server: RedisServer) -> None:
    async with buses(redis_server.uri, 1, retain_queues=RETAIN) as (a,):
        gaps, inbox, jobs = Hooked(), Inbox(), a.queue("jobs")
        a.on_gap(gaps)
        async with jobs.consume(inbox):
            for number in range(3):
                await jobs.send("n", number)
            await inbox.got(3)
            await noted(a)
            before = snapshot(redis_server)
            for number in range(3, 5):
                await jobs.send("n", number)
            await inbox.got(5)
            await noted(a)
            go_back(redis_server, before)
            for number in range(5, 8):
                await jobs.send("n", number)
            await until(lambda: {5, 6, 7} <= {*inbox.data}, "the new events are handled")
        assert {gap.reason for gap in gaps} == {"rolled_back"}


@pytest.mark.parametrize("sent", [0, 1])
async def test_a_dispatcher_that_begins_again_notices_that_the_broker_is_empty(
    redis_server: RedisServer, sent: int
) -> None:
    """The broker has lost the note on what is handled, too, and has ended the lease of the node that knows."""
    async with buses(redis_server.uri, 1, retain_queues=RETAIN) as (a,):
        gaps, inbox, jobs = Hooked(), Inbox(), a.queue("jobs")
        a.on_gap(gaps)
        async with jobs.consume(inbox):
            await jobs.send("n", 0)
            await inbox.got(1)
            await noted(a)
            before = dispatcher(a)
            assert before is not None
            before._next_page = anyio.sleep_forever  # type: ignore[method-assign]  # else it may notice first
            with Redis.from_url(redis_server.uri) as redis:
                redis.flushall()
            for number in range(sent):
                await jobs.send("n", 1 + number)
            a._node.lease.hurry()
            await until(lambda: bool(gaps), "the next dispatcher has noticed it")
            await jobs.send("n", 1 + sent)
            await inbox.got(2 + sent)
            assert dispatcher(a) is not before
        assert [(gap.source, gap.reason) for gap in gaps] == [("jobs", "new_stream")]


async def test_a_queue_that_ended_as_no_event_came_is_not_told_to_be_lost(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node reads it until its end, but the event in it was read long before."""
    async with buses(redis_server.uri, 1, retain_queues=RETAIN) as (a,):
        gaps, inbox, jobs = Hooked(), Inbox(), a.queue("jobs")
        a.on_gap(gaps)
        async with jobs.consume(inbox):
            await jobs.send("n", 0)
            await inbox.got(1)
            await noted(a)
            before = dispatcher(a)
            assert before is not None
            monkeypatch.setattr(queue_dispatcher, "monotonic", lambda: monotonic() + POSITION_LIFE)
            read, reads = before._next_page, list[object]()

            async def counted() -> Page | None:
                page = await read()
                reads.append(page)
                return page

            before._next_page = counted  # type: ignore[method-assign]
            before.wake()
            await until(lambda: len(reads) > 1, "the stream was read again")
            before._next_page = anyio.sleep_forever  # type: ignore[method-assign]
            with Redis.from_url(redis_server.uri) as redis:
                redis.flushall()
            a._node.lease.hurry()
            await until(lambda: dispatcher(a) not in (None, before))
            await jobs.send("n", 1)
            await inbox.got(2)
        assert list(gaps) == []


async def test_a_node_sends_to_a_limited_number_of_retained_queues() -> None:
    options: dict[str, Any] = {"retain_queues": {"jobs/*": Retention()}, "max_retained_topics": 1}
    async with buses("memory://tests", 1, **options) as (a,):
        await a.queue("jobs/1").send("n")
        with pytest.raises(LimitExceeded, match=r"^'jobs/2' cannot be retained too"):
            await a.queue("jobs/2").send("n")


@pytest.mark.parametrize("encrypt", [False, True])
async def test_sealed_queues_are_kept_too(encrypt: bool) -> None:
    if encrypt:
        pytest.importorskip("cryptography")
    options: dict[str, Any] = {
        "namespace": fresh_namespace(),
        "retain_queues": RETAIN,
        "secret": "s" * 32,
        "encrypt": encrypt,
    }
    async with buses("memory://tests", 1, **options) as (a,):
        for number in range(3):
            inbox = Inbox()
            await a.queue("jobs").send("n", number)
            async with eventbus.connect("memory://tests", **options) as b, b.queue("jobs").consume(inbox):
                await inbox.got(1)
            assert inbox.data == [number]
        assert sum(a.stats().refused.values()) == 0


async def test_all_nodes_retain_the_same_queues(uri: str) -> None:
    async with buses(uri, 1, retain_queues=RETAIN) as (a,):
        with pytest.raises(NamespaceMismatch, match="has the retention 'retain_queues="):
            async with eventbus.connect(uri, namespace=a.namespace):
                pass


@pytest.mark.parametrize("name", ["no spaces", "a/b/c", "", 7])
def test_a_name_that_no_queue_can_have_is_not_retained(name: str) -> None:
    with pytest.raises(InvalidName, match="is not a valid queue"):
        eventbus.connect("memory://", retain_queues={name: Retention()})


def test_a_backend_without_history_retains_no_queue() -> None:
    class Plain(MemoryTransport):
        capabilities = attrs.evolve(MemoryTransport.capabilities, history=False)

    eventbus.register("forgetful", Plain)
    with pytest.raises(ConfigurationError, match="leave out retain, retain_clients and retain_queues"):
        eventbus.connect("forgetful://", retain_queues=RETAIN)
