"""Ownership that survives failure: lingering clients, lost leases, expiry, and what one can ask about it."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import cast

import anyio
import msgspec
import pytest
from anyio.abc import TaskStatus

import eventbus
from eventbus import BusClosed, ClientNotFound, ClientTakenOver, TransportUnavailable
from eventbus_core import Claim, Frame, Interrupted, Node, Owner, TransportURI, exchange, node_partition, register
from eventbus_memory import MemoryTransport
from tests.bus.support import DEADLINE, Hooked, Host, Inbox, WithoutDirectory, buses, fence, read, take, tasks, until

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
    """After its time the client is nobody's, and what waited for it is reported."""
    async with buses(uri, 2) as (a, b):
        lost = Hooked()
        a.on_undeliverable(lost)
        async with b.client("bob", linger=0.1, handler=Inbox()):
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


async def test_g11_a_lingering_client_holds_up_nobody(uri: str) -> None:
    """Nobody waits for a client that is away: its mailbox keeps the newest within its bounds, the rest is reported."""
    async with buses(uri, 2, mailbox_events=10, laggard_timeout=60.0) as (a, b):
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


@pytest.mark.parametrize("near", [True, False], ids=["near", "far"])
async def test_g5_an_expired_event_is_reported_and_not_handled(uri: str, near: bool) -> None:
    """What waited for longer than it may is passed over; its sender is told, what came after it is handled."""
    async with buses(uri, 2) as nodes, nodes[1].client("bob") as bob:
        sender = nodes[1 if near else 0]
        lost = Hooked()
        sender.on_undeliverable(lost)
        await sender.send("bob", "short", expires=0.01)
        await sender.send("bob", "long", expires=60.0)
        await fence([sender], [nodes[1]])
        start = time.time()
        await until(lambda: time.time() > start + 0.01)
        assert [event.type for event in await take(bob, 1)] == ["long"]
        await until(lambda: len(lost) == 1)
        assert (lost[0].type, lost[0].reason) == ("short", "expired")


@pytest.mark.parametrize("near", [True, False], ids=["near", "far"])
async def test_g5_an_event_that_expired_before_its_function_was_called_is_reported(uri: str, near: bool) -> None:
    inbox, lost = Inbox(), Hooked()
    async with buses(uri, 2) as nodes, nodes[1].client("bob", handler=inbox):
        sender = nodes[1 if near else 0]
        sender.on_undeliverable(lost)
        await sender.send("bob", "first")
        await inbox.got(1)
        await sender.send("bob", "short", expires=1e-6)
        await sender.send("bob", "long", expires=60.0)
        assert [event.type for event in await inbox.got(2)] == ["first", "long"]
        await until(lambda: len(lost) == 1)
        assert (lost[0].type, lost[0].reason) == ("short", "expired")


async def test_g8_a_claim_while_the_bus_closes_is_refused_and_leaves_nothing(uri: str) -> None:
    """Who claims while a closing bus waits for a handler is told so; the client is whose it was, or nobody's."""
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


async def test_explain_says_where_a_client_is_and_what_is_believed(uri: str) -> None:
    """By the directory's word and by this node's memory, before and after a move."""
    async with buses(uri, 3) as (a, b, c):
        nothing = await a.explain("bob")
        assert (nothing.local, nothing.owner, nothing.partition, nothing.cached) == (False, None, None, None)
        async with b.client("bob", handler=Inbox()) as bob:
            here, there = await b.explain("bob"), await a.explain("bob")
            assert (here.local, here.partition) == (True, None)
            assert there.owner == here.owner
            assert there.owner is not None
            assert (there.owner.node, there.owner.epoch) == ("n1", bob.epoch)
            assert there.partition == node_partition("n1")
            assert there.lease_left is not None
            assert 0 < there.lease_left <= 10
            assert there.cached is None
            await a.send("bob", "n")
            assert (await a.explain("bob")).cached == there.owner
            async with c.client("bob"):
                moved = await a.explain("bob")
                assert moved.owner is not None
                assert moved.owner.node == "n2"
                # Without a directory every node is asked about a claim, and so hears of it.
                assert moved.cached == (moved.owner if a._node.asking else there.owner)


async def test_a_node_tells_what_it_has_counted(uri: str) -> None:
    """Any node can ask any other for its counters."""
    async with buses(uri, 2) as (a, b), b.client("bob"):
        theirs = await a.node_stats("n1", timeout=DEADLINE)
        assert (theirs.node, theirs.clients) == ("n1", 1)
        assert (await b.node_stats("n1")).node == "n1"
        with pytest.raises(ClientNotFound):
            await a.node_stats("nowhere")


async def test_clients_by_prefix(uri: str) -> None:
    """``clients(prefix=...)`` yields those of one tenant."""
    async with buses(uri, 2) as (a, b), b.client("acme/bob"), a.client("acme/alice"), a.client("other/eve"):
        assert sorted([name async for name in a.clients(prefix="acme/")]) == ["acme/alice", "acme/bob"]
        assert [name async for name in a.clients("n1", prefix="acme/")] == ["acme/bob"]


def _lose_lease(bus: eventbus.Bus) -> None:
    """Make *bus* believe that its process has been stopped for long."""
    bus._node.mailboxes.fresh_until = 0.0


async def test_g9_after_a_long_stop_nothing_is_handed_out_until_the_lease_is_verified(uri: str) -> None:
    """A process that slept longer than its lease handles nothing before it knows that its clients are still its own."""
    async with buses(uri, 2, lease=1.5) as (a, b), tasks() as group, b.client("bob") as bob:
        await a.send("bob", "n")
        await fence([a], [b])
        _lose_lease(b)
        reader = read(group, bob)
        await anyio.lowlevel.checkpoint()
        assert len(reader) == 0
        await reader.got(1)
        await a.send("bob", "n")
        await reader.got(2)


async def test_g9_a_node_that_lost_its_lease_enters_again_and_keeps_what_nobody_took(uri: str) -> None:
    """Clients claimed elsewhere meanwhile end with ClientTakenOver, the others go on; the application is told."""
    async with buses(uri, 2, lease=2.0) as (a, b), b.client("kept") as kept, b.client("taken") as taken:
        told = Hooked()
        b.on_lease_lost(told)
        before = b.stats().incarnation
        await b._node.directory.leave()  # as if the lease had ended
        async with a.client("taken") as new:
            await until(lambda: len(told) == 1)
            assert b.stats().incarnation > before
            with pytest.raises(ClientTakenOver):
                await taken.receive()
            for bus in (a, b):
                await bus.send("kept", "n", bus.node)
                await bus.send("taken", "n", bus.node)
            assert sorted(event.data for event in await take(kept, 2)) == ["n0", "n1"]
            assert sorted(event.data for event in await take(new, 2)) == ["n0", "n1"]


async def test_presence_is_told_to_those_who_ask_for_it(uri: str) -> None:
    """Who joins, leaves, claims, takes over and releases is published to ``$sys`` topics, on every node."""
    async with buses(uri, 1, presence=True) as (a,):
        a.on("$sys.>")(told := Inbox())
        a.on(">")(everything := Inbox())
        await a.ready()
        async with eventbus.connect(uri, namespace=a.namespace, node="late", presence=True) as late:
            async with late.client("bob"), a.client("bob"):
                pass
            with pytest.raises(eventbus.InvalidName):
                await late.publish("$sys.node.left", {"node": "n0"})
        await until(lambda: len(told) == 6)
        assert [(event.type, event.data["node"], event.source) for event in told.events] == [
            ("$sys.node.joined", "late", "@late"),
            ("$sys.client.claimed", "late", "@late"),
            ("$sys.client.claimed", "n0", "@n0"),
            ("$sys.client.taken-over", "n0", "@n0"),
            ("$sys.client.released", "n0", "@n0"),
            ("$sys.node.left", "late", "@late"),
        ]
        assert told.events[3].data == {"node": "n0", "client": "bob", "previous": "late"}
        assert len(everything) == 0


async def test_g10_a_handler_made_before_the_bus_opens_gets_nothing_older(uri: str) -> None:
    """What was published before the node joined is not sent again to it, and counts as no loss."""
    async with buses(uri, 1) as (a,):
        for number in range(10):
            await a.publish("n", number)
        await a.flush()
        late = eventbus.connect(uri, namespace=a.namespace, node="late")
        late.on("n")(inbox := Inbox())
        async with late:
            await a.publish("n", "now")
            await inbox.got(1)
            await fence([a], [late])
            assert inbox.data == ["now"]
            assert late.stats().missed == 0


@pytest.mark.parametrize("uri", ["memory"], indirect=True)
async def test_g5_nobody_is_taken_for_dead_while_a_lost_lease_is_being_mended(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that knows this node again need not know the others yet."""
    async with buses(uri, 1, lease=0.3) as (bus,), bus.client("bob"):
        node = bus._node
        claim, doubtful = node.directory.claim, Hooked()

        async def watched(clients: Sequence[str], takeover: bool) -> Sequence[Claim | Owner]:
            doubtful(node.router.doubtful())
            return await claim(clients, takeover)

        monkeypatch.setattr(node.directory, "claim", watched)
        await node.directory.leave()
        await until(lambda: bool(doubtful), "what was held is claimed again")
        assert doubtful == [True]


async def test_g5_nobody_is_said_to_be_unknown_by_a_directory_that_has_lost_its_memory(uri: str) -> None:
    """Who sends before any node has noticed waits until those who live have entered again."""
    async with buses(uri, 2, lease=3.0) as (a, b), b.client("bob") as bob:
        for bus in (a, b):
            await bus._node.directory.leave()
        await a.send("bob", "n", 1)
        assert [event.data for event in await take(bob, 1)] == [1]


@pytest.mark.parametrize("uri", ["memory"], indirect=True)
async def test_g5_nobody_is_taken_for_dead_by_a_node_whose_own_renewal_was_late(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that hangs may end the leases of some and not of others: those that are left wait for the rest."""
    async with buses(uri, 2, lease=3.0, presence=True) as (a, b), b.client("bob") as bob, tasks() as group:
        a.on("$sys.node.left")(left := Hooked())
        goes_on = {}
        for bus in (a, b):
            renew, gate = bus._node.directory.renew, anyio.Event()
            goes_on[bus] = gate

            async def late(renew: Callable[[], Awaitable[bool]] = renew, gate: anyio.Event = gate) -> bool:
                await gate.wait()
                return await renew()

            monkeypatch.setattr(bus._node.directory, "renew", late)
        await until(a._node.router.doubtful, "the renewal is late")
        await b._node.directory.leave()  # as if its lease had ended
        looked = Hooked()
        locate = a._node.directory.locate

        async def look(clients: Sequence[str]) -> Sequence[Owner | None]:
            looked(clients)
            return await locate(clients)

        monkeypatch.setattr(a._node.ownership.lookups, "_call", look)
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
    async with buses(uri, 1, lease=1.5) as (bus,):
        renew, doubts = bus._node.directory.renew, Hooked()

        async def fail_once() -> bool:
            doubts(bus._node.router.doubtful())
            if len(doubts) == 1:
                raise TransportUnavailable("once")
            return await renew()

        monkeypatch.setattr(bus._node.directory, "renew", fail_once)
        await until(lambda: len(doubts) == 3)
        assert doubts == [False] * 3


async def test_g5_a_node_that_closes_in_doubt_reports_what_waited_for_its_clients(uri: str) -> None:
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


async def test_g4_what_is_passed_on_comes_before_what_was_held_back_for_it(uri: str) -> None:
    """Also where the word that it is all comes in the same frame."""
    async with buses(uri, 2) as (a, b), b.client("bob") as bob:
        holding = b._node.ownership.clients["bob"]
        holding.mailbox.hold_back()
        b._node.exchange._handovers["handover"] = holding, anyio.Event()
        await a.send("bob", "n", "direct")
        await fence([a], [b])
        owner = await a.locate("bob")
        assert owner is not None
        passed_on = a._node.router.own_event("n", b.node, "passed on")
        a._node.errands.pass_on(msgspec.structs.replace(passed_on, target="bob"), a.node, owner)
        a._node.router.tell_node(b.node, exchange.HANDED_OVER, "handover")
        assert [event.data for event in await take(bob, 2)] == ["passed on", "direct"]


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
                node._doubt()
            return await claim(clients, takeover)

        monkeypatch.setattr(node.directory, "claim", doubted)
        node._doubt()
        await until(lambda: len(rounds) == 2)


async def test_g11_who_waits_for_room_looks_again_when_what_is_before_goes_another_way(uri: str) -> None:
    async with buses(uri, 1) as (bus,), tasks() as group:
        outbox = bus._node.outbox
        queue = outbox.queue(node_partition("hung"), "hung")
        group.start_soon(outbox.room, queue)
        await until(lambda: outbox.waits == 1)
        room = queue.room
        assert room is not None
        outbox.take_out(queue, "bob")
        assert room.is_set()


class Gated(MemoryTransport):
    """Publishes nothing while its gate is shut."""

    def __init__(self, uri: TransportURI, node: str) -> None:
        super().__init__(uri, node)
        self.gate = anyio.Event()
        self.gate.set()
        self.waiting = False

    async def publish(self, frames: Sequence[Frame]) -> Sequence[int]:
        self.waiting = not self.gate.is_set()
        await self.gate.wait()
        return await super().publish(frames)


class Deaf(MemoryTransport):
    """Hears nothing while its ears are shut; what comes meanwhile waits."""

    def __init__(self, uri: TransportURI, node: str) -> None:
        super().__init__(uri, node)
        self.ears = anyio.Event()
        self.ears.set()

    async def receive(self) -> AsyncIterator[Frame | Interrupted]:
        async with aclosing(cast("AsyncGenerator[Frame | Interrupted]", super().receive())) as items:
            async for item in items:
                await self.ears.wait()
                yield item


class DeafAsking(WithoutDirectory, Deaf):
    """Has no directory besides."""


register("deaf", Deaf)
register("deaf-asking", DeafAsking)


async def test_g8_a_node_with_one_slow_consumer_hears_that_another_of_its_clients_was_taken_over(uri: str) -> None:
    """The word to it alone waits for credit, behind what is for that consumer; what is told all does not."""
    done = anyio.Event()

    async def slow(_event: eventbus.Event) -> None:
        await done.wait()

    async with buses(uri, 2, laggard_timeout=10 * DEADLINE) as (old, new), tasks() as group:
        async with old.client("slow", handler=slow):

            async def flood() -> None:
                while not done.is_set():
                    await new.send("slow", "note", bytes(10_000))

            group.start_soon(flood)
            await until(lambda: new.stats().waits > 0, "there is no credit left")
            before = read(group, await old.client("alice").__aenter__())
            async with new.client("alice") as after:
                assert isinstance(await before.over(), ClientTakenOver)
                await old.send("alice", "note", 1)
                assert [event.data for event in await take(after, 1)] == [1]
            done.set()
        assert not before.data


@pytest.mark.parametrize("scheme", ["deaf", "deaf-asking"])
async def test_g8_a_takeover_from_a_node_that_hangs_waits_until_the_others_have_heard_of_it(scheme: str) -> None:
    """Who sends after it sends to the new owner, though it knew the former one and hears late."""
    async with buses(f"{scheme}://tests", 4, close_timeout=0.2) as (a, b, c, d), tasks() as group:

        async def take_over(*, task_status: TaskStatus[None]) -> None:
            async with b.client("bob", handler=new):
                task_status.started()
                await anyio.sleep_forever()

        old, new = Inbox(), Inbox()
        claimed = anyio.Event()

        async def claim() -> None:
            await group.start(take_over)
            claimed.set()

        async with a.client("bob", handler=old):
            for bus in c, d:
                await bus.send("bob", "n", 0)
            await old.got(2)
            hung, late = a._node.transport, c._node.transport
            assert isinstance(hung, Deaf)
            assert isinstance(late, Deaf)
            hung.ears, late.ears = anyio.Event(), anyio.Event()
            group.start_soon(claim)
            await until(lambda: (owner := d._node.router.routes.cached("bob")) is None or owner.node != a.node)
            late.ears.set()
            await claimed.wait()
            await c.send("bob", "n", 1)
            await new.got(1)
            hung.ears.set()
        assert (old.data, new.data) == ([0, 0], [1])


@pytest.mark.parametrize("when", ["before", "meanwhile"])
async def test_g8_a_takeover_from_a_node_that_does_not_listen_waits_for_no_word_of_it(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That a process was killed is known as soon as the transport counts nobody, at the latest by a probe."""
    monkeypatch.setattr(exchange, "HANDOVER_TIMEOUT", DEADLINE * 2)
    async with buses("deaf://tests", 3, close_timeout=0.2) as (a, b, c), tasks() as group:
        async with a.client("bob", handler=(old := Inbox())):
            await c.send("bob", "n", 0)
            await old.got(1)
            hung = a._node.transport
            assert isinstance(hung, Deaf)
            hung.ears = anyio.Event()
            if when == "before":
                await hung.leave([node_partition(a.node)])
            handle = b.client("bob", handler=(new := Inbox()))
            claimed = anyio.Event()

            async def claim() -> None:
                await handle.__aenter__()
                claimed.set()

            group.start_soon(claim)
            if when == "meanwhile":
                await until(lambda: bool(b._node.exchange._handovers), "it asks the former owner")
                await b._node.outbox.flush()
                assert not claimed.is_set()
                await hung.leave([node_partition(a.node)])
            await until(claimed.is_set, "the claim returns")
            await c.send("bob", "n", 1)
            await new.got(1)
            await handle.aclose()
            hung.ears.set()
        assert (old.data, new.data) == ([0], [1])


async def test_g4_what_comes_back_from_a_deaf_owner_goes_to_the_new_one_before_what_is_sent_later() -> None:
    """The word of the new owner comes while the write to the former one is under way."""
    register("shut", Gated)
    async with buses("shut://tests", 3, close_timeout=0.2) as (a, b, c), a.client("bob", handler=(old := Inbox())):
        await c.send("bob", "n", 0)
        await old.got(1)
        await a._node.transport.leave([node_partition(a.node)])
        transport = c._node.transport
        assert isinstance(transport, Gated)
        transport.gate = anyio.Event()
        for number in range(1, 6):
            await c.send("bob", "n", number)
        await until(lambda: transport.waiting)
        heard = c.stats().received_events
        async with b.client("bob", handler=(new := Inbox())):
            await until(lambda: c.stats().received_events > heard)
            await c.send("bob", "n", 6)
            transport.gate.set()
            await new.got(6)
            assert new.data == list(range(1, 7))
        assert old.data == [0]


async def test_g5_what_is_on_its_way_to_a_dead_node_that_does_not_listen_goes_after_its_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sender gives the node up while the write to it is under way: that nobody had the events shows afterwards."""
    register("shut", Gated)
    async with buses("shut://tests", 3, close_timeout=0.2) as (a, b, c), a.client("bob", handler=(old := Inbox())):
        c.on_undeliverable(lost := Hooked())
        await c.send("bob", "n.0")
        await old.got(1)
        await a._node.transport.leave([node_partition(a.node)])
        await a._node.directory.leave()
        transport, errands, directory = c._node.transport, c._node.errands, c._node.directory
        assert isinstance(transport, Gated)
        transport.gate = anyio.Event()
        sent = [f"n.{number}" for number in range(1, 6)]
        for type in sent:
            await c.send("bob", type)
        await until(lambda: transport.waiting)
        nodes, looked = directory.nodes, Hooked()

        async def watched() -> Sequence[Node]:
            looked(found := await nodes())
            return found

        monkeypatch.setattr(directory, "nodes", watched)
        queue = c._node.outbox.known(a.node)
        assert queue is not None
        async with b.client("bob", handler=(new := Inbox())):
            errands.suspect(queue)
            await until(lambda: len(looked) == 1)
            errands.suspect(queue)
            await until(lambda: len(looked) == 2)  # so all that came of the first look is done
            transport.gate.set()
            await until(lambda: {*new.types, *(fate.type for fate in lost)} >= set(sent))
            assert new.types == sent
        assert old.types == ["n.0"]
