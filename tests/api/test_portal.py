"""The portal of a bus: its methods, awaited in other event loops and threads."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest
from anyio import from_thread, to_thread
from hypothesis import given, settings
from hypothesis import strategies as st

import eventbus
from eventbus import BusClosed, ClientNotFound, ClientTakenOver, Event, RequestTimeout
from eventbus_core.testing.waiting import within_deadline
from tests.support import DEADLINE, Inbox, buses, fresh_namespace, take, until

LOOPS = ["asyncio", "trio"]


async def _elsewhere(function: Callable[[], Awaitable[Any]], loop: str = "asyncio") -> Any:
    """Return what *function* returns in an event loop of another thread."""

    async def run() -> Any:
        with within_deadline("the other event loop was done"):
            return await function()

    return await to_thread.run_sync(lambda: anyio.run(run, backend=loop))


@pytest.mark.parametrize("loop", LOOPS)
async def test_the_whole_bus_works_from_another_loop(uri: str, loop: str) -> None:
    async with buses(uri, 2) as (a, b):
        portal, inbox = a.portal(), Inbox()
        b.on("n.*", inbox)
        await b.ready()

        async def use() -> None:
            async with portal.client("acme/alice") as alice:
                assert alice.epoch > 0
                await alice.subscribe("room")
                await portal.publish("n.x", 1)
                await portal.broadcast("n.y", 2)
                await portal.publish("room", 3)
                await portal.send("acme/alice", "n", 4)
                await alice.send("acme/alice", "n", 5)
                async for event in alice:
                    assert event.data in (3, 4, 5)
                    if event.data == 5:
                        break
                await alice.unsubscribe("room")
                assert [name async for name in portal.clients()] == ["acme/alice"]
                owner = await portal.locate("acme/alice")
                assert owner is not None
                assert owner.node == portal.node == "n0"
            async with await portal.on("question", answer) as registration:
                assert registration.pattern == "question"
                assert (await portal.request(portal.address, "question", 6)).data == 6
            await registration.off()
            assert [node.id for node in await portal.nodes()] == ["n0", "n1"]
            await portal.flush()
            with pytest.raises(ClientNotFound):
                await portal.send("acme/alice", "n")
            with pytest.raises(RequestTimeout):
                await portal.wait_for("never", timeout=0.01)

        async def answer(event: Event) -> None:
            await a.reply(event, event.data)

        await _elsewhere(use, loop)
        await inbox.got(2)
        assert sorted(inbox.data) == [1, 2]
        assert (portal.state, portal.namespace) == ("open", a.namespace)


@settings(max_examples=5)
@given(threads=st.integers(1, 6), each=st.integers(1, 30))
async def test_calls_of_many_loops_at_once(uri: str, threads: int, each: int) -> None:
    """What each loop sends comes once, in its order."""
    async with buses(uri, 2) as (a, b), b.client("bob") as bob:
        portal = a.portal()

        async def send(sender: int) -> None:
            for number in range(each):
                await portal.send("bob", "n", [sender, number])

        async with anyio.create_task_group() as group:
            for sender in range(threads):
                group.start_soon(_elsewhere, lambda sender=sender: send(sender))
        got = [event.data for event in await take(bob, threads * each)]
        for sender in range(threads):
            assert [number for who, number in got if who == sender] == list(range(each))


async def test_a_call_from_the_own_loop_runs_at_once(uri: str) -> None:
    async with buses(uri, 1) as (bus,), bus.portal().client("a") as client:
        await bus.portal().send("a", "n", 1)
        assert (await client.receive()).data == 1


async def test_calls_see_the_context_of_their_caller(uri: str) -> None:
    variable = contextvars.ContextVar("variable", default="none")
    seen: list[str] = []

    async with buses(uri, 1) as (bus,):

        async def use() -> None:
            variable.set("caller")

            async def look() -> None:
                seen.append(variable.get())

            await bus._node.entry.run(look)

        for loop in LOOPS:
            await _elsewhere(use, loop)
    assert seen == ["caller", "caller"]
    assert variable.get() == "none"


@pytest.mark.parametrize("loop", LOOPS)
async def test_a_cancelled_call_ends_in_the_bus_too(uri: str, loop: str) -> None:
    async with buses(uri, 1) as (bus,):

        async def use() -> None:
            with anyio.move_on_after(0.05) as scope:
                await bus.portal().wait_for("never")
            assert scope.cancelled_caught

        await _elsewhere(use, loop)
        await until(lambda: len(bus._node.handlers) == 0)


async def test_what_a_cancelled_call_has_done_all_the_same_is_undone(uri: str) -> None:
    """The call has succeeded in the loop of the bus when its caller, which does not know yet, is cancelled."""
    async with buses(uri, 1) as (bus,):
        portal, calls, bus_loop = bus.portal(), bus._node.entry._calls, anyio.lowlevel.current_token()

        async def succeeded() -> None:
            await until(lambda: any(call.succeeded for call in calls))

        async def cancel(call: Callable[[], Coroutine[Any, Any, object]]) -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(call)
                await anyio.lowlevel.checkpoint()
                from_thread.run(succeeded, token=bus_loop)  # blocks this loop
                group.cancel_scope.cancel()

        async def use() -> None:
            await cancel(portal.client("alice").open)
            await cancel(partial(portal.on, "n", print))

        await _elsewhere(use)
        assert await bus.locate("alice") is None
        assert len(bus._node.handlers) == 0


async def test_no_event_is_lost_when_receiving_is_cancelled(uri: str) -> None:
    """Whenever that happens, the next call returns the event."""
    async with buses(uri, 1) as (bus,), bus.portal().client("alice") as alice:

        async def use() -> list[int]:
            got: list[int] = []
            sent = 0
            while len(got) < 100:
                if sent < 100:
                    await bus.portal().send("alice", "n", sent)
                    sent += 1
                receiving = asyncio.ensure_future(alice.receive())
                for _ in range(sent % 7):
                    await asyncio.sleep(0)
                receiving.cancel()
                with suppress(asyncio.CancelledError):
                    got.append((await receiving).data)
                if sent == 100:
                    got.append((await alice.receive()).data)
            return got

        assert await _elsewhere(use) == list(range(100))


@pytest.mark.parametrize("loop", LOOPS)
async def test_calls_end_when_the_bus_closes(uri: str, loop: str) -> None:
    """Those that wait, and all later ones; handles of clients can still be closed."""
    bus = await eventbus.connect(uri, namespace=fresh_namespace()).open()
    portal, waiting = bus.portal(), threading.Event()

    async def use() -> None:
        client = await portal.client("alice").open()
        waiting.set()
        with pytest.raises(BusClosed):
            await client.receive()
        with pytest.raises(BusClosed):
            await portal.nodes()
        assert isinstance(await client.ended(), BusClosed)
        await client.aclose()

    async with anyio.create_task_group() as group:
        group.start_soon(_elsewhere, use, loop)
        await to_thread.run_sync(waiting.wait, DEADLINE)
        await bus.aclose()
    assert bus._node.entry._calls == set()


def test_calls_before_the_bus_opens_and_after_its_loop_has_ended_raise() -> None:
    bus = eventbus.connect()
    with pytest.raises(BusClosed):
        asyncio.run(bus.portal().nodes())

    async def live() -> None:
        async with bus:
            pass

    asyncio.run(live())
    with pytest.raises(BusClosed):
        asyncio.run(bus.portal().send("a", "n"))


def test_a_blocking_bus_serves_every_loop_of_the_process(uri: str) -> None:
    """One after the other, as ``async_to_sync`` and test clients make them."""
    with eventbus.connect_blocking(uri, namespace=fresh_namespace()) as bus:
        portal = bus.portal()
        alice = portal.client("alice")
        asyncio.run(alice.open())
        for number in range(3):
            asyncio.run(portal.send("alice", "n", number))
            assert asyncio.run(alice.receive()).data == number
        asyncio.run(alice.aclose())


async def test_a_takeover_ends_a_wait_in_another_loop(uri: str) -> None:
    async with buses(uri, 2) as (a, b):
        opened = threading.Event()

        async def hold() -> eventbus.EventBusError:
            async with a.portal().client("alice", handler=print) as alice:
                opened.set()
                return await alice.ended()

        reasons: list[eventbus.EventBusError] = []

        async def elsewhere() -> None:
            reasons.append(await _elsewhere(hold))

        async with anyio.create_task_group() as group:
            group.start_soon(elsewhere)
            await to_thread.run_sync(opened.wait, DEADLINE)
            async with b.client("alice"):
                pass
        assert isinstance(reasons[0], ClientTakenOver)


def test_an_async_handler_runs_on_an_event_loop_that_anyio_did_not_start() -> None:
    """A send from another thread starts it outside of any task, where sniffio knows no event loop by itself."""
    got: list[int] = []

    async def handle(event: Event) -> None:
        got.append(event.data)

    async def main() -> None:
        async with eventbus.connect() as bus:
            portal = bus.portal()

            async def use() -> None:
                async with portal.client("bob", handler=handle):
                    await portal.send("bob", "n", 1)

            await asyncio.to_thread(asyncio.run, use())

    asyncio.run(main())
    assert got == [1]


async def test_an_event_that_comes_as_a_call_is_cancelled_goes_to_another_call_that_waits() -> None:
    """Here in another loop, which is not free until the event has come."""
    async with eventbus.connect() as bus:
        jobs, ready, got = bus.queue("jobs"), threading.Event(), list[int]()

        async def receive() -> None:
            async with bus.portal().queue("jobs").consume() as consumer:
                receiver = consumer._inner._receiver
                assert receiver is not None
                calls = [asyncio.create_task(consumer.receive()) for _ in range(2)]
                await until(lambda: receiver._calls == 2)
                ready.set()
                limit = monotonic() + DEADLINE
                while receiver._calls == 2 and monotonic() < limit:
                    pass
                calls[0].cancel()
                got.append((await asyncio.wait_for(calls[1], DEADLINE)).data)

        async with anyio.create_task_group() as group:
            group.start_soon(_elsewhere, receive)
            await to_thread.run_sync(ready.wait, DEADLINE)
            await jobs.send("n", 1)
        assert got == [1]


async def test_threads_share_what_a_consumer_has_taken_ahead(uri: str) -> None:
    """Calls in several event loops, many of them cancelled, get each event once."""
    namespace, events = fresh_namespace(), 400
    async with (
        eventbus.connect(uri, namespace=namespace) as a,
        eventbus.connect(uri, namespace=namespace) as b,
        b.portal().queue("jobs").consume(concurrency=8) as consumer,
    ):
        got: list[int] = []

        async def receive() -> None:
            while len(got) < events // 2:
                with anyio.move_on_after(0.001 * (len(got) % 3)):
                    got.append((await consumer.receive()).data)

        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(_elsewhere, receive)
            for number in range(events):
                await a.queue("jobs").send("n", number)
        with within_deadline("the rest comes"):
            while len(got) < events:
                got.append((await consumer.receive()).data)
        assert sorted(got) == list(range(events))
        await until(lambda: not a.queue("jobs").waiting)


async def test_a_call_that_always_finds_an_event_lets_other_tasks_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the bus may take them ahead in another thread faster than they are handled here."""
    event = Event("n", "@n0", "jobs", "1", msgspec.Raw(b"\x01"))
    monkeypatch.setattr(eventbus.Consumer, "_take_now", lambda _self: event)
    async with eventbus.connect() as bus, anyio.create_task_group() as group:
        consumer, others, calls = bus.portal().queue("jobs").consume(concurrency=2), list[int](), 0

        async def run() -> None:
            others.append(calls)

        group.start_soon(run)
        while not others and calls < 1000:
            assert await consumer.receive() is event
            calls += 1
        assert others
