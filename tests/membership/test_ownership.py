"""Claims of clients: at most one owner, growing epochs, and a release that frees nothing of others."""

from __future__ import annotations

import anyio
import pytest

import eventbus
from eventbus import (
    Bus,
    BusClosed,
    Client,
    ClientAlreadyClaimed,
    ClientNotFound,
    ClientTakenOver,
)
from tests.support import (
    Host,
    Inbox,
    Reader,
    buses,
    read,
    take,
    tasks,
    until,
)

ASKING = True


async def test_g8_a_claim_while_the_bus_closes_is_refused_and_leaves_nothing(uri: str) -> None:
    """A claim while a closing bus waits for a handler raises; the client stays with its holder, or with no node."""
    async with buses(uri, 1) as (other,), tasks() as group, other.client("bob", handler=Inbox()) as bob:
        host = Host(uri, namespace=other.namespace, node="closing")
        bus = await host.open(group)
        entered, leave = anyio.Event(), anyio.Event()

        @bus.on("n")
        async def work(event: eventbus.Event) -> None:
            entered.set()
            await leave.wait()

        await other.send("@closing", "n")
        await entered.wait()
        group.start_soon(host.close)

        async def refused() -> bool:
            try:
                await bus.client("alice").__aenter__()
            except BusClosed:
                return True
            return False

        await until(refused, "a closing bus refuses claims")
        with pytest.raises(BusClosed):
            await bus.client("bob").__aenter__()
        leave.set()
        await host.close()
        owner = await other.locate("bob")
        assert owner is not None
        assert (owner.node, owner.epoch) == ("n0", bob.epoch)
        assert await other.locate("alice") is None
        await other.send("bob", "n")


async def test_g8_a_client_that_is_released_twice_is_released_once(uri: str) -> None:
    """A second release, beside the first or later, does nothing, to the next claim of the same node least of all."""
    async with buses(uri, 2) as (a, b):
        for _ in range(5):
            old = await b.client("bob").__aenter__()
            async with anyio.create_task_group() as group:
                group.start_soon(old.aclose)
                group.start_soon(old.aclose)
            assert await a.locate("bob") is None
            async with b.client("bob") as new:
                await old.aclose()
                await a.send("bob", "n", 1)
                assert [event.data for event in await take(new, 1)] == [1]


async def test_g8_a_cancelled_takeover_ends_the_old_handle_once_granted(uri: str) -> None:
    """If a claim is cancelled once it has been granted, the old handle has ended, and no node holds the client."""
    async with buses(uri, 2) as (a, b):
        for patience in range(40):
            async with a.client("alice") as old, tasks() as group:
                reader = read(group, old)
                new = b.client("alice")
                with anyio.CancelScope() as scope:
                    group.start_soon(_cancel_later, scope, patience)
                    await new.__aenter__()
                if not scope.cancelled_caught:
                    await new.aclose()
                    assert isinstance(await reader.over(), ClientTakenOver)
                    return

                async def consistent(reader: Reader = reader) -> bool:
                    owner = await a.locate("alice")
                    if owner is None:
                        return reader.ended is not None
                    return owner.node == "n0" and reader.ended is None

                await until(consistent, f"cancelled after {patience} turns: {reader.ended!r}")


async def _cancel_later(scope: anyio.CancelScope, turns: int) -> None:
    for _ in range(turns):
        await anyio.lowlevel.checkpoint()
    scope.cancel()


async def test_g8_takeover_false_is_refused_and_changes_nothing(uri: str) -> None:
    """A claim with ``takeover=False`` of a client that is held raises; the holder notices nothing of it."""
    async with buses(uri, 2) as nodes, nodes[0].client("alice") as alice:
        for bus in nodes:
            with pytest.raises(ClientAlreadyClaimed, match="node 'n0' holds client 'alice'") as caught:
                await bus.client("alice", takeover=False).__aenter__()
            assert (caught.value.client, caught.value.node) == ("alice", "n0")
        await nodes[1].send("alice", "hello")
        assert [event.type for event in await take(alice, 1)] == ["hello"]
    async with buses(uri, 2) as (a, b):
        async with a.client("alice", takeover=False):
            pass
        async with b.client("alice", takeover=False):
            assert (await a.locate("alice")) is not None


async def test_g8_of_concurrent_claims_exactly_one_lasts(uri: str) -> None:
    """However many nodes claim a client at once, one handle lasts, the one the directory names; it gets the events."""
    async with buses(uri, 3) as nodes, tasks() as group:
        for _ in range(5):
            clients = [bus.client("alice") for bus in nodes * 3]
            async with anyio.create_task_group() as claims:
                for client in clients:
                    claims.start_soon(client.__aenter__)
            readers = [read(group, client) for client in clients]

            def one_is_left(readers: list[Reader] = readers) -> bool:
                return sum(reader.ended is None for reader in readers) == 1

            await until(one_is_left, "one handle is left")
            (winner,) = [reader for reader in readers if reader.ended is None]
            assert winner.client.epoch == max(client.epoch for client in clients)
            for bus in nodes:
                await bus.send("alice", "hello", bus.node)
            assert sorted(event.data for event in await winner.got(3)) == ["n0", "n1", "n2"]
            for client in clients:
                await client.aclose()
            assert await nodes[0].locate("alice") is None


async def test_g8_of_concurrent_claims_without_takeover_one_is_granted(uri: str) -> None:
    """Exactly one of many claims with ``takeover=False`` gets the client."""
    async with buses(uri, 3) as nodes:
        granted: list[Client] = []
        refused: list[ClientAlreadyClaimed] = []

        async def claim(bus: Bus) -> None:
            client = bus.client("alice", takeover=False)
            try:
                granted.append(await client.__aenter__())
            except ClientAlreadyClaimed as error:
                refused.append(error)

        async with anyio.create_task_group() as group:
            for bus in nodes * 4:
                group.start_soon(claim, bus)
        assert len(granted) == 1
        assert len(refused) == 11
        owner = await nodes[0].locate("alice")
        assert owner is not None
        assert {error.node for error in refused} == {owner.node}


async def test_g1_a_released_client_has_no_owner(uri: str) -> None:
    """After the handle was left, the directory names no owner, and a new sender is told so."""
    async with buses(uri, 3) as (a, b, c):
        async with a.client("alice"):
            owner = await b.locate("alice")
            assert owner is not None
            assert owner.node == "n0"
        assert await b.locate("alice") is None
        with pytest.raises(ClientNotFound):
            await c.send("alice", "too.late")
        with pytest.raises(ClientNotFound):
            await a.send("alice", "too.late")


async def test_an_old_handle_does_not_release_the_claim_of_its_successor(uri: str) -> None:
    """Closing a handle that was taken over leaves the new claim alone."""
    async with buses(uri, 2) as (a, b):
        old = a.client("alice")
        await old.__aenter__()
        async with b.client("alice") as new:
            await old.aclose()
            await old.aclose()
            owner = await a.locate("alice")
            assert owner is not None
            assert (owner.node, owner.epoch) == ("n1", new.epoch)
            await a.send("alice", "hello")
            await take(new, 1)


async def test_epochs_of_a_client_grow(uri: str) -> None:
    """Every claim of one client has a larger epoch than the one before, on whatever node, released between or not."""
    async with buses(uri, 2) as nodes:
        epochs = []
        for turn in range(6):
            async with nodes[turn % 2].client("alice") as alice:
                epochs.append(alice.epoch)
        assert epochs == sorted(set(epochs))
