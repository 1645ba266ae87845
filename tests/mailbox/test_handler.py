"""How a function is called for its events: one after the other, at once where nothing stands before the event."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import anyio
import msgspec
import pytest

import eventbus
from eventbus import Event
from eventbus_core.mailbox import handler_scheduler
from eventbus_core.mailbox.handler import Handler
from eventbus_core.mailbox.mailbox import Mailbox
from tests.support import Hooked, Inbox, buses, fence, unsettled, until


@pytest.fixture
def long_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that take the steps of a turn themselves: the clock does not end it, however slow the machine."""
    monkeypatch.setattr(handler_scheduler, "TURN", float("inf"))


async def test_one_function_handles_in_order_one_after_the_other(uri: str) -> None:
    """A handler is never called again before it has returned."""
    async with buses(uri, 2) as (a, b):
        running = 0
        got: list[int] = []

        @b.on("n")
        async def handler(event: Event) -> None:
            nonlocal running
            running += 1
            assert running == 1
            for _ in range(event.data % 3):
                await anyio.lowlevel.checkpoint()
            running -= 1
            got.append(event.data)

        await b.ready()
        for number in range(50):
            await a.publish("n", number)
        await until(lambda: len(got) == 50)
        assert got == list(range(50))
        assert b.stats().handler_failures == 0


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_plain_handler_that_ends_as_if_cancelled_has_failed_even_while_the_bus_is_not_open() -> None:
    """Nothing was awaited, so no other task cancelled it; the reader, which called it, goes on."""

    def fail(event: Event) -> None:
        raise asyncio.CancelledError

    bus = eventbus.connect()
    handler = Handler(bus._node.scheduler, "n", fail)
    handler.mailbox.put([Event("n", "@a", "@b", "1", msgspec.Raw(b"\xc0"))], 1, None)
    handler.take_turn()
    assert bus.stats().handler_failures == 1


async def test_a_handler_that_is_taken_off_gets_no_further_event_of_the_same_frame(uri: str) -> None:
    """A handler takes the other off with the first event, later itself: no handler gets the rest, or waits for it."""
    async with buses(uri, 2) as (a, b):
        undelivered = Hooked()
        a.on_undeliverable(undelivered)
        got: list[str] = []

        def first(event: Event) -> None:
            got.append("first")
            b.off(second)
            if event.data == 40:
                b.off(first)

        def second(event: Event) -> None:
            got.append("second")
            b.off(first)
            if event.data == 40:
                b.off(second)

        b.on("n")(first)
        b.on("n")(second)
        b.on("n")(inbox := Inbox())
        await b.ready()
        for number in range(50):
            await a.publish("n", number)
        await inbox.got(50)
        await fence([a], [b])
        assert got in (["first"] * 41, ["second"] * 41)
        assert undelivered == []
        assert not unsettled(b)
        await b._node.scheduler.settled()


async def test_g5_events_for_the_node_are_reported_after_their_handler_is_taken_off(uri: str) -> None:
    """Of events that came together a ``once`` handler takes the first; the others have no handler any more."""
    async with buses(uri, 2) as (a, b):
        undelivered = Hooked()
        a.on_undeliverable(undelivered)
        b.once("n")(inbox := Inbox())
        await a.send("@" + b.node, "other")  # so that the way is known, and the next go together
        await until(lambda: len(undelivered) == 1)
        for number in range(5):
            await a.send("@" + b.node, "n", number)
        await until(lambda: len(undelivered) == 5)
        assert {(fate.type, fate.reason) for fate in undelivered[1:]} == {("n", "no handler")}
        assert inbox.data == [0]


async def test_a_plain_function_that_returns_something_to_await_is_waited_for(uri: str) -> None:
    """It is called for the next event once that is done, and counts as busy until then."""
    async with buses(uri, 2) as (a, b):
        gate = anyio.Event()
        got: list[int] = []

        async def later(event: Event) -> None:
            await gate.wait()
            got.append(event.data)

        @b.on("n")
        def handler(event: Event) -> Awaitable[None] | None:
            if event.data == 3:
                return later(event)
            got.append(event.data)
            return None

        await b.ready()
        for number in range(4):
            await a.publish("n", number)
        await until(lambda: len(got) == 3)
        await fence([a], [b])
        assert len(b._node.pool.limits.busy) == 1
        assert unsettled(b), "its sender is still to hear that it was handled"
        for number in range(4, 6):
            await a.publish("n", number)
        await fence([a], [b])
        assert got == [0, 1, 2]
        gate.set()
        await until(lambda: len(got) == 6)
        assert got == [0, 1, 2, 3, 4, 5]
        await until(lambda: not b._node.pool.limits.busy)
        assert not unsettled(b)


@pytest.mark.usefixtures("long_turns")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_event_is_handled_at_once_unless_something_precedes_it() -> None:
    """A doubt about the lease, events that are to come before, and a turn that is over; expired ones are left out."""
    node = eventbus.connect()._node
    scheduler, pool = node.scheduler, node.pool
    handled: list[Event] = []
    mailbox = Handler(scheduler, "n", handled.append).mailbox
    event = Event("n", "@a", "@b", "1", msgspec.Raw(b"\xc0"))
    assert mailbox.at_once is not None
    assert mailbox.at_once([event], None) == 0
    scheduler.begin_turn()
    assert mailbox.at_once([event] * 3, None) == 3
    mailbox.hold_back()
    assert mailbox.at_once([event], None) == 0
    mailbox.let_through()
    pool.limits.freeze()
    assert mailbox.at_once([event], None) == 0
    pool.thaw()
    assert mailbox.at_once([event, msgspec.structs.replace(event, expires=1.0), event], None) == 3
    assert len(handled) == 5
    mailbox.put([event], 1, None)
    assert mailbox.at_once([event], None) == 0
    scheduler.run_ready()
    assert mailbox.at_once([event], None) == 1
    mailbox.close()
    assert mailbox.at_once is None


@pytest.mark.usefixtures("long_turns")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_g11_events_that_are_handled_at_once_show_that_the_node_is_not_slow() -> None:
    """So the senders of one client that is stuck are the only ones that are to wait."""
    node = eventbus.connect()._node
    scheduler, pool = node.scheduler, node.pool
    at_once = Handler(scheduler, "n", lambda event: None).mailbox.at_once
    event = Event("n", "@a", "@b", "1", msgspec.Raw(b"\xc0"))
    Mailbox(pool.limits, lambda: None).put([event], 1, None)
    assert at_once is not None
    for tick in range(50):
        scheduler.begin_turn()
        assert at_once([event], None) == 1
        node.slow_consumers.tend(pool.limits.now + 0.1)
        assert node.slow_consumers.ease == 1.0, tick


@pytest.mark.parametrize("near", [True, False], ids=["near", "far"])
async def test_a_function_that_is_taken_off_while_it_is_waited_for_leaves_nothing_busy(uri: str, near: bool) -> None:
    """Also a plain function and an object, which turn out to be awaitable only with the first call."""
    done: list[Event] = []

    class Caller:
        async def __call__(self, event: Event) -> None:
            await anyio.lowlevel.checkpoint()
            done.append(event)

    async with buses(uri, 2) as (a, b):
        b.once("n")(Caller())
        b.once("n")(lambda event: Caller()(event))
        await b.ready()
        await (b if near else a).publish("n")
        await until(lambda: len(done) == 2)
        await b._node.scheduler.settled()
        assert not b._node.pool.limits.busy


@pytest.mark.usefixtures("long_turns")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_event_that_a_function_puts_into_its_own_mailbox_is_handled_next() -> None:
    """As a task can that begins at once, within the function."""
    node = eventbus.connect()._node
    handled: list[str] = []

    def handle(event: Event) -> None:
        handled.append(event.id)
        if event.id == "1":
            assert handler.mailbox.add(msgspec.structs.replace(event, id="2"), 1)

    handler = Handler(node.scheduler, "n", handle)
    event = Event("n", "@a", "@b", "1", msgspec.Raw(b"\xc0"))
    node.scheduler.begin_turn()
    assert handler.mailbox.at_once is not None
    assert handler.mailbox.at_once([event], None) == 1
    assert handler.mailbox.at_once([event], None) == 0
    node.scheduler.run_ready()
    assert handled == ["1", "2"]
    assert not node.pool.limits.busy
