"""Handlers of a node: on, once, off, wait_for; handlers that raise or never return."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

import eventbus
from eventbus import BusClosed, ClientNotFound, ConfigurationError, Event, RequestTimeout
from tests.support import DEADLINE, Hooked, Inbox, buses, fence, take, tasks, until


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


async def test_a_handler_that_never_returns_slows_no_other(uri: str) -> None:
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
    """A slow ``once`` handler is not called again while it runs, and may register itself again."""
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


@pytest.mark.parametrize("hashable", [True, False])
async def test_off_looks_at_no_handler_of_another_function(uri: str, hashable: bool) -> None:
    """What it takes does not grow with the number of handlers; functions that cannot be hashed are found, too."""

    class Counting:
        compared = 0

        def __call__(self, event: Event) -> None: ...

        def __eq__(self, other: object) -> bool:
            Counting.compared += 1
            return self is other

        __hash__ = object.__hash__ if hashable else None  # type: ignore[assignment]

    async with buses(uri, 1) as (bus,):
        functions = [Counting() for _ in range(100)]
        for function in functions:
            bus.on("n")(function)
            bus.on("m")(function)
        Counting.compared = 0
        bus.off(functions[50])
        assert not hashable or Counting.compared <= 4
        assert len(bus._node.handlers) == 198
        for function in functions:
            bus.off(function)
        assert len(bus._node.handlers) == 0


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

        sends: list[Callable[[int], Awaitable[object]]] = [
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
        with pytest.raises(RequestTimeout, match=r"'order\.created' did not arrive within 0\.05 s") as caught:
            await bus.wait_for("order.created", timeout=0.05)
        assert isinstance(caught.value, TimeoutError)
        assert not bus._node.handlers


async def test_wait_for_raises_the_exception_of_match(uri: str) -> None:
    """A *match* function with a fault does not make its caller wait without end."""
    async with buses(uri, 1) as (bus,), tasks() as group:

        async def publish() -> None:
            await until(lambda: bool(bus._node.handlers))
            await bus.publish("n", "text")

        group.start_soon(publish)
        with pytest.raises(TypeError):
            await bus.wait_for("n", match=lambda event: event.data > 1, timeout=DEADLINE)


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


@pytest.mark.parametrize("register", ["on", "once", "client", "consume", "on_error"])
async def test_what_cannot_be_called_is_refused_when_it_is_registered(register: str) -> None:
    """Each event would fail otherwise, and count as handled."""
    async with eventbus.connect("memory://") as bus:
        registrations: dict[str, Callable[[], object]] = {
            "on": lambda: bus.on("x", 5),  # type: ignore[call-overload]
            "once": lambda: bus.once("x")(5),  # type: ignore[type-var]
            "client": lambda: bus.client("alice", handler=5),  # type: ignore[arg-type]
            "consume": lambda: bus.queue("jobs").consume(5),  # type: ignore[arg-type]
            "on_error": lambda: bus.on_error(5),  # type: ignore[arg-type]
        }
        with pytest.raises(ConfigurationError, match=r"must be a function, .* not 5"):
            registrations[register]()
