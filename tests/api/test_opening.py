"""Buses and clients that are opened and closed by any task, in any order."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import eventbus
from eventbus import Bus, BusClosed, ClientTakenOver, EventBusError, NodeAlreadyPresent
from eventbus_core.testing.waiting import within_deadline
from tests.support import DEADLINE, Hooked, buses, fresh_namespace, until

T = TypeVar("T")


async def _elsewhere(function: Callable[[], Awaitable[T]]) -> T:
    """Return what *function* returns in a task of its own, which then ends."""
    found: list[T] = []

    async def call() -> None:
        found.append(await function())

    async with anyio.create_task_group() as group:
        group.start_soon(call)
    return found[0]


@settings(max_examples=15)
@given(opening=st.permutations(range(3)), closing=st.permutations(range(6)))
async def test_every_order_of_opening_and_closing(uri: str, opening: list[int], closing: list[int]) -> None:
    """Each call in a task of its own; what is still open works, whatever was closed before."""
    namespace = fresh_namespace()
    opened = {number: eventbus.connect(uri, node=f"n{number}", namespace=namespace) for number in opening}
    for number in opening:
        assert await _elsewhere(opened[number].open) is opened[number]
    clients = {number: opened[number].client(f"c{number}") for number in opening}
    handles = dict(clients)
    for client in handles.values():
        await _elsewhere(client.open)
    for step in closing:
        number = step % 3
        await _elsewhere((opened.pop(number) if step < 3 else clients.pop(number)).aclose)
        with pytest.raises(BusClosed):
            await handles[number].send("c0", "x")
        for bus in opened.values():
            for client in (clients[number] for number in clients.keys() & opened.keys()):
                await bus.send(client.name, "n", step)
                with within_deadline("the event came"):
                    assert (await client.receive()).data == step


async def test_closing_is_what_leaving_the_block_is(uri: str) -> None:
    """Accepted events are handled first; a client that is open then ends; a second close does nothing."""
    async with buses(uri, 1) as (other,):
        bus = eventbus.connect(uri, namespace=other.namespace)
        await bus.aclose()
        await bus.open()
        handled = Hooked()
        bus.on("n")(lambda event: handled(event.data))
        client = await bus.client("alice").open()
        for number in range(100):
            await bus.emit("n", number)
        await bus.aclose()
        assert handled == list(range(100))
        assert bus.state == "closed"
        assert await other.locate("alice") is None
        with pytest.raises(BusClosed):
            await client.receive()
        await client.aclose()
        await bus.aclose()
        with pytest.raises(BusClosed, match="opened once"):
            await bus.open()


async def test_a_failure_to_open_is_raised_and_leaves_nothing(uri: str) -> None:
    async with buses(uri, 1) as (first,):
        with pytest.raises(NodeAlreadyPresent):
            await eventbus.connect(uri, namespace=first.namespace, node=first.node).open()
        assert [node.id for node in await first.nodes()] == [first.node]


async def test_an_opening_that_is_cancelled_leaves_nothing(uri: str) -> None:
    namespace = fresh_namespace()
    bus = eventbus.connect(uri, namespace=namespace, node="a")
    with anyio.move_on_after(0):
        await bus.open()
    await bus.aclose()
    async with eventbus.connect(uri, namespace=namespace, node="a") as again:
        assert [node.id for node in await again.nodes()] == ["a"]


async def test_a_closing_that_is_cancelled_closes(uri: str) -> None:
    """The handler that never returns is not waited for; the bus has left when the call ends."""
    async with buses(uri, 1) as (other,):
        bus = await eventbus.connect(uri, namespace=other.namespace, close_timeout=DEADLINE).open()
        began = anyio.Event()

        @bus.on("n")
        async def hang(event: eventbus.Event) -> None:
            began.set()
            await anyio.sleep_forever()

        await bus.emit("n")
        await began.wait()
        with within_deadline("the bus closed"), anyio.move_on_after(0.05):
            await bus.aclose()
        assert bus.state == "closed"
        assert [node.id for node in await other.nodes()] == [other.node]


async def test_a_block_that_another_task_leaves_says_what_to_use(uri: str) -> None:
    bus = eventbus.connect(uri, namespace=fresh_namespace())

    async def leave() -> None:
        with pytest.raises(EventBusError, match="another task entered"):
            await bus.__aexit__(None, None, None)

    async with bus:
        await _elsewhere(leave)
        assert bus.state == "open"


async def test_only_the_block_closes_what_it_opened(uri: str) -> None:
    async with buses(uri, 1) as (bus,):
        with pytest.raises(EventBusError, match="leave that block"):
            await bus.aclose()
        with pytest.raises(BusClosed, match="opened once"):
            await bus.open()


async def test_a_bus_that_ends_by_itself_says_why_when_it_is_closed(uri: str) -> None:
    """Its calls raise BusClosed; the failure is raised once."""
    bus = await eventbus.connect(uri, namespace=fresh_namespace()).open()

    async def fail() -> None:
        raise ArithmeticError("of a task")

    bus._node.services.start(fail)
    await until(lambda: bus.state == "closed")
    with pytest.raises(BusClosed):
        await bus.nodes()
    with pytest.raises(ArithmeticError, match="of a task"):
        await bus.aclose()
    await bus.aclose()


@pytest.mark.parametrize("how", [KeyboardInterrupt, SystemExit])
def test_an_exit_of_a_handler_ends_the_program(how: type[BaseException]) -> None:
    async def main() -> None:
        bus = await eventbus.connect().open()

        @bus.on("n")
        def leave(event: eventbus.Event) -> None:
            raise how

        await bus.emit("n")
        await asyncio.sleep(DEADLINE)

    with pytest.raises(how):
        asyncio.run(main())


def test_a_bus_that_is_left_open_ends_with_its_event_loop() -> None:
    """It releases its clients, as a bus in a cancelled block does."""
    namespace = fresh_namespace()
    left: list[Bus] = []

    async def main() -> None:
        left.append(await eventbus.connect(f"memory://{namespace}").open())
        await left[0].client("alice").open()

    asyncio.run(main())
    assert left[0].state == "closed"


@pytest.fixture
async def opened(uri: str, anyio_backend: object) -> AsyncIterator[Bus]:
    bus = await eventbus.connect(uri, namespace=fresh_namespace()).open()
    yield bus
    await bus.aclose()


async def test_in_a_fixture(opened: Bus) -> None:
    async with opened.client("alice") as alice:
        await opened.send("alice", "n", 1)
        assert (await alice.receive()).data == 1


async def test_a_client_moves_between_handles_that_are_opened_and_closed_freely(uri: str) -> None:
    async with buses(uri, 2) as (a, b):
        first, second = a.client("alice"), b.client("alice")
        await first.open()
        await second.open()
        with pytest.raises(ClientTakenOver):
            await first.receive()
        await first.aclose()
        await a.send("alice", "n", 1)
        assert (await second.receive()).data == 1
        await second.aclose()
        assert await a.locate("alice") is None


def test_the_blocking_bus_opens_and_closes_in_any_order_and_thread(uri: str) -> None:
    namespace = fresh_namespace()
    one, two = (eventbus.connect_blocking(uri, namespace=namespace) for _ in range(2))
    thread = threading.Thread(target=lambda: (one.open(), two.open()))
    thread.start()
    thread.join(DEADLINE)
    alice = two.client("alice").open()
    one.send("alice", "n", 1)
    assert alice.receive(DEADLINE).data == 1
    one.close()
    two.send("alice", "n", 2)
    assert alice.receive(DEADLINE).data == 2
    two.close()
    alice.close()
    for bus in (one, two):
        bus.close()
        assert bus.state == "closed"
