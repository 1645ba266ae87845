"""Clients that linger: they keep their events for a while after their handle was left."""

from __future__ import annotations

import anyio
import pytest

import eventbus
from eventbus import BusClosed, ClientAlreadyClaimed, ClientNotFound
from tests.support import DEADLINE, Hooked, Inbox, buses, fence, take, until

ASKING = True


@pytest.mark.parametrize("onto", [0, 1, 2], ids=["same-node", "other-node", "third"])
async def test_g5_a_lingering_client_loses_nothing_while_it_is_away(uri: str, onto: int) -> None:
    """What was not taken, and what came after the handle was left, goes in order to the next one."""
    async with buses(uri, 3) as nodes:
        lost = Hooked()
        for bus in nodes:
            bus.on_undeliverable(lost)
        async with nodes[0].client("bob", linger=DEADLINE) as old:
            for number in range(5):
                await nodes[1].send("bob", "n", number)
            await take(old, 2)
            await fence([nodes[1]], [nodes[0]])
        with pytest.raises(BusClosed):
            await old.receive()
        for number in range(5, 10):
            await nodes[1].send("bob", "n", number)
        await fence([nodes[1]], [nodes[0]])
        async with nodes[onto].client("bob") as new:
            for number in range(10, 15):
                await nodes[1].send("bob", "n", number)
            assert [event.data for event in await take(new, 13)] == list(range(2, 15))
        assert not lost


async def test_g5_a_lingering_client_that_does_not_come_back_is_gone(uri: str) -> None:
    """After its time no node holds the client, and the events that waited for it are reported."""
    async with buses(uri, 2) as (a, b):
        lost = Hooked()
        a.on_undeliverable(lost)
        async with b.client("bob", linger=3.0, handler=Inbox()):
            await a.send("bob", "early")
            await fence([a], [b])
        await a.send("bob", "late")

        async def free() -> bool:
            return await a.locate("bob") is None

        await until(free)
        await until(lambda: [fate.type for fate in lost] == ["late"])
        with pytest.raises(ClientNotFound):
            await a.send("bob", "too.late")
        assert b.stats().clients == 0


async def test_g11_a_lingering_client_delays_no_sender(uri: str) -> None:
    """No sender waits for a client that is away: its mailbox keeps the newest events, the rest is reported."""
    async with buses(uri, 2, mailbox_events=10, slow_consumer_timeout=60.0) as (a, b):
        lost = Hooked()
        a.on_undeliverable(lost)
        async with b.client("bob", linger=DEADLINE):
            pass
        with anyio.fail_after(DEADLINE):
            for number in range(100):
                await a.send("bob", f"n.{number}")
            await until(lambda: len(lost) >= 90)
        async with a.client("bob") as bob:
            got = [event.type for event in await take(bob, 10)]
        assert sorted(got + [fate.type for fate in lost]) == sorted(f"n.{number}" for number in range(100))


@pytest.mark.usefixtures("patient_adoption")
@pytest.mark.parametrize("left", [True, False], ids=["handle left", "handle open"])
async def test_g5_a_lingering_client_survives_its_node(uri: str, left: bool) -> None:
    """What waited on a node that leaves, and what is sent afterwards, goes in order to the next handle."""
    async with buses(uri, 3) as nodes:
        lost = Hooked()
        for bus in nodes:
            bus.on_undeliverable(lost)
        async with eventbus.connect(uri, namespace=nodes[0].namespace, node="leaver") as leaver:
            handle = await leaver.client("bob", linger=DEADLINE).__aenter__()
            await nodes[0].send("bob", "n", 0)
            if left:
                await handle.aclose()
            await nodes[0].send("bob", "n", 1)
            await nodes[1].send("bob", "m", 1)
            await fence(list(nodes), [leaver])
        for bus in nodes:
            await bus.send("bob", "m" if bus is nodes[1] else "n", 2)
        async with nodes[2].client("bob") as bob:
            got = await take(bob, 6)
        assert [event.data for event in got if event.source == "@n0"] == [0, 1, 2]
        assert [event.data for event in got if event.source == "@n1"] == [1, 2]
        assert not lost
        assert sum(bus.stats().clients for bus in nodes) == 0


@pytest.mark.usefixtures("patient_adoption")
async def test_g5_an_adopted_client_that_does_not_come_back_is_gone(uri: str) -> None:
    async with buses(uri, 1) as (a,):
        lost = Hooked()
        a.on_undeliverable(lost)
        async with eventbus.connect(uri, namespace=a.namespace, node="leaver") as leaver:
            await leaver.client("bob", linger=4.0).__aenter__()
            await a.send("bob", "early")
            await fence([a], [leaver])
        await a.send("bob", "late")
        await until(lambda: sorted(fate.type for fate in lost) == ["early", "late"])
        assert a.stats().clients == 0


async def test_g8_a_client_that_is_back_is_not_taken_over_by_an_adoption(uri: str) -> None:
    """A node that is asked to adopt a client leaves it where it was claimed meanwhile."""
    async with buses(uri, 2) as (a, b), a.client("bob") as bob:
        with pytest.raises(ClientAlreadyClaimed):
            await b._node.client_lifecycle.adopt("bob", DEADLINE)
        await b.send("bob", "n")
        await take(bob, 1)
