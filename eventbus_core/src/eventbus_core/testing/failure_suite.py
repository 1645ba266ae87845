"""Nodes that are cut off from the broker while they hold clients, for a while or for good."""

from __future__ import annotations

import itertools

import anyio

from eventbus_core.bus import Bus
from eventbus_core.client import Client
from eventbus_core.errors import ClientNotFound, ClientTakenOver
from eventbus_core.losses import Undeliverable
from eventbus_core.testing.guarantees import for_all, naming, scenario
from eventbus_core.testing.inbox import read
from eventbus_core.testing.severed import severable_buses
from eventbus_core.testing.under_test import UnderTest
from eventbus_core.testing.upheaval import Step, carry_out, deaths, upheavals
from eventbus_core.testing.waiting import tasks, until

SHORT_LEASE = 1.0
LONG_LEASE = 30.0


class FailureSuite(UnderTest):
    """The guarantees while a node fails."""

    def test_g1_g2_g5_g8_whoever_freezes_or_dies_all_is_handled_once_or_reported(
        self, uri: str, anyio_backend_name: str
    ) -> None:
        """While nodes freeze, go on and die, what is sent to clients that move comes to whom it is for, or is told."""

        def check(steps: list[Step], deaths: set[int]) -> None:
            anyio.run(carry_out, uri, steps, deaths, backend=anyio_backend_name)

        with naming(self.test_g1_g2_g5_g8_whoever_freezes_or_dies_all_is_handled_once_or_reported):
            for_all(check, examples=max(1, self.examples // 4), steps=upheavals, deaths=deaths)

    @scenario()
    async def test_g8_a_client_moves_away_from_a_node_that_is_cut_off(self, uri: str) -> None:
        """A client that is claimed from a node that does not answer gets what is sent from then on, and alone."""
        async with severable_buses(uri, 3, lease=LONG_LEASE) as (sender, old, new), tasks() as group:
            before = read(group, await claimed(old.bus, "alice"))
            await sender.bus.send("alice", "note", 1)
            await before.got(1)
            old.transport.sever()
            after = read(group, await claimed(new.bus, "alice"))
            await sender.bus.send("alice", "note", 2)
            old.transport.mend()
            await after.got(1)
            assert isinstance(await before.over(), ClientTakenOver)
            assert (before.data, after.data) == ([1], [2])

    @scenario()
    async def test_g5_g9_a_dead_node_is_noticed_within_its_lease(self, uri: str) -> None:
        """Within its lease a dead node is off the list and its clients are free; what was sent to them is reported."""
        async with severable_buses(uri, 2, lease=SHORT_LEASE) as (sender, dead), tasks() as group:
            reader = read(group, await claimed(dead.bus, "alice"))
            reported: list[Undeliverable] = []
            sender.bus.on_undeliverable(reported.append)
            await sender.bus.send("alice", "note", 1)
            await reader.got(1)
            dead.transport.sever()
            accepted = await sent_until_refused(sender.bus, "alice")
            await until(lambda: only_node(sender.bus), "a dead node is off the list")
            await until(lambda: len(reported) >= accepted, f"{accepted} events to a dead node were reported")
            # The first was handled, perhaps too late to say so before the line was cut.
            assert len(reported) in (accepted, accepted + 1)
            assert len({fate.id for fate in reported}) == len(reported)
            assert {fate.target for fate in reported} <= {"alice"}
            await claimed(sender.bus, "alice", takeover=False)
            dead.transport.mend()

    @scenario()
    async def test_g9_a_node_that_lost_its_lease_finds_out(self, uri: str) -> None:
        """A node that was cut off for longer than its lease gives up what was claimed elsewhere, and keeps the rest."""
        async with severable_buses(uri, 3, lease=SHORT_LEASE) as (sender, old, new), tasks() as group:
            lost = anyio.Event()
            old.bus.on_lease_lost(lost.set)
            alice = read(group, await claimed(old.bus, "alice"))
            bob = read(group, await claimed(old.bus, "bob"))
            old.transport.sever()
            await until(lambda: is_free(sender.bus, "alice"), "the clients of a node that lost its lease are free")
            after = read(group, await claimed(new.bus, "alice", takeover=False))
            old.transport.mend()
            assert isinstance(await alice.over(), ClientTakenOver)
            await lost.wait()
            await sender.bus.send("alice", "note", 1)
            await until(lambda: is_sent(sender.bus, "bob"), "the client that nobody else claimed is back")
            await after.got(1)
            await bob.got(1)
            assert alice.data == []


async def claimed(bus: Bus, name: str, *, takeover: bool = True) -> Client:
    """Return a handle of client *name*, which ends with *bus*."""
    return await bus.client(name, takeover=takeover).__aenter__()


async def sent_until_refused(bus: Bus, client: str) -> int:
    """Send to *client* until it is not found; return how many events were accepted."""
    accepted = itertools.count()

    async def refused() -> bool:
        sent = await is_sent(bus, client)
        if sent:
            next(accepted)
        return not sent

    await until(refused, f"nobody is {client!r}, since its node is dead")
    return next(accepted)


async def only_node(bus: Bus) -> bool:
    """Return whether no other node is alive."""
    return [node.id for node in await bus.nodes()] == [bus.node]


async def is_free(bus: Bus, client: str) -> bool:
    """Return whether nobody owns *client*."""
    return await bus.locate(client) is None


async def is_sent(bus: Bus, client: str) -> bool:
    """Return whether an event to *client* is accepted."""
    try:
        await bus.send(client, "note")
    except ClientNotFound:
        return False
    return True
