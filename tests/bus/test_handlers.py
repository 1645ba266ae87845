"""Handlers: typed data, once, off, wait_for, and what becomes of those that raise or never return."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import sleep
from typing import Any

import anyio
import attrs
import msgspec
import pytest

import eventbus
from eventbus import BusClosed, ClientNotFound, Event, EventDataError, RequestTimeout
from eventbus_core.handlers import TURN, Handler
from eventbus_core.mailbox import Mailbox
from tests.bus.support import DEADLINE, Hooked, Inbox, buses, fence, take, tasks, unsettled, until


@attrs.frozen
class AttrsOrder:
    id: int
    items: list[str] = attrs.field(factory=list)


@dataclass
class DataclassOrder:
    id: int
    items: list[str]


class StructOrder(msgspec.Struct):
    id: int
    items: list[str] = []


@attrs.frozen
class Refund:
    items: int


@pytest.mark.parametrize("kind", [AttrsOrder, DataclassOrder, StructOrder])
async def test_a_typed_handler_gets_objects_of_its_type(uri: str, kind: Any) -> None:
    """Whatever class the data was sent as, a handler with a type gets it as that type, near and far."""
    async with buses(uri, 2) as nodes:
        inboxes = [Inbox(), Inbox()]
        for bus, inbox in zip(nodes, inboxes, strict=True):
            bus.on("order.created", data=kind)(inbox)
            await bus.ready()
        order = kind(1, ["tea"])
        await nodes[0].publish("order.created", order)
        await nodes[0].publish("order.created", {"id": 2, "items": ["milk"]})
        order.items.append("changed after it was sent")
        for inbox in inboxes:
            await inbox.got(2)
            assert inbox.data == [kind(1, ["tea"]), kind(2, ["milk"])]
        assert all(one.data is not other.data for one, other in zip(*(i.events for i in inboxes), strict=True))


async def test_types_beyond_messagepack_arrive_as_what_they_are(uri: str) -> None:
    """A typed handler gets back dates, sets and nested classes that MessagePack writes as something simpler."""

    @attrs.frozen
    class Visit:
        at: datetime.datetime
        tags: frozenset[str]
        order: StructOrder | None

    visit = Visit(datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC), frozenset("ab"), StructOrder(3))
    async with buses(uri, 2) as (a, b):
        b.on("visit", data=Visit)(inbox := Inbox())
        await b.ready()
        await a.publish("visit", visit)
        await inbox.got(1)
        assert inbox.data == [visit]


async def test_data_of_another_type_goes_to_on_error_and_the_next_is_handled(uri: str) -> None:
    """Data that is not what the handler asked for never reaches it: ``on_error`` is told, what comes next goes on."""
    async with buses(uri, 2) as (a, b):
        errors = Hooked()
        b.on_error(errors)
        b.on("order.created", data=AttrsOrder)(inbox := Inbox())
        b.on("order.created")(untyped := Inbox())
        await b.ready()
        await a.publish("order.created", {"id": "one"})
        await a.publish("order.created", {"id": 2})
        await inbox.got(1)
        await until(lambda: len(errors) == 1)
        assert inbox.data == [AttrsOrder(2)]
        event, error = errors[0]
        assert event.data == {"id": "one"}
        assert isinstance(error, EventDataError)
        assert "$.id" in str(error)
        assert b.stats().handler_failures == 1
        await untyped.got(2)


async def test_data_is_decoded_on_demand_into_any_type(uri: str) -> None:
    """``event.decode`` gives a client's event the type that is asked for, and says where data differs from it."""
    async with buses(uri, 2) as (a, b), b.client("alice") as alice:
        await a.send("alice", "order", {"id": 1, "items": ["tea"]})
        (event,) = await take(alice, 1)
        assert event.decode(AttrsOrder) == AttrsOrder(1, ["tea"])
        assert event.decode(dict[str, Any]) == {"id": 1, "items": ["tea"]}
        with pytest.raises(EventDataError, match=r"'order'.*`\$\.items`"):
            event.decode(Refund)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_handler_that_raises_does_not_stop_the_next(uri: str, asynchronous: bool) -> None:
    """Each exception is counted and told to ``on_error`` with its event; later events and other handlers go on."""
    async with buses(uri, 2) as (a, b):
        errors = Hooked()
        b.on_error(errors)
        inbox = Inbox()

        @b.on("n")
        def plain(event: Event) -> None:
            if not asynchronous:
                inbox(event)
                if event.data % 2:
                    raise ValueError(event.data)

        @b.on("n")
        async def waiting(event: Event) -> None:
            if asynchronous:
                await anyio.lowlevel.checkpoint()
                inbox(event)
                if event.data % 2:
                    raise ValueError(event.data)

        b.on("n")(other := Inbox())
        await b.ready()
        for number in range(6):
            await a.publish("n", number)
        await inbox.got(6)
        await other.got(6)
        await until(lambda: len(errors) == 3)
        assert [(event.data, str(error)) for event, error in errors] == [(1, "1"), (3, "3"), (5, "5")]
        assert b.stats().handler_failures == 3
        assert inbox.data == other.data == list(range(6))


async def test_a_hook_that_raises_does_no_harm(uri: str) -> None:
    """An exception in a hook is swallowed, and the other hooks are called; async ones are awaited."""
    async with buses(uri, 1) as (bus,):
        errors = Hooked()

        @bus.on_error
        def bad(event: Event, error: Exception) -> None:
            raise RuntimeError("in the hook")

        @bus.on_error
        async def good(event: Event, error: Exception) -> None:
            await anyio.lowlevel.checkpoint()
            errors((event, error))

        @bus.on("n")
        def handler(event: Event) -> None:
            raise ValueError

        await bus.publish("n")
        await bus.publish("n")
        await until(lambda: len(errors) == 2)


async def test_a_handler_that_never_returns_slows_nobody_else(uri: str) -> None:
    """While one handler is stuck, every other handler and client of its node, and its node itself, go on."""
    async with buses(uri, 2) as (a, b), b.client("alice") as alice:
        stuck: list[int] = []

        @b.on("n")
        async def never(event: Event) -> None:
            stuck.append(event.data)
            await anyio.sleep_forever()

        b.on("n")(inbox := Inbox())
        await b.ready()
        for number in range(500):
            await a.publish("n", number)
            await a.send("alice", "n", number)
        assert [event.data for event in await take(alice, 500)] == list(range(500))
        await inbox.got(500)
        assert inbox.data == list(range(500))
        assert stuck == [0]
        await fence([a], [b])
        b.off(never)


async def test_once_handles_the_first_event_alone(uri: str) -> None:
    """A ``once`` handler is called for one event, though several come together; several of them each for one."""
    async with buses(uri, 2) as (a, b):
        inboxes = [Inbox(), Inbox(), Inbox()]
        b.once("n")(inboxes[0])
        b.once("n", data=int)(inboxes[1])
        b.on("n")(inboxes[2])
        await b.ready()
        for number in range(50):
            await a.publish("n", number)
        await inboxes[2].got(50)
        await fence([a], [b])
        assert [inbox.data for inbox in inboxes[:2]] == [[0], [0]]


async def test_once_async_is_called_once(uri: str) -> None:
    """A slow ``once`` handler is not called again while it runs, and may register itself anew."""
    async with buses(uri, 1) as (bus,):
        got: list[int] = []
        done: list[int] = []

        async def again(event: Event) -> None:
            got.append(event.data)
            await anyio.lowlevel.checkpoint()
            if event.data < 3:
                bus.once("n")(again)
            done.append(event.data)

        bus.once("n")(again)
        for number in range(10):
            await bus.publish("n", number)

            def called(number: int = number) -> bool:
                return number > 3 or len(done) == number + 1

            await until(called)
        await fence([bus], [bus])
        assert got == [0, 1, 2, 3]


async def test_off_ends_all_registrations_of_a_function(uri: str) -> None:
    """After ``off`` a function is called no more, by whatever pattern it was registered; others are."""
    async with buses(uri, 2) as (a, b):
        inbox, other = Inbox(), Inbox()
        for pattern in ("n", "*", ">"):
            b.on(pattern)(inbox)
        b.once("m")(inbox)
        b.on("n")(other)
        await b.ready()
        await a.publish("n", 1)
        await inbox.got(3)
        b.off(inbox)
        b.off(inbox)
        b.off(print)
        await a.publish("n", 2)
        await a.publish("m", 2)
        await other.got(2)
        await fence([a], [b])
        assert inbox.data == [1, 1, 1]


async def test_off_of_a_bound_method(uri: str) -> None:
    """A bound method, which is another object at each look-up, can be taken off again."""

    class Service:
        def __init__(self) -> None:
            self.got: list[int] = []

        def handle(self, event: Event) -> None:
            self.got.append(event.data)

    async with buses(uri, 1) as (bus,):
        service = Service()
        bus.on("n")(service.handle)
        bus.on("n")(inbox := Inbox())
        await bus.publish("n", 1)
        await inbox.got(1)
        await until(lambda: service.got == [1])
        bus.off(service.handle)
        await bus.publish("n", 2)
        await inbox.got(2)
        await fence([bus], [bus])
        assert service.got == [1]


async def test_handlers_can_be_changed_by_handlers(uri: str) -> None:
    """A handler may take itself or others off and register new ones while it runs."""
    async with buses(uri, 1) as (bus,):
        got: list[str] = []

        @bus.on("n")
        def first(event: Event) -> None:
            got.append("first")
            bus.off(first)
            bus.on("n")(second)

        def second(event: Event) -> None:
            got.append("second")

        await bus.publish("n")
        await until(lambda: got == ["first"])
        await bus.publish("n")
        await until(lambda: got == ["first", "second"])


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


async def test_a_handler_may_use_the_bus(uri: str) -> None:
    """From within a handler everything can be sent, asked and claimed, to its own node and itself too."""
    async with buses(uri, 2) as nodes:
        steps: list[str] = []
        for bus in nodes:

            @bus.on("go")
            async def go(event: Event, bus: eventbus.Bus = bus) -> None:
                async with bus.client(f"temporary-{bus.node}") as client:
                    await client.subscribe(f"inner.{bus.node}")
                    await bus.publish(f"inner.{bus.node}")
                    await bus.send(client.name, "note")
                    assert {(await client.receive()).type for _ in range(2)} == {f"inner.{bus.node}", "note"}
                with pytest.raises(ClientNotFound):
                    await bus.send(f"temporary-{bus.node}", "note")
                steps.append(bus.node)

            await bus.ready()
        await nodes[0].publish("go")
        await until(lambda: len(steps) == 2)
        assert [bus.stats().handler_failures for bus in nodes] == [0, 0]


async def test_wait_for_returns_the_next_event_that_matches(uri: str) -> None:
    """``wait_for`` skips what *match* refuses, takes topics, sends and broadcasts, and leaves no handler behind."""
    async with buses(uri, 2) as (a, b), tasks() as group:
        found: list[Event] = []

        async def wait() -> None:
            found.append(await b.wait_for("order.*", match=lambda event: event.data > 2, timeout=DEADLINE))

        sends: list[Callable[[int], Awaitable[None]]] = [
            lambda number: a.publish("order.created", number),
            lambda number: a.broadcast("order.created", number),
            lambda number: a.send("@n1", "order.created", number),
            lambda number: b.emit("order.created", number),
        ]
        for send in sends:
            found.clear()
            group.start_soon(wait)
            await until(lambda: bool(b._node.handlers))
            await b.ready()
            for number in range(6):
                await send(number)
            await until(lambda: bool(found))
            assert found[0].data == 3
            assert not b._node.handlers


async def test_wait_for_gives_up_in_time(uri: str) -> None:
    """Without a match ``wait_for`` raises after its timeout, an error that is a TimeoutError too."""
    async with buses(uri, 1) as (bus,):
        with pytest.raises(RequestTimeout, match=r"'order\.created' did not come within 0\.05 s") as caught:
            await bus.wait_for("order.created", timeout=0.05)
        assert isinstance(caught.value, TimeoutError)
        assert not bus._node.handlers


async def test_what_match_raises_is_raised_by_wait_for(uri: str) -> None:
    """A *match* function with a fault does not make its caller wait for ever."""
    async with buses(uri, 1) as (bus,), tasks() as group:

        async def publish() -> None:
            await until(lambda: bool(bus._node.handlers))
            await bus.publish("n", "text")

        group.start_soon(publish)
        with pytest.raises(TypeError):
            await bus.wait_for("n", match=lambda event: event.data > 1, timeout=DEADLINE)


async def test_headers_travel_beside_the_data(uri: str) -> None:
    """Headers arrive with everything that is sent, as they were when it was sent, each receiver's its own."""
    async with buses(uri, 2) as nodes, nodes[1].client("alice") as alice:
        inboxes = [Inbox() for _ in range(4)]
        for bus, inbox in zip(nodes * 2, inboxes, strict=True):
            bus.on("n")(inbox)
            await bus.ready()
        await alice.subscribe("n")
        headers = {"trace": "ünïcödé", "": ""}
        await nodes[0].publish("n", headers=headers)
        headers["trace"] = "changed after it was sent"
        for inbox in inboxes:
            (event,) = await inbox.got(1)
            assert event.headers == {"trace": "ünïcödé", "": ""}
            event.headers.clear()
        (event,) = await take(alice, 1)
        assert event.headers == {"trace": "ünïcödé", "": ""}
        for send in (
            nodes[0].send("alice", "n", headers={"a": "1"}),
            nodes[1].send("alice", "n", headers={"a": "1"}),
            alice.send("alice", "n", headers={"a": "1"}),
        ):
            await send
            (event,) = await take(alice, 1)
            assert event.headers == {"a": "1"}
        await nodes[0].send("alice", "n")
        (event,) = await take(alice, 1)
        assert event.headers is None


async def test_g6_bad_headers_are_refused_alike_near_and_far(uri: str) -> None:
    """Headers that are not text are an error of the sender's, the same whether the receiver is near or far."""
    bad: list[Any] = [{"a": 1}, {1: "a"}, {"a": None}, {"a": "\ud800"}, {"\ud800": "a"}, [("a", "b")], "text", 7]
    async with buses(uri, 2) as (a, b), b.client("alice") as alice:
        b.on("n")(inbox := Inbox())
        a.on("n")(Inbox())
        await b.ready()
        for bus in (a, b):
            for headers in bad:
                with pytest.raises(EventDataError):
                    await bus.send("alice", "n", headers=headers)
                with pytest.raises(EventDataError):
                    await bus.publish("n", headers=headers)
            await bus.send("alice", "n", "good")
        assert [event.data for event in await take(alice, 2)] == ["good", "good"]
        await fence([a, b], [b])
        assert len(inbox) == 0


async def test_g6_the_receiver_never_holds_the_senders_object(uri: str) -> None:
    """Data that is changed after it was sent arrives as it was; what one receiver changes, no other sees."""
    async with buses(uri, 2) as nodes, nodes[0].client("alice") as alice, nodes[1].client("bob") as bob:
        inboxes = [Inbox() for _ in range(4)]
        for bus, inbox in zip(nodes * 2, inboxes, strict=True):
            bus.on("n")(inbox)
            await bus.ready()
        for client in (alice, bob):
            await client.subscribe("n")
        data: dict[str, Any] = {"list": [1, {"deep": []}], "bytes": b"\x00\xff"}
        await nodes[0].publish("n", data)
        await nodes[0].send("alice", "m", data)
        await nodes[0].send("bob", "m", data)
        data["list"][1]["deep"].append("changed")
        data["list"].clear()
        wanted = {"list": [1, {"deep": []}], "bytes": b"\x00\xff"}
        events = [*(await take(alice, 2)), *(await take(bob, 2))]
        for inbox in inboxes:
            events += await inbox.got(1)
        assert len(events) == 8
        for event in events:
            assert event.data == wanted
            assert event.data is event.data
            event.data["list"].clear()


async def test_handlers_of_a_closed_bus_can_be_taken_off(uri: str) -> None:
    """Taking handlers off after the bus was closed does nothing, and raises nothing."""
    async with buses(uri, 1) as (bus,):
        bus.on("n")(inbox := Inbox())
        bus.on("m")(idle := Inbox())
        await bus.publish("n")
        await inbox.got(1)
    bus.off(inbox)
    bus.off(idle)
    with pytest.raises(BusClosed):
        await bus.wait_for("n", timeout=DEADLINE)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_plain_handler_that_ends_as_if_cancelled_has_failed_even_while_the_bus_is_not_open() -> None:
    """Nothing was awaited, so nobody else cancelled it; the reader, which called it, goes on."""

    def fail(event: Event) -> None:
        raise asyncio.CancelledError

    bus = eventbus.connect()
    handler = Handler(bus._node.handler_context, "n", fail)
    handler.mailbox.put([Event("n", "@a", "@b", "1", msgspec.Raw(b"\xc0"))], 1, None)
    handler.take_turn()
    assert bus.stats().handler_failures == 1


async def test_a_handler_that_is_taken_off_gets_nothing_more_of_what_came_together(uri: str) -> None:
    """A handler takes the other off with the first event, later itself: nobody handles the rest, or waits for it."""
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
        await b._node.handler_context.settled()


async def test_g5_what_a_handler_that_is_taken_off_leaves_is_reported_if_it_was_for_the_node(uri: str) -> None:
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
        assert len(b._node.mailboxes.busy) == 1
        assert unsettled(b), "its sender is still to hear that it was handled"
        for number in range(4, 6):
            await a.publish("n", number)
        await fence([a], [b])
        assert got == [0, 1, 2]
        gate.set()
        await until(lambda: len(got) == 6)
        assert got == [0, 1, 2, 3, 4, 5]
        await until(lambda: not b._node.mailboxes.busy)
        assert not unsettled(b)


@pytest.mark.parametrize("size", [pytest.param(0, id="in-a-frame"), pytest.param(1024, id="a-frame-each")])
async def test_plain_functions_leave_others_a_chance_however_much_comes_together(uri: str, size: int) -> None:
    """Another task has its step after a few turns: of the reader, and of the task that calls them for what is left."""
    async with buses(uri, 2, frame_size=size or 128 * 1024) as (a, b):
        called = most = total = 0

        @b.on("n")
        def count(event: Event) -> None:
            nonlocal called, total
            called += 1
            total += 1
            sleep(TURN / 5)

        await b.ready()
        for _ in range(200):
            await a.publish("n", bytes(size))
        with anyio.fail_after(DEADLINE):
            while total < 200:
                called = 0
                await anyio.lowlevel.checkpoint()
                most = max(most, called)
        assert most <= 3 * 6


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_stands_in_the_way_of_handling_an_event_at_once() -> None:
    """A doubt about the lease, events that are to come before, and a turn that is over; expired ones are left out."""
    node = eventbus.connect()._node
    context, mailboxes = node.handler_context, node.mailboxes
    handled: list[Event] = []
    mailbox = Handler(context, "n", handled.append).mailbox
    event = Event("n", "@a", "@b", "1", msgspec.Raw(b"\xc0"))
    assert mailbox.at_once is not None
    assert mailbox.at_once([event], None) == 0
    context.attend()
    assert mailbox.at_once([event] * 3, None) == 3
    mailbox.hold_back()
    assert mailbox.at_once([event], None) == 0
    mailbox.let_through()
    mailboxes.doubt()
    assert mailbox.at_once([event], None) == 0
    mailboxes.verified()
    assert mailbox.at_once([event, msgspec.structs.replace(event, expires=1.0), event], None) == 3
    assert len(handled) == 5
    mailbox.put([event], 1, None)
    assert mailbox.at_once([event], None) == 0
    context.work()
    assert mailbox.at_once([event], None) == 1
    mailbox.close()
    assert mailbox.at_once([event], None) == 0


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_g11_events_that_are_handled_at_once_show_that_the_node_is_not_slow() -> None:
    """So the senders of one client that is stuck are the only ones that are to wait."""
    node = eventbus.connect()._node
    context, mailboxes = node.handler_context, node.mailboxes
    at_once = Handler(context, "n", lambda event: None).mailbox.at_once
    event = Event("n", "@a", "@b", "1", msgspec.Raw(b"\xc0"))
    Mailbox(mailboxes, lambda: None).put([event], 1, None)
    assert at_once is not None
    for tick in range(50):
        context.attend()
        assert at_once([event], None) == 1
        mailboxes.tend(mailboxes.now + 0.1)
        assert mailboxes.ease == 1.0, tick


@pytest.mark.parametrize("near", [True, False], ids=["near", "far"])
async def test_a_function_that_is_taken_off_while_it_is_waited_for_leaves_nothing_busy(uri: str, near: bool) -> None:
    """Also a plain one, and an object, of which nobody knows before the first call that it is to be waited for."""
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
        await b._node.handler_context.settled()
        assert not b._node.mailboxes.busy


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_a_function_puts_into_its_own_mailbox_is_handled_next() -> None:
    """As a task can that begins at once, within the function."""
    node = eventbus.connect()._node
    handled: list[str] = []

    def handle(event: Event) -> None:
        handled.append(event.id)
        if event.id == "1":
            assert handler.mailbox.add(msgspec.structs.replace(event, id="2"), 1)

    handler = Handler(node.handler_context, "n", handle)
    event = Event("n", "@a", "@b", "1", msgspec.Raw(b"\xc0"))
    node.handler_context.attend()
    assert handler.mailbox.at_once is not None
    assert handler.mailbox.at_once([event], None) == 1
    assert handler.mailbox.at_once([event], None) == 0
    node.handler_context.work()
    assert handled == ["1", "2"]
    assert not node.mailboxes.busy
