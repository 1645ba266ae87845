"""Cancellation at every await: the cancelled call is undone, and no other task notices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import anyio
import pytest

import eventbus
from eventbus import Bus, BusClosed, Client, ClientTakenOver, Event
from eventbus_core.api import discovery
from eventbus_core.api.discovery import load_backend
from eventbus_core.backend import Partition, Transport
from tests.node.cancelling import Attempt, attempts_at_every_await, attempts_at_every_turn
from tests.support import (
    DEADLINE,
    Hooked,
    Host,
    Inbox,
    Reader,
    buses,
    fence,
    fresh_namespace,
    read,
    take,
    tasks,
    until,
)

Attempts = Callable[[], Iterator[Attempt]]
everywhere = pytest.mark.parametrize(
    "attempts", [attempts_at_every_await, attempts_at_every_turn], ids=["every-await", "every-turn"]
)


class Spies(list[Any]):
    """The transports that were made, each with the partitions that it has joined."""


@pytest.fixture
def spies(uri: str, monkeypatch: pytest.MonkeyPatch) -> Spies:
    """Watch what the transports of this test join and leave."""
    scheme = uri.partition("://")[0]
    backend: Any = load_backend(scheme)
    made = Spies()

    class Spy(backend):  # type: ignore[misc]
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.joined: set[Partition] = set()
            self.closed = False
            made.append(self)

        async def join(self, partitions: Sequence[Partition]) -> None:
            self.joined.update(partitions)
            await super().join(partitions)

        async def leave(self, partitions: Sequence[Partition]) -> None:
            await super().leave(partitions)
            self.joined.difference_update(partitions)

        async def aclose(self) -> None:
            self.closed = True
            await super().aclose()

    assert issubclass(Spy, Transport)
    monkeypatch.setitem(discovery._registered, scheme, Spy)
    return made


async def _node_ids(bus: Bus) -> list[str]:
    return [node.id for node in await bus.nodes()]


@everywhere
@pytest.mark.parametrize("way", ["block", "calls"])
async def test_connect_cancelled(uri: str, attempts: Attempts, spies: Spies, way: str) -> None:
    """A bus that was cancelled while it opened is not there: its id is free, its transport closed, its tasks gone."""
    async with buses(uri, 1) as (witness,), witness.client("alice", handler=(inbox := Inbox())):
        await witness.send("alice", "n", "still there")
        await inbox.got()
        async with eventbus.connect(uri, namespace=witness.namespace, node="n1") as first:
            await fence([witness], [first])  # the witness's writer starts with the first thing that it writes
        before = len(anyio.get_running_tasks())
        for attempt in attempts():
            bus = eventbus.connect(uri, namespace=witness.namespace, node="n1")
            bus.on("a.*")(Inbox())

            async def open_and_close(start: Callable[[], None], bus: Bus = bus) -> None:
                start()
                if way == "calls":
                    await bus.open()
                    await bus.aclose()
                    return
                async with bus:
                    pass

            await attempt.run_from(open_and_close)
            assert await _node_ids(witness) == ["n0"], attempt
            assert spies[-1].closed, attempt
            await until(lambda: len(anyio.get_running_tasks()) <= before, str(attempt))
            with pytest.raises(BusClosed):
                await bus.emit("n")
            async with eventbus.connect(uri, namespace=witness.namespace, node="n1") as again:
                await again.send("alice", "n", "still there")
        assert set(inbox.data) <= {"still there"}
        assert witness.stats().refused == {}


@everywhere
async def test_close_cancelled(uri: str, attempts: Attempts, spies: Spies) -> None:
    """A bus that was cancelled while it closed has closed: off the list, its clients free, its tasks gone."""
    async with buses(uri, 1) as (witness,):
        witness.on("n")(far := Inbox())
        await witness.publish("n")
        await far.got()
        await until(lambda: not witness._node.outbox._routes, "the witness rests: its writer has ended")
        rested = len(anyio.get_running_tasks())
        before = rested + 1  # the witness may be writing
        for count, attempt in enumerate(attempts(), start=2):

            async def use(start: Callable[[], None]) -> None:
                async with eventbus.connect(uri, namespace=witness.namespace, node="n1") as bus:
                    bus.on("n")(Inbox())
                    client = await bus.client("bob", handler=Inbox()).__aenter__()
                    await client.subscribe("n")
                    await client.publish("n")
                    await bus.flush()
                    start()

            await attempt.run_from(use)
            assert await _node_ids(witness) == ["n0"], attempt
            assert await witness.locate("bob") is None, attempt
            assert spies[-1].closed, attempt
            await until(lambda: len(anyio.get_running_tasks()) <= before, str(attempt))
            await far.got(count)
        await until(lambda: len(anyio.get_running_tasks()) <= rested, "no task is left, and the witness rests")


@everywhere
@pytest.mark.parametrize("held", ["free", "here", "elsewhere"])
async def test_claim_cancelled(uri: str, attempts: Attempts, held: str) -> None:
    """After a claim was cancelled the former holder has the client, or no node has it and the former holder knows."""
    async with buses(uri, 3) as (a, b, witness), tasks() as group:
        for attempt in attempts():
            former: Client | None = None
            reader: Reader | None = None
            if held != "free":
                former = await (a if held == "elsewhere" else b).client("bob").__aenter__()
                reader = read(group, former)
            client = b.client("bob")
            await attempt.run(client.__aenter__)
            if attempt.over or not attempt.cancelled:
                await client.aclose()
            if former is not None and reader is not None:

                async def agreed(former: Client = former, reader: Reader = reader) -> bool:
                    owner = await witness.locate("bob")
                    if owner is not None:
                        return reader.ended is None and owner.epoch == former.epoch
                    return isinstance(reader.ended, ClientTakenOver)

                await until(agreed, str(attempt))
                if reader.ended is None:
                    for bus in (a, b, witness):
                        await bus.send("bob", "n", bus.node)
                    await reader.got(3)
                await former.aclose()

            async def free() -> bool:
                return await witness.locate("bob") is None

            await until(free, str(attempt))
            assert (a.stats().clients, b.stats().clients) == (0, 0), attempt
            for bus in (a, b, witness):
                with pytest.raises(eventbus.ClientNotFound):
                    await _send_for_good(bus, "bob")


async def _send_for_good(bus: Bus, target: str) -> None:
    """Send until no stale route takes it."""
    for _ in range(3):
        lost = Hooked()
        bus.on_undeliverable(lost)
        await bus.send(target, "n")
        await until(partial(bool, lost))


@everywhere
async def test_release_cancelled(uri: str, attempts: Attempts) -> None:
    """A client whose release was cancelled is released all the same, soon; what waited for it is reported."""
    async with buses(uri, 2) as (a, b):
        lost = Hooked()
        a.on_undeliverable(lost)
        for count, attempt in enumerate(attempts(), start=1):
            client = await b.client("bob").__aenter__()
            await client.subscribe("n")
            await a.send("bob", "n", 1)
            await fence([a], [b])
            await attempt.run(client.aclose)

            async def free() -> bool:
                return await a.locate("bob") is None

            await until(free, str(attempt))

            def reported(count: int = count) -> bool:
                return len(lost) == count

            await until(reported, str(attempt))
            with pytest.raises(BusClosed):
                await client.receive()
            async with b.client("bob", takeover=False):
                pass


@everywhere
async def test_subscribe_cancelled(uri: str, attempts: Attempts, spies: Spies) -> None:
    """A subscription that was cancelled is none: nothing of it comes, its lanes are left, others on them stay."""
    async with buses(uri, 2) as (a, b), b.client("bob") as bob, b.client("other", handler=(inbox := Inbox())) as other:
        spy = next(spy for spy in spies if spy.node == "n1")
        await other.subscribe("shared")
        home = set(spy.joined)
        for count, attempt in enumerate(attempts(), start=1):
            for pattern in (f"mine.{count}", "shared", "mine.*"):
                await attempt.run(partial(bob.subscribe, pattern))
                if attempt.over or not attempt.cancelled:
                    await bob.unsubscribe(pattern)
                await until(lambda: spy.joined == home, f"{attempt}: {pattern}")
            await a.publish(f"mine.{count}")
            await a.publish("shared", count)
            await inbox.got(count)
            await a.send("bob", "last")
            assert [event.type for event in await take(bob, 1)] == ["last"], attempt
        assert inbox.data == list(range(1, count + 1))


@everywhere
async def test_a_send_cancelled_while_it_waits_is_not_sent(uri: str, attempts: Attempts) -> None:
    """An event whose send was cancelled reaches no receiver; all others arrive, in order."""
    async with buses(uri, 2) as (a, b):
        for attempt in attempts():
            async with b.client("bob", handler=(inbox := Inbox())):
                # Of each place of sending: one that has to look the client up first.
                sent = await attempt.run(lambda: _sent(a, "bob", "n", 1))
                await a.send("bob", "n", 2)
                await inbox.got(1 + bool(sent))
                await fence([a], [b])
                assert inbox.data == ([1, 2] if sent else [2]), attempt
            a._node.table.forget("bob")
        async with buses(uri, 1, mailbox_events=1, slow_consumer_timeout=60.0) as (bus,):
            for attempt in attempts():
                async with bus.client("bob") as bob:
                    await bus.send("bob", "n", 0)

                    async def open_later() -> None:
                        for _ in range(20):
                            await anyio.lowlevel.checkpoint()
                        await bob.receive()

                    async with anyio.create_task_group() as reading:
                        reading.start_soon(open_later)
                        sent = await attempt.run(lambda: _sent(bus, "bob", "n", 1))
                    await bus.send("bob", "n", 2) if not sent else None
                    (event,) = await take(bob, 1)
                    assert event.data == (1 if sent else 2), attempt


async def _sent(bus: Bus, target: str, type: str, data: object) -> bool:
    await bus.send(target, type, data)
    return True


@everywhere
async def test_waiting_calls_cancelled(uri: str, attempts: Attempts) -> None:
    """Requests, look-ups and waits that were cancelled leave nothing that waits for their answers."""
    async with buses(uri, 2) as (a, b), b.client("bob", handler=Inbox()):

        @b.on("ask")
        async def answer(event: Event) -> None:
            await b.reply(event, event.data)

        calls: list[Callable[[], Any]] = [
            lambda: a.request("@n1", "ask", 1, timeout=DEADLINE),
            lambda: a.request("bob", "ask", 1, timeout=0.05),
            lambda: a.locate("bob"),
            lambda: a.wait_for("never", timeout=0.01),
            a.flush,
            a.ready,
            a.nodes,
        ]
        for call in calls:
            for attempt in attempts():
                try:
                    await attempt.run(call)
                except eventbus.RequestTimeout:
                    attempt.over = True
                assert a.stats().pending_requests == 0
                assert not a._node.handlers
        assert (await a.request("@n1", "ask", 2, timeout=DEADLINE)).data == 2
        owner = await a.locate("bob")
        assert owner is not None


@everywhere
async def test_reading_cancelled_loses_nothing(uri: str, attempts: Attempts) -> None:
    """A read that was cancelled has taken nothing: the next read gets the event."""
    async with buses(uri, 2) as (a, b), b.client("bob") as bob:
        for expected, attempt in enumerate(attempts()):
            async with anyio.create_task_group() as group:
                group.start_soon(a.send, "bob", "n", expected)
                event = await attempt.run(bob.receive)
            if event is None:
                (event,) = await take(bob, 1)
            assert event.data == expected, attempt


async def test_a_cancelled_host_leaves_in_good_order(uri: str) -> None:
    """A process that is told to stop by cancellation has its node off the bus and its clients free at once."""
    namespace = fresh_namespace()
    async with buses(uri, 1, namespace=namespace) as (a,):
        lost = Hooked()
        a.on_undeliverable(lost)
        with anyio.fail_after(DEADLINE):
            async with anyio.create_task_group() as group:
                host = Host(uri, node="stopped", namespace=namespace, lease=2 * DEADLINE, close_timeout=2 * DEADLINE)
                bus = await host.open(group)
                await bus.client("bob").__aenter__()
                await a.send("bob", "n")
                await fence([a], [bus])
                group.cancel_scope.cancel()
        assert await _node_ids(a) == ["n0"]
        assert await a.locate("bob") is None
        await until(lambda: len(lost) == 1)
