"""Queues: each event is handled by one consumer, whatever becomes of the others."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from time import monotonic, time

import anyio
import pytest
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

import eventbus
from eventbus import Bus, BusClosed, Event, InvalidName, OptionError, TransportUnavailable
from eventbus_core.membership.held_client import HeldClient
from eventbus_core.model.event import encode_event
from eventbus_core.node import queue_receiver
from eventbus_core.routing import queues, work_queue
from eventbus_core.routing.queues import Offer
from tests.support import DEADLINE, Hooked, Inbox, buses, fresh_namespace, tasks, until, within_deadline
from tests.workers import Desk, crashing

ASKING = True
LEASE = 2.0


async def empty(*nodes: Bus) -> None:
    """Return once all that *nodes* sent to queues was handled or reported."""
    await until(lambda: not any(bus.stats().queued_events for bus in nodes), "the queues are empty")


async def test_each_event_goes_to_one_consumer(uri: str) -> None:
    """Consumers of all nodes, that of the sender included, share the events; each comes to one of them."""
    async with buses(uri, 3) as nodes:
        inboxes = [Inbox() for _ in nodes]
        async with anyio.create_task_group() as group:
            for bus, inbox in zip(nodes, inboxes, strict=True):
                await group.start(_consume, bus, inbox)
            for number in range(60):
                await nodes[number % 3].queue("jobs").send("job.new", number, headers={"h": "1"})
            await empty(*nodes)
            group.cancel_scope.cancel()
        handled = [event for inbox in inboxes for event in inbox.events]
        assert sorted(event.data for event in handled) == list(range(60))
        assert all(inbox.data for inbox in inboxes)
        assert {(event.type, event.target, event.reply_to) for event in handled} == {("job.new", "jobs", None)}
        assert all(event.headers == {"h": "1"} for event in handled)
        assert all(event.source == f"@n{event.data % 3}" for event in handled)
        assert sum(bus.stats().accepted for bus in nodes) == 60


async def _consume(bus: Bus, function: Inbox, *, task_status: anyio.abc.TaskStatus[None]) -> None:
    async with bus.queue("jobs").consume(function):
        task_status.started()
        await anyio.sleep_forever()


async def test_an_event_that_is_sent_to_the_client_of_a_consumer_is_an_error(uri: str) -> None:
    """As with every handler that fails it is logged, counted, and told to ``on_error`` of its node."""
    async with buses(uri, 2) as (a, b):
        errors = Hooked()
        a.on_error(errors)
        async with a.queue("jobs").consume(Inbox()) as consumer:
            await b.send(consumer.name, "n")
            await until(lambda: bool(errors))
        assert [(event.type, "send to queue 'jobs'" in str(error)) for event, error in errors] == [("n", True)]


async def test_no_event_waits_for_a_busy_consumer_while_another_is_free(uri: str) -> None:
    """Two nodes send; one consumer works on its first event; the other one handles all the rest."""
    async with buses(uri, 3) as (a, b, c):
        slow, fast = Desk(), Inbox()
        async with b.queue("jobs").consume(slow):
            await a.queue("jobs").send("n", -1)
            await until(lambda: bool(slow.begun))
            async with c.queue("jobs").consume(fast):
                ids = [await bus.queue("jobs").send("n", number) for number in range(20) for bus in (a, c, b)]
                await fast.got(60)
                assert sorted(event.id for event in fast.events) == sorted(ids)
                assert len(slow.begun) == 1
                slow.permit()
                await empty(a, b, c)


async def test_events_of_one_sender_come_in_order_to_one_consumer(uri: str) -> None:
    async with buses(uri, 2) as (a, b):
        inbox = Inbox()
        for number in range(100):
            await a.queue("jobs").send("n", number)
        async with b.queue("jobs").consume(inbox):
            await empty(a)
        assert inbox.data == list(range(100))


async def test_the_consumers_of_an_idle_queue_stay_known(uri: str) -> None:
    """The next event goes to one of them at once; no node is asked again."""
    async with buses(uri, 2) as (a, b):
        inbox = Inbox()
        async with b.queue("jobs").consume(inbox):
            for number in range(3):
                await a.queue("jobs").send("n", number)
                assert a.stats().pending_requests == bool(number)
                await empty(a)


async def test_senders_take_turns(uri: str) -> None:
    """A sender with one event does not wait until those of another are handled that came before."""
    async with buses(uri, 3) as (a, b, c):
        desk = Desk()
        async with c.queue("jobs").consume(desk):
            for number in range(50):
                await a.queue("jobs").send("n", number)
            await until(lambda: bool(desk.begun))
            await b.queue("jobs").send("n", 0)
            await until(lambda: _refused(c) == ["n1"])
            for done in range(1, 4):
                desk.permit()
                await until(lambda done=done: len(desk.begun) > done)  # type: ignore[misc]
            desk.permit(100)
            await empty(a, b)
        assert "@n1" in [event.source for event in desk.begun[:4]]


async def test_a_sender_without_an_event_passes_its_turn(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No sender has to ask for consumers again because another one got a turn and had nothing to send."""
    monkeypatch.setattr(work_queue, "FIND_EVERY", 2 * DEADLINE)
    async with buses(uri, 3) as (a, b, c):
        desk = Desk()
        async with c.queue("jobs").consume(desk):
            for number in range(10):
                await a.queue("jobs").send("n", number)
            await until(lambda: bool(desk.begun))
            await b.queue("jobs").send("n", 0)
            await c.queue("jobs").send("n", 0)
            await until(lambda: sorted(_refused(c)) == ["n1", "n2"])
            desk.permit(100)
            await empty(a, b, c)
        assert len(desk.done) == 12


async def test_a_turn_of_a_node_that_died_goes_to_the_next_at_once(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long before the lease of that node ends, or the next sender asks for consumers again."""
    monkeypatch.setattr(work_queue, "FIND_EVERY", 4 * DEADLINE)
    async with buses(uri, 2, lease=4 * DEADLINE, close_timeout=0.1) as (a, c):
        desk, waiting = Desk(), a._node.queues
        async with c.queue("jobs").consume(desk):
            for number in range(3):
                await a.queue("jobs").send("n", number)
            await until(lambda: bool(desk.begun) and not waiting._queues["jobs"].tend(monotonic()))
            async with crashing(uri, namespace=a.namespace, lease=4 * DEADLINE, node="b") as (b, crash):
                await b.queue("jobs").send("n", -1)
                await until(lambda: _refused(c) == ["b"])
                monkeypatch.setattr(b._node.ownership, "leave", checkpoint)
                crash.set()
                await anyio.sleep_forever()
            desk.permit(3)
            await empty(a)
        assert [event.data for event in desk.done] == [0, 1, 2]


def _refused(bus: Bus) -> list[str]:
    """Return the nodes that wait for a turn at the consumers of *bus*."""
    return [node for consumer in bus._node.consumers._consumers.values() for node in consumer._refused]


async def test_concurrency_bounds_the_calls_of_a_function(uri: str) -> None:
    async with buses(uri, 2) as (a, b):
        desk = Desk()
        async with b.queue("jobs").consume(desk, concurrency=3):
            for number in range(10):
                await a.queue("jobs").send("n", number)
            await until(lambda: len(desk.begun) == 3)
            for done in range(1, 8):
                desk.permit()
                await until(lambda done=done: len(desk.begun) == 3 + done)  # type: ignore[misc]
                assert len(desk.begun) - len(desk.done) == 3
            desk.permit(3)
            await empty(a)


async def test_what_no_node_consumes_waits_and_is_bounded(uri: str) -> None:
    """Beyond ``mailbox_events`` a send waits for its timeout and raises; a consumer that comes gets all that waits."""
    async with buses(uri, 2, mailbox_events=10) as (a, b):
        jobs, inbox = a.queue("jobs"), Inbox()
        for number in range(10):
            await jobs.send("n", number)
        with pytest.raises(TransportUnavailable, match="'jobs'"):
            await jobs.send("n", 10, timeout=0)
        async with tasks() as group:
            group.start_soon(jobs.send, "n", 10)
            async with b.queue("jobs").consume(inbox):
                await inbox.got(11)
                await empty(a)
        assert inbox.data == list(range(11))


async def test_idle_queues_are_forgotten_without_a_look_at_all_queues_for_each_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forget = queues.Queues._forget_idle
    looks: list[int] = []

    def counted(self: queues.Queues) -> None:
        looks.append(len(self._queues))
        forget(self)

    monkeypatch.setattr(queues, "MAX_QUEUES", 4)
    monkeypatch.setattr(queues.Queues, "_forget_idle", counted)
    async with eventbus.connect() as bus:
        for number in range(100):
            await bus.queue(f"waits.{number}").send("n")
        assert len(looks) <= 6
        async with bus.queue("jobs").consume(lambda _event: None):
            known = bus._node.queues._queues
            await bus.queue("jobs").send("n")
            await until(lambda: not len(known["jobs"]))
            for number in range(200):
                await bus.queue(f"more.{number}").send("n")
            assert "jobs" not in known


async def test_the_bytes_that_wait_are_bounded(uri: str) -> None:
    async with buses(uri, 1, mailbox_size=10_000) as (a,):
        for _ in range(10):
            await a.queue("jobs").send("n", b"x" * 1000, timeout=0)
        with pytest.raises(TransportUnavailable):
            await a.queue("jobs").send("n", timeout=0)


async def test_a_consumer_that_leaves_finishes_its_event_and_takes_no_other(uri: str) -> None:
    async with buses(uri, 3) as (a, b, c):
        first, second = Desk(), Inbox()
        consumer = await b.queue("jobs").consume(first).open()
        for number in range(5):
            await a.queue("jobs").send("n", number)
        await until(lambda: bool(first.begun))
        async with c.queue("jobs").consume(second), tasks() as group:
            group.start_soon(consumer.aclose)
            await second.got(4)
            first.permit()
            await empty(a)
            await consumer.aclose()
        assert [event.data for event in first.done] == [0]
        assert sorted(second.data) == [1, 2, 3, 4]
        assert a.stats().redelivered == 0


async def test_a_consumer_on_a_node_that_drains_finishes_its_event_and_takes_no_other(uri: str) -> None:
    async with buses(uri, 3) as (a, b, c):
        first, second = Desk(), Inbox()
        await b.queue("jobs").consume(first).open()
        for number in range(5):
            await a.queue("jobs").send("n", number)
        await until(lambda: bool(first.begun))
        async with c.queue("jobs").consume(second), tasks() as group:
            group.start_soon(b.drain, 0.1)
            await second.got(4)
            with pytest.raises(eventbus.NodeDraining):
                await b.queue("jobs").consume(first).open()
            first.permit()
            await empty(a)
        assert [event.data for event in first.done] == [0]
        assert sorted(second.data) == [1, 2, 3, 4]
        assert a.stats().redelivered == 0


async def test_no_consumer_on_a_node_that_drains_takes_an_event_while_another_finishes_one(uri: str) -> None:
    async with buses(uri, 3) as (a, b, c):
        busy, other, elsewhere = Desk(), Desk(), Inbox()
        for desk in (busy, other):
            await b.queue("jobs").consume(desk).open()
        for number in range(5):
            await a.queue("jobs").send("n", number)
        await until(lambda: bool(busy.begun and other.begun))
        async with tasks() as group:
            group.start_soon(b.drain, 0.0)
            await until(lambda: b.state == "draining")
            other.permit(5)
            await until(lambda: a.stats().queued_events <= 4)
            async with c.queue("jobs").consume(elsewhere):
                await elsewhere.got(3)
                busy.permit()
                await empty(a)
        assert (len(busy.done), len(other.done)) == (1, 1)


async def test_calls_that_wait_on_a_node_that_drains_end(uri: str) -> None:
    async with buses(uri, 2) as (a, b), b.queue("jobs").consume() as consumer:
        async with tasks() as group:
            group.start_soon(b.drain, 0.0)
            for _ in range(2):  # a call that waits, and a later one
                with within_deadline("the call has ended"), pytest.raises(eventbus.NodeDraining):
                    await consumer.receive()
        await a.queue("jobs").send("n", 1)
        async with a.queue("jobs").consume() as other:
            with within_deadline("another consumer gets the event"):
                assert (await other.receive()).data == 1


async def test_a_handler_that_is_cancelled_as_its_bus_closes_leaves_its_event_to_another(uri: str) -> None:
    """The other consumer gets the same id."""
    async with buses(uri, 2) as (a, c):
        namespace = a.namespace
        first, second = Desk(), Inbox()
        async with eventbus.connect(uri, namespace=namespace, close_timeout=0.1) as b:
            await b.queue("jobs").consume(first).open()
            id = await a.queue("jobs").send("n", 1)
            await until(lambda: bool(first.begun))
        async with c.queue("jobs").consume(second):
            await empty(a)
        assert ([event.id for event in second.events], first.done, a.stats().redelivered) == ([id], [], 1)
        assert a.stats().undeliverable == 0


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("ported", [False, True], ids=["bus", "portal"])
async def test_a_task_that_asyncio_cancels_waits_for_no_event_of_its_consumer(uri: str, ported: bool) -> None:
    """The function hangs; the cancellation comes once, so a wait as the block is left would never end."""
    async with buses(uri, 2) as (a, b), a.queue("other").consume(Inbox()):
        first, second = Desk(), Inbox()

        async def consume() -> None:
            async with (b.portal() if ported else b).queue("jobs").consume(first):
                await asyncio.sleep(1000)

        task = asyncio.create_task(consume())
        await a.queue("jobs").send("n", 1)
        await until(lambda: bool(first.begun))
        task.cancel()
        await asyncio.wait([task], timeout=DEADLINE)
        assert task.cancelled()
        async with a.queue("jobs").consume(second):
            await second.got(1)


async def test_the_event_of_a_consumer_that_dies_goes_to_another(uri: str) -> None:
    """Two events were with the node that dies; both come again, and no other does."""
    async with buses(uri, 2, lease=LEASE) as (a, c):
        reports = Hooked()
        a.on_undeliverable(reports)
        first, second = Desk(), Inbox()
        ids = []
        async with crashing(uri, namespace=a.namespace, lease=LEASE) as (b, crash):
            await b.queue("jobs").consume(first, concurrency=2).open()
            ids += [await a.queue("jobs").send("n", number) for number in range(6)]
            await until(lambda: len(first.begun) == 2)
            crash.set()
            await anyio.sleep_forever()
        async with c.queue("jobs").consume(second):
            await empty(a)
        assert sorted(event.id for event in second.events) == sorted(ids)
        assert (a.stats().redelivered, reports) == (2, [])


async def test_no_event_goes_to_other_consumers_of_a_dead_node(uri: str) -> None:
    """Only the event that was with it comes again."""
    async with buses(uri, 2, lease=LEASE) as (a, c):
        first, second = Desk(), Desk()
        async with crashing(uri, namespace=a.namespace, lease=LEASE) as (b, crash):
            for _ in range(5):
                await b.queue("jobs").consume(first).open()
            await a.queue("jobs").send("n", 0)
            await until(lambda: bool(first.begun))
            crash.set()
            await anyio.sleep_forever()
        await until(lambda: a.stats().redelivered == 1)
        async with c.queue("jobs").consume(second):
            await a.queue("jobs").send("n", 1)
            second.permit(2)
            await empty(a)
        assert a.stats().redelivered == 1


async def test_an_event_for_a_consumer_that_is_gone_unheard_goes_to_another(uri: str) -> None:
    """The word that it closed was lost: the node where it was says so."""
    async with buses(uri, 3) as (a, b, c):
        inbox = Inbox()
        await a.queue("jobs").send("n", 0)
        a._node.queues._take(Offer("jobs", "queue/jobs.gone", b.node, 1))
        assert a.stats().queued_events == 1
        async with c.queue("jobs").consume(inbox):
            await empty(a)
        assert (inbox.data, a.stats().redelivered, a.stats().undeliverable) == ([0], 1, 0)


async def test_a_bus_that_closes_lets_its_consumers_finish(uri: str) -> None:
    async with buses(uri, 1) as (a,):
        desk = Desk()
        async with tasks() as group:
            async with eventbus.connect(uri, namespace=a.namespace) as b:

                async def permit() -> None:
                    await until(lambda: not a._node.queues._queues["jobs"]._consumers, "it takes no more")
                    desk.permit()

                await b.queue("jobs").consume(desk).open()
                await a.queue("jobs").send("n", 0)
                await until(lambda: bool(desk.begun))
                group.start_soon(permit)
            await empty(a)
        assert ([event.data for event in desk.done], a.stats().redelivered) == ([0], 0)


async def test_a_handler_that_raises_has_handled_its_event(uri: str) -> None:
    """It is told to ``on_error`` of the consumer's node, and does not come again."""
    async with buses(uri, 2) as (a, b):
        errors, reports = Hooked(), Hooked()
        b.on_error(errors)
        a.on_undeliverable(reports)

        async def fail(event: Event) -> None:
            raise RuntimeError(event.data)

        def fail_at_once(event: Event) -> None:
            raise RuntimeError(event.data)

        for function in (fail, fail_at_once):
            async with b.queue("jobs").consume(function):
                await a.queue("jobs").send("n", 1)
                await empty(a)
        await until(lambda: len(errors) == 2)
        assert all(event.data == 1 and isinstance(error, RuntimeError) for event, error in errors)
        assert (a.stats().redelivered, b.stats().handler_failures, reports) == (0, 2, [])


async def test_an_event_that_expires_is_reported(uri: str) -> None:
    async with buses(uri, 2) as (a, b):
        reports, inbox = Hooked(), Inbox()
        a.on_undeliverable(reports)
        id = await a.queue("jobs").send("n", 1, expires=0.0)
        async with b.queue("jobs").consume(inbox):
            await empty(a)
        await until(lambda: bool(reports))
        assert [(fate.id, fate.target, fate.reason) for fate in reports] == [(id, "jobs", "expired")]
        assert inbox.data == []


async def test_an_event_that_expires_before_a_consumer_comes_is_reported_and_makes_room(uri: str) -> None:
    async with buses(uri, 2, mailbox_events=3) as (a, b):
        reports, inbox = Hooked(), Inbox()
        a.on_undeliverable(reports)
        jobs = a.queue("jobs")
        await jobs.send("n", 0)
        ids = [await jobs.send("n", number, expires=0.0) for number in (1, 2)]
        await jobs.send("n", 3, timeout=DEADLINE)
        await until(lambda: len(reports) == 2)
        assert [(fate.id, fate.target, fate.reason) for fate in reports] == [(id, "jobs", "expired") for id in ids]
        async with b.queue("jobs").consume(inbox):
            await empty(a)
        assert inbox.data == [0, 3]


async def test_what_waits_as_its_sender_closes_is_handled_or_reported(
    uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With a consumer the bus waits for it, for ``close_timeout``; without one it reports at once."""
    caplog.set_level(logging.WARNING, "eventbus")
    async with buses(uri, 1) as (b,):
        inbox, reports = Inbox(), Hooked()
        async with b.queue("jobs").consume(inbox), eventbus.connect(uri, namespace=b.namespace) as a:
            for number in range(50):
                await a.queue("jobs").send("n", number)
        assert sorted(inbox.data) == list(range(50))
        async with eventbus.connect(uri, namespace=b.namespace, close_timeout=DEADLINE) as a:
            a.on_undeliverable(reports)
            ids = [await a.queue("none").send("n", number) for number in range(3)]
        assert [(fate.id, fate.reason) for fate in reports] == [(id, "bus closed") for id in ids]
        assert "gave up 3 events of queues that no consumer handled" in caplog.text


async def test_the_log_of_a_bus_that_closes_too_late_counts_the_events_of_queues(
    uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "eventbus")
    async with buses(uri, 1) as (b,), b.queue("jobs").consume(desk := Desk()):
        async with eventbus.connect(uri, namespace=b.namespace, close_timeout=0.1) as a:
            await a.queue("jobs").send("n")
            await until(lambda: bool(desk.begun))
        assert "and 1 unhandled events of queues, as close_timeout has passed" in caplog.text
        assert "gave up 1 events of queues" in caplog.text
        desk.permit()


async def test_queues_and_consumers_name_themselves(uri: str) -> None:
    async with buses(uri, 1) as (a,):
        consumer = a.queue("jobs").consume(Inbox())
        assert repr(consumer) == f"<Consumer {consumer.name!r} of queue 'jobs'>"
        assert repr(a.queue("jobs")) == "<Queue 'jobs' of node 'n0'>"
        assert repr(a.portal().queue("jobs")) == "<PortalQueue of <Queue 'jobs' of node 'n0'>>"
        assert repr(a.client("bob")) == "<Client 'bob' of node 'n0'>"
    blocking = eventbus.connect_blocking(node="b")
    assert repr(blocking.queue("jobs")) == "<BlockingQueue 'jobs' of node 'b'>"
    assert repr(blocking.queue("jobs").consume(print)).startswith("<BlockingConsumer of <Consumer 'queue/jobs.")


async def test_consumers_of_a_bus_that_closes_take_only_its_own_events(uri: str) -> None:
    async with buses(uri, 2) as (a, c):
        desk, elsewhere = Desk(), Inbox()
        async with tasks() as group, eventbus.connect(uri, namespace=a.namespace, close_timeout=DEADLINE) as b:
            await b.queue("jobs").consume(desk).open()
            await b.queue("jobs").send("n", 0)
            await until(lambda: bool(desk.begun))
            await a.queue("jobs").send("n", -1)
            await until(lambda: _refused(b) == ["n0"])
            for number in range(1, 5):
                await b.queue("jobs").send("n", number)

            async def closing() -> None:
                await until(lambda: b.state == "closed")
                await c.queue("jobs").send("n", -2)
                desk.permit(5)

            group.start_soon(closing)
        assert [event.data for event in desk.done] == list(range(5))
        async with c.queue("jobs").consume(elsewhere):
            await empty(a, c)
        assert sorted(elsewhere.data) == [-2, -1]
        assert a.stats().redelivered == c.stats().redelivered == 0


async def test_an_event_that_its_consumer_cannot_decode_is_reported(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one of a newer version; the consumer goes on with the next events, also with those of other nodes."""

    def encode(event: Event) -> bytes:
        return b"\xc0" if event.type == "newer" else encode_event(event)

    monkeypatch.setattr(queues, "encode_event", encode)
    monkeypatch.setattr(work_queue, "FIND_EVERY", 2 * DEADLINE)
    async with buses(uri, 3) as (a, b, c):
        desk, reports, errors = Desk(), Hooked(), Hooked()
        b.on_undeliverable(reports)
        c.on_error(errors)
        async with c.queue("jobs").consume(desk):
            await a.queue("jobs").send("n", 0)
            await until(lambda: bool(desk.begun))
            id = await b.queue("jobs").send("newer", 1)
            await until(lambda: _refused(c) == ["n1"])
            await c.queue("jobs").send("n", 2)
            await until(lambda: _refused(c) == ["n1", "n2"])
            desk.permit(3)
            await until(lambda: len(desk.done) == 2)
            await b.queue("jobs").send("n", 3)
            await empty(a, b, c)
        assert [(fate.id, fate.reason) for fate in reports] == [(id, "refused")]
        assert sorted(event.data for event in desk.done) == [0, 2, 3]
        assert [type(error) for _event, error in errors] == [eventbus.EventDataError]
        assert b.stats().redelivered == 0


async def test_a_consumer_whose_client_is_claimed_elsewhere_takes_nothing_more(uri: str) -> None:
    async with buses(uri, 2) as (a, b):
        inbox, other = Inbox(), Inbox()
        consumer = await a.queue("jobs").consume(inbox).open()
        async with b.client(consumer.name, handler=lambda _event: None):
            await consumer.ended()
            async with b.queue("jobs").consume(other):
                await a.queue("jobs").send("n", 1)
                await other.got(1)
                await empty(a)
        assert (inbox.data, a.stats().redelivered) == ([], 0)


async def test_a_consumer_whose_client_is_claimed_elsewhere_as_it_opens_takes_nothing(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that is retained subscribes after it was claimed; meanwhile its handle may end."""
    async with buses(uri, 2, retain_clients={"queue/*": eventbus.Retention()}) as (a, b):
        consumer = a.queue("jobs").consume(Inbox())
        node, claimed, go_on = a._node, anyio.Event(), anyio.Event()
        join = node.client_subscriptions.join

        async def pause(held: HeldClient, pattern: str) -> None:
            await join(held, pattern)
            claimed.set()
            await go_on.wait()

        async def open() -> None:
            with pytest.raises(eventbus.ClientTakenOver):
                await consumer.open()

        monkeypatch.setattr(node.client_subscriptions, "join", pause)
        async with tasks() as group:
            group.start_soon(open)
            await claimed.wait()
            async with b.client(consumer.name, handler=lambda _event: None):
                await until(lambda: consumer.name not in node.ownership.clients)
                go_on.set()
        assert not node.consumers.stays(consumer.name)


async def test_a_consumer_without_a_function_returns_the_events(uri: str) -> None:
    """An event is handled as it is returned; a consumer that is not asked takes none."""
    async with buses(uri, 3) as (a, b, c), c.queue("jobs").consume() as idle:
        jobs, numbers = a.queue("jobs"), list[int]()
        async with b.queue("jobs").consume() as consumer:
            for number in range(5):
                await jobs.send("n", number)
            assert jobs.waiting == 5
            async for event in consumer:
                numbers.append(event.data)
                if len(numbers) == 3:
                    break
            await until(lambda: jobs.waiting == 2)
        with within_deadline("the next events come to the other consumer"):
            numbers += [(await idle.receive()).data, (await idle.receive()).data]
        await empty(a)
        assert sorted(numbers) == list(range(5))
        assert a.queue("none").waiting == 0


async def test_calls_that_are_cancelled_lose_and_double_no_event(uri: str) -> None:
    async with buses(uri, 2) as (a, b), a.queue("jobs").consume() as one, b.queue("jobs").consume() as two:
        got: list[int] = []

        async def receive(consumer: eventbus.Consumer) -> None:
            with within_deadline("all events came"):
                while len(got) < 200:
                    with anyio.move_on_after(0.001 * (len(got) % 3)):
                        got.append((await consumer.receive()).data)

        async with tasks() as group:
            for consumer in (one, one, two):
                group.start_soon(receive, consumer)
            for number in range(200):
                await a.queue("jobs").send("n", number)
                await checkpoint()
            await until(lambda: len(got) >= 200)
        assert sorted(got) == list(range(200))


async def test_calls_that_wait_learn_of_the_end_of_their_consumer(uri: str) -> None:
    async with buses(uri, 1) as (b,), tasks() as group:
        errors: list[Exception] = []

        async def receive(consumer: eventbus.Consumer) -> None:
            try:
                await consumer.receive()
            except BusClosed as error:
                errors.append(error)

        consumer = await b.queue("jobs").consume().open()
        async with eventbus.connect(uri, namespace=b.namespace) as a:
            other = await a.queue("jobs").consume().open()
            for each in (consumer, other):
                group.start_soon(receive, each)
            await until(lambda: consumer._receiver._calls == other._receiver._calls == 1)  # type: ignore[union-attr]
            await consumer.aclose()
            await until(lambda: len(errors) == 1)
        await until(lambda: len(errors) == 2)
        with pytest.raises(BusClosed, match=r"^consumer 'queue/jobs\..*' is not open"):
            await consumer.receive()
        with pytest.raises(BusClosed, match=r"^consumer 'queue/jobs\..*' cannot be opened again"):
            await consumer.open()
        async with b.queue("jobs").consume(Inbox()) as calling:
            with pytest.raises(eventbus.EventBusError, match="calls a function with its events"):
                await calling.receive()


async def test_faults_of_the_caller_raise_at_once(uri: str) -> None:
    async with buses(uri, 1) as (a,):
        for name in ("no spaces", "", "@jobs", "a/b/c", 7):
            with pytest.raises(InvalidName, match="is not a valid queue"):
                a.queue(name)  # type: ignore[arg-type]
        for concurrency in (0, -1, 1.5, True, "2"):
            with pytest.raises(OptionError, match="concurrency"):
                a.queue("jobs").consume(Inbox(), concurrency=concurrency)  # type: ignore[arg-type]
        with pytest.raises(InvalidName):
            await a.queue("jobs").send("no spaces")
        with pytest.raises(eventbus.EventDataError):
            await a.queue("jobs").send("n", object())
        jobs = a.queue("jobs")
    with pytest.raises(BusClosed):
        await jobs.send("n")
    with pytest.raises(BusClosed):
        await jobs.consume(Inbox()).open()


async def test_queues_from_other_threads_and_loops(uri: str) -> None:
    async with buses(uri, 1) as (a,):
        inbox, seen, over = list[Event](), list[Event](), threading.Event()

        def elsewhere() -> None:
            async def use() -> None:
                async with a.portal().queue("jobs").consume(inbox.append) as consumer:
                    assert consumer.name.startswith("queue/jobs.")
                    await a.portal().queue("jobs").send("n", 1)
                    await anyio.to_thread.run_sync(over.wait)

            anyio.run(use)

        def receiving() -> None:
            async def use() -> None:
                queue = a.portal().queue("other")
                async with queue.consume() as consumer:
                    await queue.send("n", 3)
                    assert (await consumer.receive()).data == 3
                    await until(lambda: not queue.waiting)

            anyio.run(use)
            with eventbus.connect_blocking() as bus, bus.queue("jobs").consume() as consumer:
                bus.queue("jobs").send("n", 4)
                assert consumer.receive(DEADLINE).data == 4
                bus.queue("jobs").send("n", 5)
                assert next(iter(consumer)).data == 5
                with pytest.raises(eventbus.RequestTimeout):
                    consumer.receive(0.01)

        def blocking() -> None:
            with eventbus.connect_blocking() as bus, bus.queue("jobs").consume(seen.append):
                bus.queue("jobs").send("n", 2)

        async with tasks() as group:
            group.start_soon(anyio.to_thread.run_sync, elsewhere)
            await until(lambda: [event.data for event in inbox] == [1])
            over.set()
            await anyio.to_thread.run_sync(blocking)
            await anyio.to_thread.run_sync(receiving)
            assert [event.data for event in seen] == [2]


class _World:
    """Nodes that send and consume; some of them crash."""

    def __init__(self, uri: str, group: TaskGroup) -> None:
        self.uri = uri
        self.namespace = fresh_namespace()
        self.handled: Counter[str] = Counter()
        self.doubtful: set[str] = set()  # were with a consumer that crashed
        self.sent: set[str] = set()
        self._group = group
        self._numbers = 0

    async def add(self, concurrency: int) -> _Worker:
        """Add a node with a consumer."""
        worker = _Worker(self, concurrency)
        await self._group.start(worker.run)
        return worker


class _Worker:
    def __init__(self, world: _World, concurrency: int) -> None:
        self._world = world
        self._concurrency = concurrency
        self._touched: set[str] = set()
        self._end, self._ended, self._crash = anyio.Event(), anyio.Event(), anyio.Event()

    async def run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        world = self._world
        async with (
            crashing(world.uri, namespace=world.namespace, lease=LEASE) as (bus, self._crash),
            bus.queue("jobs").consume(self._handle, concurrency=self._concurrency),
        ):
            task_status.started()
            await self._end.wait()
        self._ended.set()

    async def stop(self, *, crash: bool) -> None:
        """Leave in good order, or crash."""
        if crash:
            self._world.doubtful |= self._touched
            self._crash.set()
        self._end.set()
        await self._ended.wait()
        if crash:
            self._world.doubtful |= self._touched

    async def _handle(self, event: Event) -> None:
        self._touched.add(event.id)
        await checkpoint()
        self._world.handled[event.id] += 1


STEPS = st.one_of(
    st.tuples(st.just("send"), st.integers(0, 1), st.integers(1, 30)),
    st.tuples(st.just("add"), st.sampled_from([1, 2, 16]), st.just(0)),
    st.tuples(st.sampled_from(["leave", "crash"]), st.integers(0, 3), st.just(0)),
)


@settings(max_examples=10, deadline=None)
@given(steps=st.lists(STEPS, min_size=4, max_size=12))
async def test_every_event_is_handled_and_twice_only_if_a_consumer_died_with_it(
    uri: str, steps: list[tuple[str, int, int]]
) -> None:
    """Consumers come, go and crash in the midst of their work; senders know nothing of it."""
    async with anyio.create_task_group() as group:
        world = _World(uri, group)
        async with buses(uri, 2, namespace=world.namespace, lease=LEASE) as senders:
            reports = Hooked()
            for bus in senders:
                bus.on_undeliverable(reports)
            workers: list[_Worker] = []
            for step, number, count in steps:
                if step == "send":
                    world.sent |= {await senders[number].queue("jobs").send("n", place) for place in range(count)}
                elif step == "add":
                    workers.append(await world.add(number))
                elif workers:
                    await workers.pop(number % len(workers)).stop(crash=step == "crash")
            workers.append(await world.add(4))
            await empty(*senders)
            assert set(world.handled) == world.sent
            assert {id for id, times in world.handled.items() if times > 1} <= world.doubtful
            assert reports == []
            for worker in workers:
                await worker.stop(crash=False)


async def test_a_consumer_that_takes_ahead_confirms_what_calls_return(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes nothing before the first call; what it has when it ends goes to another, in order."""
    async with buses(uri, 2) as (a, b):
        jobs = a.queue("jobs")
        async with b.queue("jobs").consume(concurrency=4) as consumer:
            monkeypatch.setattr(consumer._receiver, "tend", lambda: None)
            for number in range(10):
                await jobs.send("n", number)
            got = [(await consumer.receive()).data for _ in range(3)]
            await until(lambda: len(_ahead(consumer)) == 4)
            await until(lambda: jobs.waiting == 7)
        async with b.queue("jobs").consume(concurrency=4) as consumer:
            with within_deadline("the others have come"):
                got += [(await consumer.receive()).data for _ in range(7)]
        await empty(a)
        assert got == list(range(10))


def _ahead(consumer: eventbus.Consumer) -> list[object]:
    assert consumer._receiver is not None
    return list(consumer._receiver._taken)


async def test_events_taken_ahead_go_to_a_free_consumer(uri: str) -> None:
    """Once no call has come for them for a while; that consumer gets others when it calls again."""
    async with buses(uri, 3) as (a, b, c), b.queue("jobs").consume(concurrency=8) as busy:
        for number in range(6):
            await a.queue("jobs").send("n", number)
        got = [(await busy.receive()).data]
        async with c.queue("jobs").consume() as free:
            with within_deadline("the other consumer gets the rest"):
                got += [(await free.receive()).data for _ in range(5)]
            assert got == list(range(6))
        await a.queue("jobs").send("n", 6)
        with within_deadline("the first consumer goes on"):
            assert (await busy.receive()).data == 6
        await empty(a)


async def test_what_is_taken_ahead_comes_in_the_order_of_each_sender(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with buses(uri, 3) as (a, b, c), c.queue("jobs").consume(concurrency=4) as consumer:
        monkeypatch.setattr(consumer._receiver, "tend", lambda: None)
        got: list[tuple[str, int]] = []

        async def send(bus: Bus) -> None:
            for number in range(100):
                await bus.queue("jobs").send("n", number)
                if number % 7 == 0:
                    await checkpoint()

        async with tasks() as group:
            for bus in (a, b):
                group.start_soon(send, bus)
            with within_deadline("all events come"):
                while len(got) < 200:
                    event = await consumer.receive()
                    got.append((event.source, event.data))
                    if len(got) % 3 == 0:
                        await checkpoint()
        for node in ("@n0", "@n1"):
            assert [number for source, number in got if source == node] == list(range(100))


async def test_an_event_that_expires_after_it_was_taken_ahead_is_reported(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with buses(uri, 2) as (a, b), b.queue("jobs").consume(concurrency=4) as consumer:
        reports = Hooked()
        a.on_undeliverable(reports)
        monkeypatch.setattr(consumer._receiver, "tend", lambda: None)
        for number in range(2):
            await a.queue("jobs").send("n", number, expires=DEADLINE)
        assert (await consumer.receive()).data == 0
        await until(lambda: len(_ahead(consumer)) == 1)
        monkeypatch.setattr(queue_receiver, "time", lambda: time() + 2 * DEADLINE)
        await a.queue("jobs").send("n", 2)
        assert (await consumer.receive()).data == 2
        await until(lambda: [(report.type, report.reason) for report in reports] == [("n", "expired")])
        await empty(a)
