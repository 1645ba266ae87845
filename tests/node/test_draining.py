"""Nodes that drain: their clients go to other nodes, one after the other, with all that waits for them."""

from __future__ import annotations

import math
from contextlib import suppress
from functools import partial
from time import monotonic

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

import eventbus
from eventbus import Bus, Client, NodeDraining
from tests.support import DEADLINE, Hooked, Inbox, buses, fence, fresh_namespace, take, until

ASKING = True


async def sent_away(client: Client) -> NodeDraining:
    """Return why the handle of *client* has ended, which is a drain."""
    with anyio.fail_after(DEADLINE):
        reason = await client.ended()
    assert isinstance(reason, NodeDraining), reason
    return reason


async def test_a_draining_node_claims_no_client_and_does_all_else(uri: str) -> None:
    async with buses(uri, 2) as (a, b):
        heard = Inbox()
        a.on("news", heard)
        await a.ready()
        assert a.state == "open"
        await a.drain(0)
        assert (a.state, a.stats().state) == ("drained", "drained")
        text = f"node '{a.node}' is draining.*client 'bob'.*to another node"
        with pytest.raises(NodeDraining, match=text) as refused:
            await a.client("bob").open()
        assert (refused.value.node, refused.value.client) == (a.node, "bob")
        assert 0 <= refused.value.retry_after <= 1
        async with b.client("bob") as bob:
            await a.send("bob", "hello")
            await b.publish("news")
            assert [event.type for event in await take(bob, 1)] == ["hello"]
            await until(lambda: len(heard) == 1)
        await a.drain(0)  # again, which does nothing
    assert a.state == "closed"


async def test_a_client_goes_whatever_its_name(uri: str) -> None:
    """Those of queues stay, but a name alone makes none."""
    async with buses(uri, 1, close_timeout=0.1) as (bus,):
        clients = [await bus.client(f"{tenant}/jobs").open() for tenant in ("queue", "queue-dispatcher")]
        await bus.drain(0)
        for client in clients:
            assert (await sent_away(client)).node == bus.node


@pytest.mark.parametrize("kind", ["iterating", "handler"])
async def test_owners_are_told_and_what_waits_goes_with_the_client(uri: str, kind: str) -> None:
    """Each event comes once, in order: before the drain, while no node holds the client, and after its next claim."""
    async with buses(uri, 3, close_timeout=0.1) as (a, b, c):
        lost, got = Hooked(), Inbox()
        for bus in (a, b, c):
            bus.on_undeliverable(lost)
        old = a.client("bob", handler=got) if kind == "handler" else a.client("bob")
        async with old:
            for number in range(5):
                await c.send("bob", "n", number)
            await fence([c], [a])
            before = [] if kind == "handler" else await take(old, 2)
            await until(lambda: kind == "iterating" or len(got) == 5)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(a.drain, 0.1)
                reason = await sent_away(old)
                assert a.state in ("draining", "drained")
                with pytest.raises(NodeDraining):
                    await old.send("bob", "n")
                for number in range(5, 10):
                    await c.send("bob", "n", number)
                await fence([c], [a])
                assert (a.stats().clients, a.stats().lingering) == (1, 1)
                await old.aclose()
            assert a.state == "drained"
            assert 0 <= reason.retry_after <= 1
        async with b.client("bob") as new:
            for number in range(10, 15):
                await c.send("bob", "n", number)
            handled = [event.data for event in (got.events if kind == "handler" else before)]
            rest = await take(new, 15 - len(handled))
            assert handled + [event.data for event in rest] == list(range(15))
        assert a.stats().clients == 0
        assert not lost


@pytest.mark.usefixtures("patient_adoption")
async def test_what_waits_goes_to_another_node_when_a_drained_one_closes(uri: str) -> None:
    """A client without ``linger`` has time to come back, though its node is gone by then."""
    lost = Hooked()
    namespace = fresh_namespace()
    async with buses(uri, 1, namespace=namespace) as (b,):
        b.on_undeliverable(lost)
        async with eventbus.connect(uri, node="leaves", namespace=namespace, close_timeout=0.1) as a:
            async with a.client("bob") as bob:
                await b.send("bob", "n", 0)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(a.drain, 0)
                    await sent_away(bob)
                    await bob.aclose()
            await b.send("bob", "n", 1)
        async with b.client("bob") as back:
            assert [event.data for event in await take(back, 2)] == [0, 1]
        assert not lost


async def test_a_drain_ends_though_an_owner_does_not_close_its_handle(uri: str) -> None:
    async with buses(uri, 1, close_timeout=0.2) as (a,), a.client("bob"):
        with anyio.fail_after(DEADLINE):
            await a.drain(0)
        assert a.state == "drained"


async def test_a_drain_waits_until_clients_are_held_elsewhere(uri: str) -> None:
    """So a program that closes its bus then leaves no client without a node."""
    async with buses(uri, 2) as (a, b), anyio.create_task_group() as tasks:
        bob = await a.client("bob").open()
        tasks.start_soon(a.drain, 0)
        await sent_away(bob)
        await bob.aclose()
        await anyio.wait_all_tasks_blocked()
        assert a.state == "draining"
        async with b.client("bob"):
            await until(lambda: a.state == "drained")


async def test_a_cancelled_call_leaves_the_drain_to_go_on(uri: str) -> None:
    async with buses(uri, 1, close_timeout=0.1) as (a,), a.client("bob") as bob:
        with anyio.move_on_after(0):
            await a.drain(0.05)
        await sent_away(bob)
        await bob.aclose()
        with anyio.fail_after(DEADLINE):
            await a.drained()
        assert a.state == "drained"


async def test_a_bus_that_closes_ends_the_wait_for_a_drain(uri: str) -> None:
    async with anyio.create_task_group() as tasks, buses(uri, 1) as (a,), a.client("bob"):
        tasks.start_soon(a.drain, 3600)
        await until(lambda: a.state == "draining")
        tasks.start_soon(a.drained)
        await anyio.wait_all_tasks_blocked()
    assert a.state == "closed"
    with pytest.raises(eventbus.BusClosed):
        await a.drain()
    with pytest.raises(eventbus.BusClosed):
        await a.drained()


async def test_a_node_can_be_asked_to_drain(uri: str) -> None:
    async with buses(uri, 2, close_timeout=0.1) as (a, b), b.client("bob") as bob:
        await a.drain_node(b.node, over=0)
        await sent_away(bob)
        stats = await a.node_stats(b.node)
        assert stats.state in ("draining", "drained")
        assert (stats.clients, stats.lingering) == (1, 1)
        await bob.aclose()
        with anyio.fail_after(DEADLINE):
            await b.drained()
        assert (await a.node_stats(b.node)).state == "drained"
        await a.drain_node(b.node)  # again
        await a.drain_node(a.node, over=0)
        with anyio.fail_after(DEADLINE):
            await a.drained()
        with pytest.raises(eventbus.ClientNotFound):
            await a.drain_node("nobody")


@pytest.mark.parametrize("over", [-1, math.nan, math.inf, 3601, "1", None])
async def test_a_drain_takes_up_to_an_hour(uri: str, over: float) -> None:
    async with buses(uri, 2) as (a, b):
        with pytest.raises(eventbus.OptionError, match="over"):
            await a.drain(over)
        with pytest.raises(eventbus.OptionError, match="over"):
            await a.drain_node(b.node, over=over)
        assert (a.state, b.state) == ("open", "open")


async def test_another_draining_node_does_not_take_what_waits(uri: str) -> None:
    """Clients that lingered on a node that closes are adopted by a node that stays."""
    namespace = fresh_namespace()
    async with buses(uri, 2, namespace=namespace) as (stays, goes):
        await goes.drain(0)
        async with eventbus.connect(uri, node="leaves", namespace=namespace, close_timeout=0.1) as a:
            async with a.client("bob", linger=DEADLINE):
                pass
            owner = await stays.locate("bob")
            assert owner is not None
            assert owner.node == a.node
        owner = await stays.locate("bob")
        assert owner is None or owner.node == stays.node


class Traveller:
    """A client that reads on one node after the other, and what it has read."""

    def __init__(self, name: str, *, expected: int, late: bool) -> None:
        self.name = name
        self.expected = expected
        self.late = late
        self.read: list[int] = []

    async def stay(self, bus: Bus) -> None:
        """Read on *bus* until that drains."""
        with suppress(NodeDraining):
            async with bus.client(self.name) as client:
                async for event in client:
                    self.read.append(event.data)

    async def stay_to_the_end(self, bus: Bus) -> None:
        """Read on *bus* until as much has come as was sent."""
        async with bus.client(self.name) as client:
            while len(self.read) < self.expected:
                self.read.append((await client.receive()).data)


async def check_drain(uri: str, *, late: list[bool], over: float, pauses: list[int]) -> None:
    """
    Send to clients of which each moves when the node that holds it drains, some after that node has closed.

    Each reads all that was sent, once, and nothing is reported. What is under way while a client moves may change its
    order.
    """
    namespace = fresh_namespace()
    closed, lost, numbers = anyio.Event(), Hooked(), range(len(pauses))
    travellers = [Traveller(f"t{n}", expected=len(numbers), late=is_late) for n, is_late in enumerate(late)]

    async def travel(traveller: Traveller, first: Bus, then: Bus) -> None:
        await traveller.stay(first)
        if traveller.late:
            await closed.wait()
        await traveller.stay_to_the_end(then)

    async def send() -> None:
        for number in numbers:
            for traveller in travellers:
                await c.send(traveller.name, "n", number)
            for _ in range(pauses[number]):
                await checkpoint()

    with anyio.fail_after(3 * DEADLINE):
        async with buses(uri, 2, namespace=namespace) as (b, c), anyio.create_task_group() as tasks:
            c.on_undeliverable(lost)
            async with eventbus.connect(uri, node="leaves", namespace=namespace, close_timeout=0.1) as a:
                for traveller in travellers:
                    tasks.start_soon(travel, traveller, a, b)
                await until(lambda: a.stats().clients == len(travellers))
                async with anyio.create_task_group() as sending:
                    sending.start_soon(send)
                    await a.drain(over)
            closed.set()
    assert not lost
    for traveller in travellers:
        assert sorted(traveller.read) == list(numbers), traveller.name


MOVES = given(
    late=st.lists(st.booleans(), min_size=1, max_size=6),
    over=st.floats(0, 0.1),
    pauses=st.lists(st.integers(0, 8), max_size=40),
)


@settings(max_examples=8, deadline=None)
@MOVES
def test_each_event_comes_once_while_clients_move(uri: str, late: list[bool], over: float, pauses: list[int]) -> None:
    anyio.run(partial(check_drain, uri, late=late, over=over, pauses=pauses))


async def told_at(bus: Bus, count: int, over: float) -> list[float]:
    """Return how many seconds after the drain began each of *count* clients was told, in order."""
    handles = [await bus.client(f"c{number}").open() for number in range(count)]
    times: list[float] = []

    async def hold(client: Client) -> None:
        await sent_away(client)
        times.append(monotonic() - begun)
        await client.aclose()

    async with anyio.create_task_group() as tasks:
        for client in handles:
            tasks.start_soon(hold, client)
        await anyio.wait_all_tasks_blocked()
        begun = monotonic()
        await bus.drain(over)
    return times


@settings(max_examples=10, deadline=None)
@given(count=st.integers(0, 40), over=st.floats(0, 0.3))
def test_clients_are_told_evenly_over_the_time(count: int, over: float) -> None:
    """None is told before its share of the time has begun; a late timer of a busy machine is no fault."""

    async def check() -> None:
        async with buses("memory://", 1, close_timeout=0.05) as (bus,):
            times = await told_at(bus, count, over)
            assert len(times) == count
            assert all(at >= over * place / count - 0.021 for place, at in enumerate(times)), times

    anyio.run(check)
