"""Takeovers: a client moves to another node, and every event follows it, whatever the former owner does."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import cast

import anyio
import msgspec
import pytest
from anyio.abc import TaskStatus

import eventbus
from eventbus import (
    Bus,
    ClientNotFound,
    ClientTakenOver,
    register,
)
from eventbus_core.backend import Frame, Interrupted, Node, TransportURI, node_partition
from eventbus_core.membership.peer_directory import peer_directory
from eventbus_core.routing import takeover
from eventbus_memory import MemoryTransport
from tests.support import (
    DEADLINE,
    Hooked,
    Inbox,
    WithoutDirectory,
    buses,
    fence,
    read,
    take,
    tasks,
    until,
)

ASKING = True


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


async def test_g4_forwarded_events_come_before_events_that_were_held_back_for_them(uri: str) -> None:
    """Also where the word that it is all comes in the same frame."""
    async with buses(uri, 2) as (a, b), b.client("bob") as bob:
        held = b._node.ownership.clients["bob"]
        held.mailbox.hold_back()
        b._node.takeover._handovers["handover"] = takeover.Handover(held, a.node)
        await a.send("bob", "n", "direct")
        await fence([a], [b])
        owner = await a.locate("bob")
        assert owner is not None
        passed_on = a._node.channel.message("n", b.node, "passed on")
        a._node.forwarder.pass_on(msgspec.structs.replace(passed_on, target="bob"), a.node, owner)
        a._node.channel.send(b.node, takeover.HANDED_OVER, "handover")
        assert [event.data for event in await take(bob, 2)] == ["passed on", "direct"]


async def test_g8_a_node_with_one_slow_consumer_hears_that_another_of_its_clients_was_taken_over(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The word to it alone waits for credit, behind what is for that consumer; what is told all does not."""
    monkeypatch.setattr(peer_directory, "ASK_TIMEOUT", 3.0)  # or the reply is too late on a machine that stands still
    done = anyio.Event()

    async def slow(_event: eventbus.Event) -> None:
        await done.wait()

    async with buses(uri, 2, slow_consumer_timeout=10 * DEADLINE) as (old, new), tasks() as group:
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
            await until(lambda: (owner := d._node.table.cached("bob")) is None or owner.node != a.node)
            late.ears.set()
            await claimed.wait()
            await c.send("bob", "n", 1)
            await new.got(1)
            hung.ears.set()
        assert (old.data, new.data) == ([0, 0], [1])


@pytest.mark.parametrize("when", ["before", "meanwhile"])
async def test_g8_a_takeover_from_a_node_that_does_not_listen_does_not_wait_for_its_answer(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sender learns that a process was killed when the transport counts no receiver, at the latest by a probe."""
    monkeypatch.setattr(takeover, "HANDOVER_TIMEOUT", DEADLINE * 2)
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
                await until(lambda: bool(b._node.takeover._handovers), "it asks the former owner")
                await b._node.outbox.flush()
                assert not claimed.is_set()
                await hung.leave([node_partition(a.node)])
            await until(claimed.is_set, "the claim returns")
            await c.send("bob", "n", 1)
            await new.got(1)
            await handle.aclose()
            hung.ears.set()
        assert (old.data, new.data) == ([0], [1])


async def test_g4_events_returned_by_a_deaf_owner_reach_the_new_owner_before_later_events() -> None:
    """The message about the new owner arrives during a write to the former one."""
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


async def test_g5_events_in_flight_to_a_dead_node_follow_its_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sender gives the node up during a write to it; the write then shows that no node had the events."""
    register("shut", Gated)
    async with buses("shut://tests", 3, close_timeout=0.2) as (a, b, c), a.client("bob", handler=(old := Inbox())):
        c.on_undeliverable(lost := Hooked())
        await c.send("bob", "n.0")
        await old.got(1)
        await a._node.transport.leave([node_partition(a.node)])
        await a._node.directory.leave()
        transport, lost_nodes, directory = c._node.transport, c._node.lost_nodes, c._node.directory
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
            lost_nodes.suspect(queue)
            await until(lambda: len(looked) == 1)
            lost_nodes.suspect(queue)
            await until(lambda: len(looked) == 2)  # so all that came of the first look is done
            transport.gate.set()
            await until(lambda: {*new.types, *(fate.type for fate in lost)} >= set(sent))
            assert new.types == sent
        assert old.types == ["n.0"]


async def test_g8_every_send_after_a_takeover_reaches_the_new_owner(uri: str) -> None:
    """Wherever a client moves, what is sent from any node from then on reaches it there, stale caches or not."""
    async with buses(uri, 4) as nodes, tasks() as group:
        readers = []
        for turn in range(12):
            home = nodes[turn % 3]
            client = home.client("alice")
            await client.__aenter__()
            for bus in nodes:
                await bus.send("alice", "turn", turn)
            readers.append(reader := read(group, client))
            await reader.got(len(nodes))
        for turn, reader in enumerate(readers):
            assert reader.data == [turn] * len(nodes)


async def test_g2_events_in_flight_during_a_takeover_are_handled_once_or_reported(uri: str) -> None:
    """While a client moves to and fro under fire, each event is handled by one of its handles or reported."""
    count = 400
    async with buses(uri, 3) as nodes, tasks() as group:
        lost = Hooked()
        raised: list[str] = []
        for bus in nodes:
            bus.on_undeliverable(lost)
        home = nodes[0].client("alice")
        await home.__aenter__()
        readers = [read(group, home)]

        async def fire(bus: Bus, done: anyio.Event) -> None:
            for number in range(count):
                kind = f"e.{bus.node}.{number}"
                try:
                    await bus.send("alice", kind)
                except ClientNotFound:
                    raised.append(kind)
                if number % 7 == 0:
                    await anyio.lowlevel.checkpoint()
            done.set()

        finished = [anyio.Event() for _ in nodes]
        for bus, done in zip(nodes, finished, strict=True):
            group.start_soon(fire, bus, done)
        for turn in range(1, 12):
            client = nodes[turn % 3].client("alice")
            await client.__aenter__()
            readers.append(read(group, client))
        for done in finished:
            await done.wait()

        def known() -> list[str]:
            handled = [kind for reader in readers for kind in reader.types]
            return handled + [fate.type for fate in lost] + raised

        wanted = sorted(f"e.{bus.node}.{number}" for bus in nodes for number in range(count))
        await until(lambda: len(known()) >= len(wanted))
        await fence(nodes, nodes)
        assert sorted(known()) == wanted
        assert not raised, "a node held the client all the time"


async def test_events_sent_while_a_claim_is_on_its_way_arrive_in_order(uri: str) -> None:
    """Once the directory knows the claim, senders find the client, and lose nothing, the node knowing it or not."""
    async with buses(uri, 3) as (a, b, c):
        for turn in range(10):
            name = f"client-{turn}"
            sent: list[tuple[str, int]] = []

            async def send(bus: Bus, name: str = name, sent: list[tuple[str, int]] = sent) -> None:
                number = 0
                while number < 30:
                    try:
                        await bus.send(name, "n", (bus.node, number))
                    except ClientNotFound:
                        await anyio.lowlevel.checkpoint()
                    else:
                        sent.append((bus.node, number))
                        number += 1

            client = b.client(name)
            async with anyio.create_task_group() as group:
                group.start_soon(send, a)
                group.start_soon(send, c)
                await client.__aenter__()
                events = await take(client, 60)
            got = [tuple(event.data) for event in events]
            assert sorted(got) == sorted(sent)
            for node in ("n0", "n2"):
                assert [number for who, number in got if who == node] == list(range(30))
            await client.aclose()
