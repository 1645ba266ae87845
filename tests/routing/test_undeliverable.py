"""What becomes of events that were accepted and cannot be handled: their sender is told, each once, with the reason."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from eventbus import Bus, ClientNotFound, ClientTakenOver, Event, Undeliverable
from eventbus_core.node.snapshot import STATS
from tests.support import DEADLINE, Hooked, Host, Inbox, buses, fence, fresh_namespace, read, take, tasks, until

ASKING = True


@pytest.mark.parametrize("near", [True, False], ids=["near", "far"])
async def test_g5_events_left_in_the_mailbox_of_a_client_are_reported(uri: str, near: bool) -> None:
    """What a client had not taken when it closed is reported to the node that sent it, and counted where it was."""
    async with buses(uri, 2) as nodes:
        sender = nodes[1 if near else 0]
        lost, not_ours = Hooked(), Hooked()
        for bus in nodes:
            bus.on_undeliverable(lost if bus is sender else not_ours)
        async with nodes[1].client("bob") as bob:
            for number in range(5):
                await sender.send("bob", f"n.{number}")
            taken = await take(bob, 2)
        await until(lambda: len(lost) == 3)
        await fence(nodes, nodes)
        assert [event.type for event in taken] == ["n.0", "n.1"]
        assert [fate.type for fate in lost] == ["n.2", "n.3", "n.4"]
        fate = lost[0]
        assert isinstance(fate, Undeliverable)
        assert (fate.source, fate.target, fate.reason) == (sender.address, "bob", "client gone")
        assert len({fate.id for fate in lost} | {event.id for event in taken}) == 5
        assert [bus.stats().undeliverable for bus in nodes] == [3 if bus is sender else 0 for bus in nodes]
        assert sender.stats().undeliverable_by_reason == {"client gone": 3}
        assert not not_ours


@pytest.mark.parametrize("near", [True, False], ids=["near", "far"])
@pytest.mark.parametrize("how", [{}, {"headers": {"a": "b"}}, {"expires": 60.0}], ids=["plain", "headers", "expires"])
async def test_g5_a_send_returns_the_id_by_which_its_event_is_reported(
    uri: str, near: bool, how: dict[str, Any]
) -> None:
    """On each way: by a known route, by one that is asked for first, and while there is no room."""
    async with buses(uri, 2, local_backlog=3) as nodes:
        sender = nodes[1 if near else 0]
        sender.on_undeliverable(lost := Hooked())
        sent: list[str] = []
        async with nodes[1].client("bob") as bob, anyio.create_task_group() as group:

            async def send() -> None:
                sent.extend([await sender.send("bob", "n", number, **how) for number in range(8)])

            group.start_soon(send)
            taken = await take(bob, 5)
        await until(lambda: len(lost) == 3)
        assert [event.id for event in taken] + [fate.id for fate in lost] == sent


async def test_each_way_to_send_returns_the_id_of_the_event(uri: str) -> None:
    async with buses(uri, 2) as (a, b), b.client("bob") as bob:
        inbox = Inbox()
        for bus in (a, b):
            bus.on("n", inbox)
        await b.ready()
        sent = [
            await a.send(b.address, "n"),
            *2 * [await a.publish("n")],
            *2 * [await bob.publish(["n", "m"])],
            *2 * [await a.broadcast("n")],
            await a.emit("n"),
        ]
        events = await inbox.got(len(sent))
        assert sorted(event.id for event in events) == sorted(sent)
        assert len(set(sent)) == 5


async def test_g5_a_report_bears_the_name_of_the_client_that_sent(uri: str) -> None:
    """The report of what a client sent names that client, and comes to the node that it is on."""
    async with buses(uri, 2) as (a, b), a.client("alice") as alice:
        lost = Hooked()
        a.on_undeliverable(lost)
        async with b.client("bob"):
            await alice.send("bob", "hello")
            await fence([a], [b])
        await until(lambda: len(lost) == 1)
        assert (lost[0].source, lost[0].target) == ("alice", "bob")


async def test_g5_a_send_by_a_stale_route_is_reported(uri: str) -> None:
    """An event sent to the former node of a client that no node holds now is reported; the next send raises."""
    async with buses(uri, 2) as (a, b):
        lost = Hooked()
        a.on_undeliverable(lost)
        async with b.client("bob", handler=(inbox := Inbox())):
            await a.send("bob", "first")
            await inbox.got(1)
        await a.send("bob", "second")
        await until(lambda: len(lost) == 1)
        assert (lost[0].type, lost[0].reason) == ("second", "client gone")
        with pytest.raises(ClientNotFound):
            await a.send("bob", "third")
        assert (a.stats().undeliverable, b.stats().undeliverable) == (1, 0)


@pytest.mark.parametrize("hops", [0, 1, 2])
async def test_g5_an_event_is_passed_on_twice_at_the_most(uri: str, hops: int) -> None:
    """Whoever has it then, and does not hold its client, reports it."""
    async with buses(uri, 3) as (a, b, c), b.client("bob", handler=(bob := Inbox())):
        lost = Hooked()
        c.on_undeliverable(lost)
        event = replace(c._node.channel.message(STATS, a.node, None), type="n", target="bob", hops=hops, origin=c.node)
        c._node.channel.forward(a.node, event)
        await until(lambda: bool(bob.events or lost))
        assert ([fate.reason for fate in lost], len(bob)) == (([], 1) if hops < 2 else (["too many hops"], 0))


async def test_g11_the_owners_that_a_sender_remembers_are_bounded(uri: str) -> None:
    """Who was forgotten is looked up again."""
    names = [f"acme/{number}" for number in range(5)]
    async with buses(uri, 2, owner_cache=2) as (a, b), AsyncExitStack() as stack:
        inbox = Inbox()
        for name in names:
            await stack.enter_async_context(b.client(name, handler=inbox))
        for _ in range(2):
            for name in names:
                await a.send(name, "n", name)
                assert len(a._node.table.known) <= 2
        await inbox.got(10)
        assert sorted(inbox.data) == sorted(2 * names)


async def test_g5_events_for_a_node_that_left_are_reported(uri: str) -> None:
    """What was sent to a node, or a client of it, that left meanwhile is reported or refused; never lost in silence."""
    namespace = fresh_namespace()
    async with buses(uri, 1, namespace=namespace) as (a,), tasks() as group:
        lost = Hooked()
        a.on_undeliverable(lost)
        raised = 0
        for turn in range(3):
            host = Host(uri, node="leaver", namespace=namespace)
            b = await host.open(group)
            b.on("n.*")(inbox := Inbox())
            await b.client("bob", handler=inbox).__aenter__()
            await a.send("@leaver", "n.0")
            await a.send("bob", "n.1")
            await inbox.got(2)
            await host.close()
            for target in ("@leaver", "bob"):
                try:
                    await a.send(target, f"lost.{turn}")
                except ClientNotFound:
                    raised += 1
        await until(lambda: len(lost) + raised == 6)
        with anyio.fail_after(DEADLINE):
            await a.flush()
        assert {fate.target for fate in lost} <= {"@leaver", "bob"}
        assert all(fate.type.startswith("lost.") for fate in lost), lost


async def test_g5_no_event_of_the_bus_itself_is_reported(uri: str) -> None:
    """Applications hear of their own events alone, not of what nodes tell each other."""
    namespace = fresh_namespace()
    async with buses(uri, 2, namespace=namespace) as nodes, tasks() as group:
        lost = Hooked()
        for bus in nodes:
            bus.on_undeliverable(lost)
        for _ in range(3):
            host = Host(uri, node="visitor", namespace=namespace)
            visitor = await host.open(group)
            await visitor.client("bob").__aenter__()
            for bus in nodes:
                await bus.send("bob", "hello")
            await fence(nodes, [visitor])
            async with nodes[0].client("bob") as bob:  # the visitor's events go after it
                await visitor.send("bob", "last")
                await take(bob, 3)
                closing = anyio.Event()

                async def close(host: Host = host, closing: anyio.Event = closing) -> None:
                    await host.close()
                    closing.set()

                group.start_soon(close)
                for bus in nodes:
                    await bus.send("bob", "hello")
                await take(bob, 2)
                await closing.wait()
        await fence(nodes, nodes)
        for bus in nodes:
            with anyio.fail_after(DEADLINE):
                await bus.flush()
        assert not lost
        assert [bus.stats().undeliverable for bus in nodes] == [0, 0]


async def test_g5_closing_a_bus_reports_the_unread_events_of_its_clients(uri: str) -> None:
    """A bus that closes tells other senders, and its own hooks, of what its clients had not taken."""
    namespace = fresh_namespace()
    async with buses(uri, 1, namespace=namespace) as (a,), tasks() as group:
        lost, lost_at_home = Hooked(), Hooked()
        a.on_undeliverable(lost)
        host = Host(uri, node="leaver", namespace=namespace)
        b = await host.open(group)
        b.on_undeliverable(lost_at_home)
        await b.client("bob").__aenter__()
        for number in range(3):
            await a.send("bob", f"a.{number}")
            await b.send("bob", f"b.{number}")
        await fence([a], [b])
        await host.close()
        assert [fate.type for fate in lost_at_home] == ["b.0", "b.1", "b.2"]
        await until(lambda: len(lost) == 3)
        assert [fate.type for fate in lost] == ["a.0", "a.1", "a.2"]


async def test_g5_nothing_is_lost_under_the_fire_of_others_when_a_bus_closes(uri: str) -> None:
    """Of what others send while a bus closes, each event was handled, is reported, or was refused."""
    namespace = fresh_namespace()
    async with buses(uri, 2, namespace=namespace) as nodes, tasks() as group:
        lost = Hooked()
        refused: list[str] = []
        for bus in nodes:
            bus.on_undeliverable(lost)
        host = Host(uri, node="leaver", namespace=namespace)
        leaver = await host.open(group)
        inbox = Inbox()
        await leaver.client("bob", handler=inbox).__aenter__()
        over = [anyio.Event() for _ in nodes]

        async def fire(bus: Bus, done: anyio.Event) -> None:
            for number in range(2000):
                kind = f"e.{bus.node}.{number}"
                try:
                    await bus.send("bob", kind)
                except ClientNotFound:
                    refused.append(kind)
                    if number > 1000:
                        break
                if number % 20 == 0:
                    await anyio.lowlevel.checkpoint()
            sent[bus.node] = number + 1
            done.set()

        sent: dict[str, int] = {}
        for bus, done in zip(nodes, over, strict=True):
            group.start_soon(fire, bus, done)
        await inbox.got(100)
        await host.close()
        for done in over:
            await done.wait()

        def known() -> list[str]:
            return inbox.types + [fate.type for fate in lost] + refused

        wanted = {f"e.{node}.{number}" for node, count in sent.items() for number in range(count)}
        await until(lambda: len(known()) >= len(wanted))
        await fence(nodes, nodes)
        assert len(known()) == len(wanted)
        assert set(known()) == wanted


async def test_g5_events_for_a_node_without_a_handler_are_reported(uri: str) -> None:
    """A send to a node where no handler is for its type is reported; a broadcast and a topic need no receiver."""
    async with buses(uri, 2) as nodes:
        lost = Hooked()
        nodes[0].on_undeliverable(lost)
        for target in ("@n0", "@n1"):
            await nodes[0].send(target, "without.handler")
        await nodes[0].broadcast("without.handler")
        await nodes[0].publish("without.handler")
        await until(lambda: len(lost) == 2)
        await fence(nodes, nodes)
        assert sorted((fate.target, fate.reason) for fate in lost) == [("@n0", "no handler"), ("@n1", "no handler")]


@pytest.mark.parametrize("near", [True, False], ids=["near", "far"])
async def test_g5_events_dropped_from_a_full_mailbox_are_reported(uri: str, near: bool) -> None:
    """Of what a lagging client loses, its senders are told: each event is handled or reported as dropped."""
    count = 500
    async with buses(uri, 2, mailbox_events=20, slow_consumer_timeout=0.1) as nodes, nodes[1].client("bob") as bob:
        sender = nodes[1 if near else 0]
        lost = Hooked()
        sender.on_undeliverable(lost)
        for number in range(count):
            await sender.send("bob", f"n.{number}")
        await until(lambda: nodes[1].stats().dropped > 0)
        await fence([sender], [nodes[1]])
        await sender.send("bob", "last")
        handled: list[str] = []
        while "last" not in handled:
            handled.append((await take(bob, 1))[0].type)
        handled = [kind for kind in handled if kind.startswith("n.")]
        await until(lambda: len(handled) + len(lost) >= count)
        assert sorted(handled + [fate.type for fate in lost]) == sorted(f"n.{number}" for number in range(count))
        assert {fate.reason for fate in lost} == {"mailbox full"}


@pytest.mark.parametrize("onto", [0, 1, 2], ids=["same-node", "sender", "third"])
async def test_g8_events_that_the_old_handle_had_not_taken_go_to_the_new_one(uri: str, onto: int) -> None:
    """What waits for a client moves with it, in order."""
    async with buses(uri, 3) as nodes:
        lost = Hooked()
        for bus in nodes:
            bus.on_undeliverable(lost)
        async with nodes[0].client("bob") as old:
            for number in range(10):
                await nodes[1].send("bob", "n", number)
            await take(old, 3)
            await fence([nodes[1]], [nodes[0]])
            async with nodes[onto].client("bob") as new:
                assert [event.data for event in await take(new, 7)] == list(range(3, 10))
                with pytest.raises(ClientTakenOver):
                    await old.receive()
        await fence(nodes, nodes)
        assert not lost


async def test_a_handler_that_is_taken_off_leaves_the_others_their_events(uri: str) -> None:
    """What waits for one handler of a node is its own: the other handlers lose nothing when it goes."""
    async with buses(uri, 2) as (a, b):
        gate = anyio.Event()

        async def slow(event: Event) -> None:
            await gate.wait()

        b.on("n")(slow)
        b.on("n")(inbox := Inbox())
        await b.ready()
        for number in range(10):
            await a.publish("n", number)
        await inbox.got(10)
        b.off(slow)
        gate.set()
        await a.publish("n", 10)
        await inbox.got(11)


async def test_reports_reach_an_async_hook_in_order(uri: str) -> None:
    """Hooks are called one after the other, in the order in which things happened."""
    async with buses(uri, 2) as (a, b):
        seen: list[str] = []

        @a.on_undeliverable
        async def slow(fate: Undeliverable) -> None:
            await anyio.lowlevel.checkpoint()
            seen.append(fate.type)

        async with b.client("bob"):
            for number in range(20):
                await a.send("bob", f"n.{number}")
            await fence([a], [b])
        await until(lambda: len(seen) == 20)
        assert seen == [f"n.{number}" for number in range(20)]


async def test_g5_the_reader_of_a_client_that_is_taken_over_keeps_its_event(uri: str) -> None:
    """Each event goes to one of the two handles, even while the old one is being read."""
    async with buses(uri, 2) as (a, b), tasks() as group, a.client("bob") as old:
        reader = read(group, old)
        for number in range(100):
            await a.send("bob", "n", number)
        async with b.client("bob") as new:
            second = read(group, new)
            await until(lambda: len(reader) + len(second) >= 100)
            await fence([a, b], [a, b])
            assert sorted(reader.data + second.data) == list(range(100))
