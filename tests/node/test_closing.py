"""A bus that closes: accepted events are handled, waiting calls end, and no task is left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

import eventbus
from eventbus import BusClosed, Event
from tests.support import DEADLINE, Hooked, Host, Inbox, buses, ends_with_the_bus, fresh_namespace, tasks, until


async def test_accepted_events_are_handled_before_the_bus_closes(uri: str) -> None:
    """What was accepted before the end of the body reaches near and far handlers, slow ones too."""
    namespace = fresh_namespace()
    async with buses(uri, 1, namespace=namespace) as (a,):
        a.on("n")(far := Inbox())
        await a.ready()
        near: list[int] = []
        async with eventbus.connect(uri, namespace=namespace, node="other") as bus:

            @bus.on("n")
            async def slow(event: Event) -> None:
                for _ in range(3):
                    await checkpoint()
                near.append(event.data)

            for number in range(500):
                await bus.publish("n", number)
        assert near == list(range(500))
        await far.got(500)
        assert far.data == list(range(500))


@pytest.mark.parametrize("how", ["once", "off", "client"])
@pytest.mark.parametrize("late", [False, True], ids=["async", "plain that returns an awaitable"])
async def test_closing_waits_for_handlers_at_work_that_get_no_more(uri: str, how: str, late: bool) -> None:
    """A handler for one event, one that was taken off, and that of a client that was left finish what they are at."""
    begun, go_on, finished = anyio.Event(), anyio.Event(), anyio.Event()

    async def work(event: Event) -> None:
        begun.set()
        await go_on.wait()
        for _ in range(20):
            await anyio.sleep(0.001)
        finished.set()

    handler: Any = (lambda event: work(event)) if late else work
    async with buses(uri, 1) as (bus,):
        if how == "client":
            async with bus.client("bob", handler=handler):
                await bus.send("bob", "n")
                await begun.wait()
        else:
            (bus.once if how == "once" else bus.on)("n")(handler)
            await bus.emit("n")
            await begun.wait()
            bus.off(handler)
        assert not finished.is_set()
        go_on.set()
    assert finished.is_set()


async def test_closing_waits_no_longer_than_it_may(uri: str) -> None:
    """A handler that never returns holds up the end of its bus for ``close_timeout`` at most."""
    async with buses(uri, 1) as (a,):
        with anyio.fail_after(DEADLINE):
            async with eventbus.connect(uri, namespace=a.namespace, node="other", close_timeout=0.1) as bus:

                @bus.on("n")
                async def never(event: Event) -> None:
                    await anyio.sleep_forever()

                await bus.emit("n")
                before = anyio.current_time()
        assert anyio.current_time() - before >= 0.1
        assert [node.id for node in await a.nodes()] == ["n0"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_cancellation_by_asyncio_while_closing_lets_no_task_run_on(uri: str) -> None:
    """It passes the shields of anyio; the bus closes all the same."""

    async def cancelled_at_the_end_of_its_body() -> None:
        task = asyncio.current_task()
        assert task is not None
        async with eventbus.connect(uri, namespace=fresh_namespace()):
            task.cancel()

    task = asyncio.create_task(cancelled_at_the_end_of_its_body())
    done, _ = await asyncio.wait([task], timeout=DEADLINE)
    assert done, "it hangs"
    assert task.cancelled()


async def test_whatever_waits_ends_with_the_bus(uri: str) -> None:
    """No task waits on a bus that has closed: readers, requests, subscribers and senders all raise."""
    options: dict[str, Any] = {"mailbox_events": 1, "slow_consumer_timeout": 60.0, "close_timeout": 0.1}
    async with buses(uri, 1) as (other,), tasks() as group, other.client("silent"):
        host = Host(uri, namespace=other.namespace, node="closing", **options)
        bus = await host.open(group)
        full = await bus.client("full").__aenter__()
        reader = await bus.client("reader").__aenter__()
        await bus.send("full", "n")
        ended: dict[str, BaseException | None] = {}

        async def run(name: str, use: Callable[[], Awaitable[Any]]) -> None:
            ended[name] = None
            try:
                await use()
            except BusClosed as error:
                ended[name] = error

        async def iterate() -> None:
            async for _ in reader:
                pass

        waiting: dict[str, Callable[[], Awaitable[Any]]] = {
            "reader": iterate,
            "request": lambda: bus.request("silent", "n", timeout=DEADLINE),
            "sender": lambda: bus.send("full", "n"),
            "wait_for": lambda: bus.wait_for("n"),
        }
        for name, use in waiting.items():
            group.start_soon(run, name, use)
        await until(lambda: len(ended) == len(waiting) and bus.stats().pending_requests == 1)
        await host.close()
        await until(lambda: all(ended.values()), f"these still wait: {[n for n, e in ended.items() if e is None]}")
        with pytest.raises(BusClosed):
            await full.receive()


@pytest.mark.parametrize("question", ["locate", "nodes", "clients", "explain"])
async def test_a_question_to_a_directory_that_hangs_ends_with_the_bus(
    uri: str, question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with buses(uri, 1) as (other,), tasks() as group:
        host = Host(uri, namespace=other.namespace, node="closing", close_timeout=0.1)
        directory, hanging = type(other._node.directory), list[str]()
        nodes, locate, clients = directory.nodes, directory.locate, directory.clients
        bus = await host.open(group)

        async def hang(self: Any) -> None:
            if self is bus._node.directory and not bus._node.state.leaving:
                hanging.append(question)
                await anyio.sleep_forever()

        async def late_nodes(self: Any) -> Any:
            await hang(self)
            return await nodes(self)

        async def late_locate(self: Any, names: Any) -> Any:
            await hang(self)
            return await locate(self, names)

        async def late_clients(self: Any, node: str | None = None) -> Any:
            await hang(self)
            async for client in clients(self, node):
                yield client

        async def ask() -> None:
            if question == "clients":
                await anext(bus.clients())
            else:
                await getattr(bus, question)(*(() if question == "nodes" else ("bob",)))

        late = {"nodes": late_nodes, "locate": late_locate, "clients": late_clients}
        for name, slow in late.items():
            monkeypatch.setattr(directory, name, slow)
        monkeypatch.setattr(bus._node.locator._clients, "_call", bus._node.directory.locate)
        await ends_with_the_bus(ask, hanging, host, group, monkeypatch)


async def test_closing_while_many_events_are_in_flight(uri: str) -> None:
    """A bus under full fire from itself and others closes in time; what it sends after is refused."""
    async with buses(uri, 1) as (other,), tasks() as group:
        inbox = Inbox()
        other.on("n")(inbox)
        await other.client("target", handler=inbox).__aenter__()
        host = Host(uri, namespace=other.namespace, node="closing")
        bus = await host.open(group)
        bus.on("n")(Inbox())
        refused = anyio.Event()
        accepted = 0

        async def fire() -> None:
            nonlocal accepted
            try:
                while True:
                    await bus.send("target", "n", accepted)
                    accepted += 1
                    if accepted % 50 == 0:
                        await checkpoint()
            except BusClosed:
                refused.set()

        async def fire_back() -> None:
            while True:
                await other.broadcast("m")
                await checkpoint()

        group.start_soon(fire)
        group.start_soon(fire_back)
        await inbox.got(100)
        await host.close()
        await refused.wait()
        await until(lambda: len(inbox) == accepted, f"{accepted} were accepted")
        assert inbox.data == list(range(accepted))


async def test_no_task_is_left(uri: str) -> None:
    """A bus that has closed leaves no task, however it was used and ended."""
    before = len(anyio.get_running_tasks())
    for ending in ("normal", "error", "cancelled"):
        with anyio.CancelScope() as scope:
            try:
                async with buses(uri, 2) as (a, b), b.client("bob", handler=Inbox()) as bob:
                    b.on("n")(Inbox())
                    await bob.subscribe("n")
                    await a.publish("n")
                    await a.send("bob", "n")
                    if ending == "error":
                        raise LookupError
                    if ending == "cancelled":
                        scope.cancel()
                        await checkpoint()
            except LookupError:
                pass
        await until(lambda: len(anyio.get_running_tasks()) == before)


async def test_a_handle_may_outlive_its_bus(uri: str) -> None:
    """Closing a client after its bus does nothing; using it says that it is over."""
    async with buses(uri, 1) as (bus,):
        alice = await bus.client("alice").__aenter__()
        await alice.subscribe("n")
    for use in (
        alice.receive,
        lambda: alice.send("alice", "n"),
        lambda: alice.publish("n"),
        lambda: alice.subscribe("m"),
        lambda: alice.unsubscribe("n"),
    ):
        with anyio.fail_after(DEADLINE), pytest.raises(BusClosed):
            await use()
    with anyio.fail_after(DEADLINE):
        await alice.aclose()


async def test_hooks_are_called_to_the_end(uri: str) -> None:
    """What happened before a bus closed is told to its hooks, slow ones too."""
    errors = Hooked()
    async with buses(uri, 1) as (bus,):

        @bus.on_error
        async def slow(event: Event, error: Exception) -> None:
            await checkpoint()
            errors(event.data)

        @bus.on("n")
        def bad(event: Event) -> None:
            raise ValueError

        for number in range(20):
            await bus.emit("n", number)
    assert errors == list(range(20))
