"""Leases: late, lost and renewed, and what the node does meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Any

import anyio
import pytest

import eventbus
from eventbus import ClaimsSuspended, ClientTakenOver, TransportUnavailable
from eventbus_core.backend import Claim, Owner
from tests.support import DEADLINE, Hooked, Host, Inbox, buses, fence, read, take, tasks, until

ASKING = True
LEASE = 6.0


def _lose_lease(bus: eventbus.Bus) -> None:
    """Make *bus* believe that its process has been stopped for long."""
    bus._node.pool.limits.fresh_until = 0.0


async def test_g9_after_a_long_stop_nothing_is_handed_out_until_the_lease_is_verified(uri: str) -> None:
    """A process that slept longer than its lease handles nothing before it knows that its clients are still its own."""
    async with buses(uri, 2, lease=DEADLINE) as (a, b), tasks() as group, b.client("bob") as bob:
        await a.send("bob", "n")
        await fence([a], [b])
        _lose_lease(b)
        reader = read(group, bob)
        await anyio.lowlevel.checkpoint()
        assert len(reader) == 0
        b._node.lease.hurry()
        await reader.got(1)
        await a.send("bob", "n")
        await reader.got(2)


async def test_g9_a_node_that_lost_its_lease_enters_again_and_keeps_clients_that_no_node_took(uri: str) -> None:
    """Clients claimed elsewhere meanwhile end with ClientTakenOver, the others go on; the application is told."""
    async with buses(uri, 2, lease=DEADLINE) as (a, b), b.client("kept") as kept, b.client("taken") as taken:
        told = Hooked()
        b.on_lease_lost(told)
        before = b.stats().incarnation
        await b._node.directory.leave()  # as if the lease had ended
        async with a.client("taken") as new:
            b._node.lease.hurry()
            await until(lambda: len(told) == 1)
            assert b.stats().incarnation > before
            with pytest.raises(ClientTakenOver):
                await taken.receive()
            for bus in (a, b):
                await bus.send("kept", "n", bus.node)
                await bus.send("taken", "n", bus.node)
            assert sorted(event.data for event in await take(kept, 2)) == ["n0", "n1"]
            assert sorted(event.data for event in await take(new, 2)) == ["n0", "n1"]


@pytest.mark.parametrize("uri", ["memory"], indirect=True)
async def test_g5_no_node_is_taken_for_dead_while_a_lost_lease_is_recovered(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that knows this node again need not know the others yet."""
    async with buses(uri, 1, lease=DEADLINE) as (bus,), bus.client("bob"):
        node = bus._node
        claim, doubtful = node.directory.claim, Hooked()

        async def watched(clients: Sequence[str], takeover: bool) -> Sequence[Claim | Owner]:
            doubtful(node.lease.view_incomplete())
            return await claim(clients, takeover)

        monkeypatch.setattr(node.directory, "claim", watched)
        await node.directory.leave()
        node.lease.hurry()
        await until(lambda: bool(doubtful), "what was held is claimed again")
        assert doubtful == [True]


async def test_g5_no_client_is_reported_unknown_after_the_directory_lost_its_data(uri: str) -> None:
    """Who sends before any node has noticed waits until those who live have entered again."""
    async with buses(uri, 2, lease=9.0) as (a, b), b.client("bob") as bob:
        for bus in (a, b):
            await bus._node.directory.leave()
        await a.send("bob", "n", 1)
        assert [event.data for event in await take(bob, 1)] == [1]


@pytest.mark.parametrize("uri", ["memory"], indirect=True)
async def test_g5_a_node_whose_own_renewal_was_late_takes_no_node_for_dead(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that hangs may end the leases of some and not of others: those that are left wait for the rest."""
    async with buses(uri, 2, lease=9.0, presence=True) as (a, b), b.client("bob") as bob, tasks() as group:
        a.on("$sys.node.left")(left := Hooked())
        goes_on = {}
        for bus in (a, b):
            renew, gate = bus._node.directory.renew, anyio.Event()
            goes_on[bus] = gate

            async def late(renew: Callable[[], Awaitable[bool]] = renew, gate: anyio.Event = gate) -> bool:
                await gate.wait()
                return await renew()

            monkeypatch.setattr(bus._node.directory, "renew", late)
        await until(a._node.lease.view_incomplete, "the renewal is late")
        await b._node.directory.leave()  # as if its lease had ended
        looked = Hooked()
        locate = a._node.directory.locate

        async def look(clients: Sequence[str]) -> Sequence[Owner | None]:
            looked(clients)
            return await locate(clients)

        monkeypatch.setattr(a._node.locator._clients, "_call", look)
        group.start_soon(a.send, "bob", "n", 1)
        goes_on[a].set()
        await until(lambda: not a._node.lease._overdue(), "the lease is renewed")
        group.start_soon(a.send, "bob", "n", 2)
        before = len(looked)
        await until(lambda: len(looked) > before + 2, "it is looked for again and again")
        goes_on[b].set()
        assert sorted(event.data for event in await take(bob, 2)) == [1, 2]
        assert a._node.lease.losses == 0
        assert b._node.lease.losses == 1
        assert not left


@pytest.mark.parametrize("uri", ["memory"], indirect=True)
async def test_a_renewal_that_failed_is_tried_again_before_there_is_a_doubt(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with buses(uri, 1, lease=18.0) as (bus,):
        renew, doubts = bus._node.directory.renew, Hooked()

        async def fail_once() -> bool:
            doubts(bus._node.lease.view_incomplete())
            if len(doubts) == 1:
                raise TransportUnavailable("once")
            return await renew()

        monkeypatch.setattr(bus._node.directory, "renew", fail_once)
        await until(lambda: len(doubts) == 2)
        assert doubts == [False] * 2


async def test_g5_a_node_that_closes_in_doubt_reports_the_waiting_events_of_its_clients(uri: str) -> None:
    lost = Hooked()
    async with buses(uri, 1, lease=DEADLINE) as (a,), tasks() as group:
        a.on_undeliverable(lost)
        host = Host(uri, namespace=a.namespace, node="closing", lease=DEADLINE)
        b = await host.open(group)
        await b.client("bob").__aenter__()
        await a.send("bob", "n")
        await fence([a], [b])
        b._node.lease.distrust()
        await host.close()
        await until(lambda: len(lost) == 1)
        assert (lost[0].target, lost[0].reason) == ("bob", "client gone")


async def test_g8_a_claim_whose_answer_was_lost_is_known_after_the_next_look(uri: str) -> None:
    """The directory knows a later claim of ours than we do: its epoch counts, and the release is of that one."""
    async with buses(uri, 2, lease=DEADLINE) as (a, b):
        async with a.client("bob") as bob:
            (granted,) = await a._node.directory.claim(["bob"], True)
            a._node.lease.hurry()
            await until(lambda: bob.epoch == granted.epoch)
            await b.send("bob", "n", 1)
            assert [event.data for event in await take(bob, 1)] == [1]
        assert await b.locate("bob") is None


async def test_g9_a_doubt_that_comes_while_claims_are_looked_at_is_looked_at_too(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is older than the doubt, so there is another round at once."""
    async with buses(uri, 1, lease=DEADLINE) as (bus,), bus.client("bob"):
        node = bus._node
        claim, rounds = node.directory.claim, Hooked()

        async def doubted(clients: Sequence[str], takeover: bool) -> Sequence[Claim | Owner]:
            rounds(clients)
            if len(rounds) == 1:
                node.receiver.missed()
            return await claim(clients, takeover)

        monkeypatch.setattr(node.directory, "claim", doubted)
        monkeypatch.setattr(type(node.directory), "last_loss", None)  # so that each doubt is about all clients
        node.receiver.missed()
        await until(lambda: len(rounds) == 2)


async def test_g1_without_renewals_nothing_is_handed_out_once_the_lease_can_have_ended(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line to the directory is cut, all others work: until the lease ends events go on, afterwards none does."""
    async with buses(uri, 2, lease=LEASE) as (a, b), a.client("bob") as bob, tasks() as group:
        directory, cut = a._node.directory, Hooked()

        async def fail(*arguments: object) -> Any:
            cut(arguments)
            raise TransportUnavailable("the line is cut")

        reader = read(group, bob)
        with monkeypatch.context() as line:
            for name in ("renew", "locate", "confirm", "nodes", "claim", "release", "enter"):
                line.setattr(directory, name, fail)
            await a.send("bob", "n", 1)
            await reader.got(1)
            await until(a._node.pool.limits.frozen, "the lease can have ended")
            assert len(cut) > 1
            assert a._node.pool.limits._owned_until < a._node.lease._renewed_at + LEASE, "it had not ended yet"
            await a.send("bob", "n", 2)
            await until(lambda: monotonic() > a._node.lease._renewed_at + LEASE, "the lease has ended")
            assert len(reader) == 1
        await reader.got(2)
        await b.send("bob", "n", 3)
        await reader.got(3)


async def test_a_node_goes_on_while_the_directory_grants_no_claim_to_any_node(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory is out of memory and can be read: the lease ends, and no other node can have the clients."""
    async with buses(uri, 1, lease=0.6) as (bus,), bus.client("bob") as bob, tasks() as group:
        node, refusals, reader = bus._node, Hooked(), read(group, bob)

        async def refuse() -> bool:
            refusals("refused")
            raise ClaimsSuspended("out of memory")

        monkeypatch.setattr(node.directory, "renew", refuse)
        await until(lambda: monotonic() > node.ownership.entered_at + 1.2, "the lease has ended")
        await bus.send("bob", "n", 1)
        await reader.got(1)
        node.receiver.missed()
        await bus.send("bob", "n", 2)
        await reader.got(2)
        monkeypatch.undo()
        await until(lambda: node.status.up, "the lease is renewed, or the node enters again")
        await bus.send("bob", "n", 3)
        await reader.got(3)


async def test_g1_a_node_that_lost_its_lease_hands_nothing_out_before_its_clients_are_confirmed(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory answers, and says that the lease has ended: another node may have claimed since."""
    async with buses(uri, 2, lease=DEADLINE) as (a, b), a.client("bob") as bob, tasks() as group:
        node, reader = a._node, read(group, bob)
        enter, go_on = node.directory.enter, anyio.Event()

        async def wait(*arguments: Any) -> int:
            await go_on.wait()
            return await enter(*arguments)

        monkeypatch.setattr(node.directory, "enter", wait)
        await node.directory.leave()
        async with b.client("bob", handler=(inbox := Inbox())):
            node.lease.hurry()
            await until(lambda: node.lease.lost, "the lease is found to have ended")
            await a.send("bob", "n", 1)
            go_on.set()
            await inbox.got(1)
            assert isinstance(await reader.over(), ClientTakenOver)
            assert len(reader) == 0


@pytest.mark.parametrize("uri", ["memory"], indirect=True)
async def test_a_renewal_that_is_refused_for_good_is_told_once_and_repeated_with_growing_pauses(
    uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("eventbus_core.membership.lease.RETRY_PAUSE", first := 0.02)
    logging.getLogger("eventbus").setLevel(logging.WARNING)
    async with buses(uri, 1, lease=0.6) as (bus,), bus.client("bob"):
        directory, renew, called = bus._node.directory, bus._node.directory.renew, list[float]()

        async def refuse() -> bool:
            called.append(monotonic())
            raise eventbus.ConfigurationError("no right to EVALSHA")

        down, up = Hooked(), Hooked()
        bus.on_disconnected(down)
        bus.on_reconnected(lambda: up("up"))
        monkeypatch.setattr(directory, "renew", refuse)
        await until(lambda: len(called) == 7)
        assert called[6] - called[5] >= 16 * first
        assert list(down) == ["cannot renew its lease: no right to EVALSHA"]
        assert [record.getMessage() for record in caplog.records] == [
            "node n0: broker unavailable, retrying: cannot renew its lease: no right to EVALSHA"
        ]
        assert (bus.state, list(up)) == ("disconnected", [])
        monkeypatch.setattr(directory, "renew", renew)
        await until(lambda: bus.state == "open" and list(up) == ["up"])
        assert len(down) == 1
