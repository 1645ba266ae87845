"""Buses open and close: what they leave behind, what ends with them, and which exceptions come out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

import eventbus
from eventbus import Bus, BusClosed, Event, NamespaceMismatch, NodeAlreadyPresent
from eventbus_core import Frame, Interrupted, register
from eventbus_memory import MemoryTransport
from eventbus_memory.directory import MemoryDirectory
from tests.bus.support import DEADLINE, Hooked, Host, Inbox, buses, fence, fresh_namespace, take, tasks, until


async def test_a_bus_says_who_it_is(uri: str) -> None:
    """A bus knows its node and namespace; without an id it makes up one that no other has."""
    namespace = fresh_namespace()
    async with eventbus.connect(uri, namespace=namespace) as a, eventbus.connect(uri, namespace=namespace) as b:
        assert a.node != b.node
        assert a.namespace == b.namespace == namespace
        assert a.address == f"@{a.node}"
        assert a.node in repr(a)
        assert namespace in repr(a)
        nodes = await a.nodes()
        assert [node.id for node in nodes] == sorted([a.node, b.node])
        assert all(0 < node.lease_left <= 10 for node in nodes)
        assert len({node.incarnation for node in nodes}) == 2


async def test_a_node_is_on_the_bus_while_it_is_open(uri: str) -> None:
    """Others see a node from the moment its bus has opened until it has closed, and the same id may come back."""
    namespace = fresh_namespace()
    async with buses(uri, 1, namespace=namespace) as (a,):
        incarnations = []
        for _ in range(3):
            async with eventbus.connect(uri, namespace=namespace, node="other") as other:
                assert [node.id for node in await a.nodes()] == ["n0", "other"]
                incarnations.append(other.stats().incarnation)
            assert [node.id for node in await a.nodes()] == ["n0"]
        assert incarnations == sorted(set(incarnations))


async def test_a_live_node_keeps_its_id(uri: str) -> None:
    """A second node with the id of a live one is refused, and the first is not disturbed."""
    async with buses(uri, 2) as (a, b), b.client("bob") as bob:
        for _ in range(2):
            with pytest.raises(NodeAlreadyPresent, match="'n1' is alive"):
                await eventbus.connect(uri, namespace=b.namespace, node="n1").__aenter__()
        await a.send("bob", "hello")
        await take(bob, 1)
        assert [node.id for node in await a.nodes()] == ["n0", "n1"]
        await a.broadcast("still.there")


async def test_a_namespace_keeps_its_lane_count(uri: str) -> None:
    """A node that comes with another lane count is told which is right, and leaves nothing behind."""
    async with buses(uri, 1, lanes=8) as (a,):
        with pytest.raises(NamespaceMismatch, match=r"lane count of 8.*with 16") as caught:
            await eventbus.connect(uri, namespace=a.namespace, node="other", lanes=16).__aenter__()
        assert a.namespace in str(caught.value)
        assert [node.id for node in await a.nodes()] == ["n0"]
        async with eventbus.connect(uri, namespace=a.namespace, node="other", lanes=8):
            assert len(await a.nodes()) == 2


async def test_g12_namespaces_see_nothing_of_each_other(uri: str) -> None:
    """Nodes, clients, topics and broadcasts of one namespace do not exist in another."""
    async with buses(uri, 1) as (a,), buses(uri, 1) as (b,):
        inbox = Inbox()
        b.on(">")(inbox)
        await b.ready()
        async with b.client("bob", handler=inbox) as bob, a.client("bob", handler=(own := Inbox())):
            await bob.subscribe(">")
            await a.broadcast("x")
            await a.publish("x")
            await a.send("bob", "x")
            await own.got(1)
            await a.flush()
            await fence([b], [b])
            assert [event for event in inbox.events if not event.type.startswith("fence")] == []
            assert [node.id for node in await a.nodes()] == ["n0"]
            assert [name async for name in b.clients()] == ["bob"]


def _uses(bus: Bus) -> dict[str, Callable[[], Awaitable[Any]]]:
    """Return whatever can be awaited of *bus*."""

    async def clients() -> None:
        async for _ in bus.clients():
            pass

    return {
        "send": lambda: bus.send("bob", "n"),
        "send to itself": lambda: bus.send(bus.address, "n"),
        "publish": lambda: bus.publish("n"),
        "broadcast": lambda: bus.broadcast("n"),
        "emit": lambda: bus.emit("n"),
        "request": lambda: bus.request("bob", "n", timeout=DEADLINE),
        "wait_for": lambda: bus.wait_for("n", timeout=DEADLINE),
        "client": bus.client("bob").__aenter__,
        "locate": lambda: bus.locate("bob"),
        "nodes": bus.nodes,
        "clients": clients,
        "flush": bus.flush,
        "ready": bus.ready,
    }


async def test_a_bus_is_used_while_it_is_open(uri: str) -> None:
    """Before it is opened and after it was closed, every use of a bus raises BusClosed, and none hangs."""
    bus = eventbus.connect(uri, namespace=fresh_namespace())
    for name, use in _uses(bus).items():
        with anyio.fail_after(DEADLINE), pytest.raises(BusClosed, match="is not open"):
            pytest.fail(f"{name} returned {await use()!r}")
    async with bus:
        pass
    for name, use in _uses(bus).items():
        with anyio.fail_after(DEADLINE), pytest.raises(BusClosed, match="is not open"):
            pytest.fail(f"{name} returned {await use()!r}")
    assert bus.stats().clients == 0
    repr(bus)


async def test_a_bus_is_opened_once(uri: str) -> None:
    """Neither an open bus nor a closed one can be entered; the open one goes on."""
    bus = eventbus.connect(uri, namespace=fresh_namespace())
    async with bus:
        with pytest.raises(BusClosed, match="opened once"):
            await bus.__aenter__()
        await bus.emit("n")
    with pytest.raises(BusClosed, match="opened once"):
        await bus.__aenter__()


async def test_the_exception_of_the_body_comes_out_as_it_is(uri: str) -> None:
    """What the body of ``async with`` raises is raised, itself and alone; the node has left all the same."""

    class Oops(Exception):
        pass

    namespace = fresh_namespace()
    async with buses(uri, 1, namespace=namespace) as (a,):
        for error in (Oops("x"), KeyboardInterrupt(), ExceptionGroup("mine", [Oops("x")]), BusClosed("mine")):
            with pytest.raises(type(error)) as caught:
                async with eventbus.connect(uri, namespace=namespace, node="other") as bus, bus.client("bob"):
                    raise error
            assert caught.value is error
            assert [node.id for node in await a.nodes()] == ["n0"]
            assert await a.locate("bob") is None


async def test_cancellation_of_the_body_comes_out_as_it_is(uri: str) -> None:
    """A cancelled body ends its scope and no other, quickly, and the node has left."""
    namespace = fresh_namespace()
    async with buses(uri, 1, namespace=namespace) as (a,):
        with anyio.CancelScope() as scope:
            async with eventbus.connect(uri, namespace=namespace, node="other") as bus, bus.client("bob"):
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        with anyio.move_on_after(0.01) as timeout:
            async with eventbus.connect(uri, namespace=namespace, node="third"):
                await anyio.sleep_forever()
        assert timeout.cancelled_caught
        assert [node.id for node in await a.nodes()] == ["n0"]
        assert await a.locate("bob") is None


async def test_buses_may_close_in_any_order(uri: str) -> None:
    """Buses in tasks of their own end in any order, and the others go on."""
    namespace = fresh_namespace()
    async with tasks() as group:
        hosts = {f"n{number}": Host(uri, node=f"n{number}", namespace=namespace) for number in range(4)}
        for host in hosts.values():
            await host.open(group)
        for name in ("n1", "n3", "n0"):
            await hosts.pop(name).close()
            for host in hosts.values():
                assert [node.id for node in await host.bus.nodes()] == sorted(hosts)
                await host.bus.broadcast("n")
        await hosts["n2"].close()


class _Crashing(MemoryTransport):
    """Raises what it is told to, where it is told to."""

    where = ""
    error: BaseException = RuntimeError("crash")
    ready: anyio.Event

    async def receive(self) -> AsyncIterator[Frame | Interrupted]:
        if self.where == "at once":
            raise self.error
        items: Any = super().receive()
        async with aclosing(items):
            async for item in items:
                yield item
                if self.where == "receive":
                    raise self.error

    async def publish(self, frames: Any) -> Any:
        if self.where == "publish":
            raise self.error
        return await super().publish(frames)

    async def join(self, partitions: Any) -> None:
        if self.where == "join lane" and any(partition.startswith("l:") for partition in partitions):
            raise self.error
        await super().join(partitions)


register("crashing", _Crashing)


@pytest.mark.parametrize("where", ["at once", "receive", "publish", "join lane"])
@pytest.mark.parametrize("body", ["sleeping", "busy", "raising"])
async def test_a_task_of_the_bus_that_crashes_ends_the_body(
    where: str, body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault in a backend ends the body of ``async with``, and comes out of it as that very exception."""
    monkeypatch.setattr(_Crashing, "where", where)
    monkeypatch.setattr(_Crashing, "error", error := RuntimeError("crash"))
    namespace = fresh_namespace()
    async with buses("memory://tests", 1, namespace=namespace) as (a,):

        async def live() -> None:
            async with eventbus.connect("crashing://tests", namespace=namespace, node="other") as bus:
                bus.on("n")(Inbox())
                await bus.broadcast("n")
                await a.broadcast("n")
                if body == "sleeping":
                    await anyio.sleep_forever()
                elif body == "busy":
                    while True:
                        await bus.broadcast("n")
                        await checkpoint()
                else:
                    await until(lambda: False)

        with pytest.raises(RuntimeError) as caught, anyio.fail_after(DEADLINE):
            await live()
        assert caught.value is error
        assert [node.id for node in await a.nodes()] == ["n0"]


async def test_a_crash_while_opening_comes_out_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a task of the bus crashes before ``async with`` has been entered, entering raises that very exception."""
    monkeypatch.setattr(_Crashing, "where", "join lane")
    monkeypatch.setattr(_Crashing, "error", error := RuntimeError("crash"))
    namespace = fresh_namespace()
    bus = eventbus.connect("crashing://tests", namespace=namespace, node="other")
    bus.on("n")(Inbox())
    with pytest.raises(RuntimeError) as caught:
        await bus.__aenter__()
    assert caught.value is error
    async with buses("memory://tests", 1, namespace=namespace) as (a,):
        assert [node.id for node in await a.nodes()] == ["n0"]


async def test_a_crash_wins_over_the_end_of_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash that comes while the bus closes is raised too: nothing is swallowed."""
    namespace = fresh_namespace()
    monkeypatch.setattr(_Crashing, "error", error := RuntimeError("crash"))

    async def live() -> None:
        async with eventbus.connect("crashing://tests", namespace=namespace, node="other") as bus:
            monkeypatch.setattr(_Crashing, "where", "publish")
            await bus.broadcast("n")

    with pytest.raises(RuntimeError) as caught:
        await live()
    assert caught.value is error


async def test_a_directory_that_refuses_to_let_a_node_go_ends_the_bus_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its lease will end; the log says so, and no task of the bus goes on."""

    async def refuse(directory: MemoryDirectory) -> None:
        raise eventbus.EventBusError("you may not")

    monkeypatch.setattr(MemoryDirectory, "leave", refuse)
    with caplog.at_level(logging.WARNING, "eventbus"), anyio.fail_after(DEADLINE):
        async with eventbus.connect("memory://", namespace=fresh_namespace()):
            pass
    assert "could not leave, its lease will end: you may not" in caplog.text


async def test_closing_lets_what_was_accepted_be_handled(uri: str) -> None:
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
    begun, finished = anyio.Event(), anyio.Event()

    async def work(event: Event) -> None:
        begun.set()
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
        assert 0.1 <= anyio.current_time() - before < 2.0
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
    """No task waits for ever on a bus that has closed: readers, requests, subscribers and senders all hear of it."""
    options: dict[str, Any] = {"mailbox_events": 1, "laggard_timeout": 60.0, "close_timeout": 0.1}
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


async def test_closing_while_much_is_under_way(uri: str) -> None:
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


async def test_a_password_is_in_no_repr(uri: str) -> None:
    """Neither a bus nor its messages show the password of its URI."""
    bus = eventbus.connect("memory://user:s3cret@tests", namespace=fresh_namespace())
    assert "s3cret" not in repr(bus)
    assert "s3cret" not in str(bus)


async def test_a_bus_that_is_done_says_so_in_no_log(uri: str, caplog: pytest.LogCaptureFixture) -> None:
    """Opening, using and closing a bus in good order logs no warning."""
    caplog.set_level(logging.DEBUG, logger="eventbus")
    async with buses(uri, 2) as (a, b), b.client("bob") as bob:
        await a.send("bob", "n")
        await take(bob, 1)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


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
