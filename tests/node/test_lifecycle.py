"""A bus opens and closes: its id, its namespace, its states, and the exceptions that come out."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

import eventbus
from eventbus import Bus, BusClosed, NamespaceMismatch, NodeAlreadyPresent, TransportUnavailable
from eventbus_memory import MemoryTransport
from tests.support import DEADLINE, Host, Inbox, buses, fence, fresh_namespace, take, tasks


async def test_a_bus_knows_its_node_and_namespace(uri: str) -> None:
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
            with pytest.raises(NodeAlreadyPresent, match="has the id 'n1'"):
                await eventbus.connect(uri, namespace=b.namespace, node="n1").__aenter__()
        await a.send("bob", "hello")
        await take(bob, 1)
        assert [node.id for node in await a.nodes()] == ["n0", "n1"]
        await a.broadcast("still.there")


async def test_a_namespace_keeps_its_lane_count(uri: str) -> None:
    """A node that comes with another lane count is told which is right, and leaves nothing behind."""
    async with buses(uri, 1, lanes=8) as (a,):
        with pytest.raises(NamespaceMismatch, match=r"lane count of 8, this node has 16") as caught:
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


class Unreachable(MemoryTransport):
    """Fails to connect, as a backend does: with an error of the network as the cause."""

    async def open(self) -> None:
        try:
            raise ConnectionRefusedError(111, "Connect call failed")
        except OSError as error:
            raise TransportUnavailable(f"{self.uri} cannot be reached: {error}") from error


async def test_a_broker_that_is_away_at_the_start_is_one_short_exception() -> None:
    """The log of a server that cannot start shows one exception without causes, whose last line says it all."""
    eventbus.register("unreachable", Unreachable)
    with pytest.raises(TransportUnavailable) as caught:
        async with eventbus.connect("unreachable://host"):
            pass
    shown = "".join(traceback.format_exception(caught.value))
    assert shown.count("Traceback") == 1
    assert shown.splitlines()[-1].endswith("unreachable://host cannot be reached: [Errno 111] Connect call failed")
    assert [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)][-1] == "__aenter__"
