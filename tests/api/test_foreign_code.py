"""Functions of the application: whatever they raise, and whatever context they set, stays with their own call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

import eventbus
from eventbus import Bus, BusClosed, Event, EventBusError
from eventbus_core.testing.waiting import within_deadline
from tests.support import DEADLINE, Hooked, Inbox, buses, fence, fresh_namespace, take, tasks, until

request: ContextVar[object] = ContextVar("request", default="none")


class _Stop(BaseException):
    """No ``Exception``, as those that test runners and workers end their tasks with."""


async def _await_cancelled_task() -> None:
    task = asyncio.ensure_future(asyncio.sleep(DEADLINE))
    task.cancel()
    await task


async def _cancel_own_task() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(DEADLINE)


async def _cancel_own_task_and_return() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


async def _raise_cancelled() -> None:
    raise asyncio.CancelledError


async def _raise_other() -> None:
    raise _Stop


ENDS = [_await_cancelled_task, _cancel_own_task, _cancel_own_task_and_return, _raise_cancelled, _raise_other]
ends = pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__.strip("_"))


@pytest.fixture
def asyncio_only(anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("about tasks of asyncio")


async def _check_alive(a: Bus, b: Bus) -> None:
    """Check that every task of *b* still does its work."""
    async with b.client("witness") as witness:
        await a.send("witness", "n", 1)
        assert [event.data for event in await take(witness, 1)] == [1]
    b.on("alive")(inbox := Inbox())
    await b.ready()
    await a.publish("alive")
    await inbox.got()
    await b.publish("other")
    await b.flush()
    assert b.state == "open"


@ends
@pytest.mark.usefixtures("asyncio_only")
async def test_a_hook_that_ends_with_a_cancellation_ends_no_task_of_the_bus(
    uri: str, end: Callable[[], Awaitable[None]]
) -> None:
    async with buses(uri, 2) as (a, b):
        told = Hooked()
        b.on_undeliverable(lambda _fate: end())
        b.on_undeliverable(told)
        for number in range(2):
            await b.send(b.address, "handled.nowhere")
            await until(lambda number=number: len(told) == number + 1)  # type: ignore[misc]
        await _check_alive(a, b)


@ends
@pytest.mark.parametrize("plain", [False, True], ids=["async", "returns-awaitable"])
@pytest.mark.usefixtures("asyncio_only")
async def test_a_handler_that_ends_with_a_cancellation_handles_the_next_event(
    uri: str, end: Callable[[], Awaitable[None]], plain: bool
) -> None:
    async with buses(uri, 2) as (a, b):
        got: list[int] = []

        async def handle(event: Event) -> None:
            got.append(event.data)
            await end()

        function: Callable[[Event], Awaitable[None]] = (lambda event: handle(event)) if plain else handle
        b.on("n")(function)
        await b.ready()
        for number in range(3):
            await a.publish("n", number)
            await until(lambda number=number: number in got)  # type: ignore[misc]
        b.off(function)
        await _check_alive(a, b)
        assert got == [0, 1, 2]
        if end is not _cancel_own_task_and_return:
            await until(lambda: b.stats().handler_failures == 3)


async def test_a_plain_handler_may_raise_anything(uri: str) -> None:
    async with buses(uri, 2) as (a, b):
        errors = Hooked()
        b.on_error(errors)

        @b.on("n")
        def handle(event: Event) -> None:
            raise _Stop

        await b.ready()
        await a.publish("n", 1)
        await a.publish("n", 2)
        await until(lambda: len(errors) == 2)
        assert [(event.data, str(error)) for event, error in errors] == [
            (1, "handler n ended with _Stop"),
            (2, "handler n ended with _Stop"),
        ]
        assert isinstance(errors[0][1].__cause__, _Stop)
        await _check_alive(a, b)


@pytest.mark.parametrize("kind", [_Stop, asyncio.CancelledError, GeneratorExit])
async def test_what_match_raises_ends_the_wait(uri: str, kind: type[BaseException]) -> None:
    def match(_event: Event) -> bool:
        raise kind

    async with buses(uri, 2) as (a, b), tasks() as group:
        errors: list[EventBusError] = []

        async def wait() -> None:
            with pytest.raises(EventBusError, match=kind.__name__) as caught:
                await b.wait_for("n", match=match)
            errors.append(caught.value)

        group.start_soon(wait)
        await until(lambda: len(b._node.handlers) == 1)
        await b.publish("n")
        await until(lambda: len(errors) == 1)
        assert isinstance(errors[0].__cause__, kind)
        await _check_alive(a, b)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("place", ["plain", "async", "hook", "async-hook"])
async def test_an_exit_ends_the_bus_and_comes_out_of_its_body(uri: str, kind: type[BaseException], place: str) -> None:
    """It is not swallowed, the bus leaves as at any end, and the event loop goes on until the body has raised."""
    namespace = fresh_namespace()
    error = kind("now")

    def end(*_arguments: Any) -> None:
        raise error

    async def end_later(*_arguments: Any) -> None:
        await checkpoint()
        raise error

    async def live(bus: Bus) -> None:
        async with bus:
            if place in ("plain", "async"):
                bus.on("n")(end if place == "plain" else end_later)
            else:
                bus.on_undeliverable(end if place == "hook" else end_later)
            await bus.send(bus.address, "n")
            await anyio.sleep(DEADLINE)

    async with eventbus.connect(uri, namespace=namespace, node="witness") as witness:
        bus = eventbus.connect(uri, namespace=namespace, node="other")
        with pytest.raises(kind) as caught:
            await live(bus)
        assert caught.value is error
        assert bus.state == "closed"
        assert [node.id for node in await witness.nodes()] == ["witness"]


@pytest.mark.usefixtures("asyncio_only")
async def test_a_bus_whose_tasks_were_cancelled_is_closed_and_says_so(uri: str) -> None:
    """Its body is cancelled, every call of any task raises, and the reason comes out of the body."""
    async with buses(uri, 2) as (witness, other):
        await fence([witness], [other])  # the witness's writer starts with the first thing that it writes
        mine = asyncio.all_tasks()
        states: list[str] = []
        returned: list[object] = []
        ended: list[BaseException] = []

        async def wait_elsewhere(client: eventbus.Client) -> None:
            try:
                await client.receive()
            except BusClosed as error:
                ended.append(error)

        async def live(bus: Bus) -> None:
            async with bus:
                client = await bus.client("acme/a").__aenter__()
                elsewhere.start_soon(wait_elsewhere, client)
                await checkpoint()
                for task in asyncio.all_tasks() - mine:
                    if "wait_elsewhere" not in repr(task):
                        task.cancel()
                try:
                    await anyio.sleep(DEADLINE)
                finally:
                    states.append(bus.state)
                    with anyio.CancelScope(shield=True), within_deadline("every call ended"):
                        await call_everything(bus, client)

        async def call_everything(bus: Bus, client: eventbus.Client) -> None:
            calls: list[Callable[[], Awaitable[object]]] = [
                lambda: bus.send("acme/a", "n"),
                lambda: bus.publish("n"),
                lambda: bus.emit("n"),
                lambda: bus.request("@victim", "n"),
                lambda: bus.wait_for("n"),
                lambda: bus.locate("acme/a"),
                bus.nodes,
                bus.flush,
                bus.ready,
                client.receive,
                lambda: client.subscribe("n"),
            ]
            for call in calls:
                with suppress(BusClosed):
                    returned.append(await call())

        async with anyio.create_task_group() as elsewhere:
            with within_deadline("the body ended"), pytest.raises(BusClosed) as raised:
                await live(eventbus.connect(uri, namespace=witness.namespace, node="victim"))
            await until(lambda: len(ended) == 1)
        assert "cancelled one of its tasks" in str(raised.value)  # the group would take a cancellation for its own
        assert states == ["closed"]
        assert returned == []


async def test_each_call_of_a_handler_has_the_context_of_its_registration(uri: str) -> None:
    """Neither the sender's context, nor what the handler set for an earlier event, is there."""
    async with buses(uri, 2) as (a, b):
        seen: list[tuple[str, int, object]] = []
        request.set("registered")

        @b.on("n")
        def plain(event: Event) -> None:
            seen.append(("plain", event.data, request.get()))
            request.set(event.data)

        @b.on("n")
        async def waiting(event: Event) -> None:
            await checkpoint()
            seen.append(("async", event.data, request.get()))
            request.set(event.data)

        @b.on("n")
        def later(event: Event) -> Awaitable[None]:
            return waiting(event)

        @b.on_undeliverable
        async def lost(fate: eventbus.Undeliverable) -> None:
            seen.append(("hook", 0, request.get()))
            request.set("hook")

        await b.ready()
        for number in range(12):
            request.set(f"sender {number}")
            await (a, b)[number % 2].publish("n", number)
        for _ in range(2):
            await b.send(b.address, "handled.nowhere")
        await until(lambda: len(seen) == 38)
        assert {value for _, _, value in seen} == {"registered"}
        assert request.get() == "sender 11"


async def test_a_handler_that_changes_no_context_keeps_its_task(uri: str) -> None:
    async with buses(uri, 1) as (bus,):
        ids: list[int] = []

        @bus.on("n")
        async def handle(event: Event) -> None:
            token = request.set(object())
            await checkpoint()
            request.reset(token)
            ids.append(anyio.get_current_task().id)

        for _ in range(5):
            await bus.publish("n")
        await until(lambda: len(ids) == 5)
        assert len(set(ids)) == 1


async def test_values_that_cannot_be_compared_do_no_harm(uri: str) -> None:
    class Strange:
        def __eq__(self, other: object) -> bool:
            raise ValueError("compared")

        __hash__ = None  # type: ignore[assignment]

    async with buses(uri, 1) as (bus,):
        seen: list[object] = []
        request.set(first := Strange())

        @bus.on("n")
        def plain(event: Event) -> None:
            seen.append(request.get())
            request.set(Strange())

        @bus.on("n")
        async def waiting(event: Event) -> None:
            plain(event)

        for _ in range(3):
            await bus.publish("n")
        await until(lambda: len(seen) == 6)
        assert all(value is first for value in seen)
        assert bus.stats().handler_failures == 0
