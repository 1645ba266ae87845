"""The handle of a client: events sent to the client reach it, and no other receiver."""

from __future__ import annotations

import anyio
import pytest

from eventbus import (
    Bus,
    BusClosed,
    ClientNotFound,
    ClientTakenOver,
    EventBusError,
    InvalidName,
)
from tests.support import DEADLINE, Inbox, buses, fence, read, take, tasks

ASKING = True


async def test_g1_an_event_for_a_client_reaches_that_client_alone(uri: str) -> None:
    """Neither other clients, nor handlers of any node, nor subscribers of its type see what is sent to a client."""
    async with buses(uri, 3) as nodes:
        _, b, c = nodes
        others = Inbox()
        for bus in nodes:
            bus.on(">")(others)
            await bus.ready()
        async with (
            b.client("acme/alice") as alice,
            b.client("alice", handler=others) as namesake,
            c.client("bob", handler=others) as bob,
        ):
            await namesake.subscribe(">")
            await bob.subscribe(">")
            for bus in nodes:
                await bus.send("acme/alice", "chat.message", {"from": bus.node})
            events = await take(alice, 3)
            await fence(nodes, nodes)
        assert sorted(event.data["from"] for event in events) == ["n0", "n1", "n2"]
        assert {event.target for event in events} == {"acme/alice"}
        assert [event for event in others.events if event.type != "fence.lowered"] == []


async def test_g1_a_client_that_was_never_claimed_has_no_owner(uri: str) -> None:
    """A send to a client that no node holds raises, and the event reaches no receiver."""
    async with buses(uri, 2) as (a, b):
        for bus in (a, b):
            with pytest.raises(ClientNotFound, match="no node holds client 'alice'"):
                await bus.send("alice", "hello")
        async with b.client("alice") as alice:
            await a.send("alice", "first")
            assert [event.type for event in await take(alice, 1)] == ["first"]


async def test_g2_each_of_many_events_is_handled_once(uri: str) -> None:
    """Of what several nodes send at the same time to one client, everything arrives once."""
    count = 300

    async def flood(bus: Bus) -> None:
        for number in range(count):
            await bus.send("alice", "n", (bus.node, number))

    async with buses(uri, 3) as nodes, nodes[0].client("alice") as alice, tasks() as group:
        reader = read(group, alice)
        for bus in nodes:
            group.start_soon(flood, bus)
        await reader.got(3 * count)
        await fence(nodes, nodes[:1])
        numbers = [tuple(data) for data in reader.data]
        assert sorted(numbers) == [(bus.node, number) for bus in nodes for number in range(count)]
        for bus in nodes:
            assert [number for node, number in numbers if node == bus.node] == list(range(count))
        assert len({event.id for event in reader.events}) == 3 * count


async def test_a_client_sends_in_its_own_name(uri: str) -> None:
    """What a client sends, publishes or asks bears its name, what the bus does the node's; the answer finds back."""
    async with buses(uri, 2) as (a, b), a.client("alice") as alice, b.client("bob") as bob, tasks() as group:
        await bob.subscribe("news")
        await alice.send("bob", "direct")
        await a.send("bob", "direct")
        assert [event.source for event in await take(bob, 2)] == ["alice", "@n0"]
        await alice.publish("news")
        await a.publish("news")
        assert [event.source for event in await take(bob, 2)] == ["alice", "@n0"]

        async def answer() -> None:
            question = await bob.receive()
            assert question.source == "alice"
            await bob.reply(question, "yes")

        group.start_soon(answer)
        reply = await alice.request("bob", "question", timeout=DEADLINE)
        assert (reply.source, reply.data) == ("bob", "yes")
        await bob.send("alice", "direct")
        assert [event.source for event in await take(alice, 1)] == ["bob"]


@pytest.mark.parametrize("onto", [0, 1], ids=["same-node", "other-node"])
async def test_g8_a_takeover_ends_the_old_handle(uri: str, onto: int) -> None:
    """After a takeover the old handle says so in everything it is asked, and the new one works."""
    async with buses(uri, 2) as nodes, tasks() as group, nodes[0].client("alice") as old:
        reader = read(group, old)
        async with nodes[onto].client("alice") as new:
            assert new.epoch > old.epoch
            reason = await reader.over()
            assert isinstance(reason, ClientTakenOver)
            assert (reason.client, reason.node) == ("alice", f"n{onto}")
            for operation in (
                old.receive,
                lambda: old.send("alice", "x"),
                lambda: old.publish("x"),
                lambda: old.request("alice", "x"),
                lambda: old.subscribe("x"),
                lambda: old.unsubscribe("x"),
            ):
                with pytest.raises(ClientTakenOver, match=f"node 'n{onto}' took over"):
                    await operation()
            await old.aclose()
            for bus in nodes:
                await bus.send("alice", "still.there", bus.node)
            assert sorted(event.data for event in await take(new, 2)) == ["n0", "n1"]


@pytest.mark.parametrize("onto", [0, 1], ids=["same-node", "other-node"])
async def test_g8_subscriptions_end_with_the_handle_that_made_them(uri: str, onto: int) -> None:
    """A handle that was taken over is subscribed to nothing; the new one only to what it asks for itself."""
    async with buses(uri, 2) as nodes, nodes[0].client("alice") as old:
        await old.subscribe("room.1")
        await old.subscribe("room.>")
        async with nodes[onto].client("alice") as new:
            await new.subscribe("room.2")
            before = nodes[0].stats().local
            await nodes[0].publish("room.1", 1)
            assert nodes[0].stats().local == before, "no receiver of this node is subscribed"
            for bus in nodes:
                await bus.publish("room.1", 1)
                await bus.publish("room.2", 2)
            await fence(nodes, nodes)
            assert [event.data for event in await take(new, 2)] == [2, 2]

        # On a broker a claim takes more turns than that: then all of them were cancelled.


async def test_a_handle_is_entered_once(uri: str) -> None:
    """A handle cannot be entered again, neither while it is open nor after; nor be used outside."""
    async with buses(uri, 1) as (bus,):
        alice = bus.client("alice")
        for operation in (alice.receive, lambda: alice.send("alice", "x"), lambda: alice.subscribe("x")):
            with pytest.raises(BusClosed, match="client 'alice' is not open"):
                await operation()
        async with alice:
            with pytest.raises(BusClosed, match="cannot be entered again"):
                await alice.__aenter__()
        with pytest.raises(BusClosed, match="cannot be entered again"):
            await alice.__aenter__()
        for operation in (alice.receive, lambda: alice.send("alice", "x"), lambda: alice.subscribe("x")):
            with pytest.raises(BusClosed, match="client 'alice' is not open"):
                await operation()


async def test_a_handle_that_was_never_entered_can_be_closed(uri: str) -> None:
    """Closing what holds nothing does nothing, to whoever holds the client least of all."""
    async with buses(uri, 1) as (bus,), bus.client("alice") as alice:
        with anyio.fail_after(DEADLINE):
            await bus.client("alice").aclose()
        await bus.send("alice", "hello")
        await take(alice, 1)


async def test_a_client_with_a_handler_is_not_iterated(uri: str) -> None:
    """Its events go to the handler, in order; receiving beside it is refused."""
    inbox = Inbox()
    async with buses(uri, 2) as (a, b), b.client("alice", handler=inbox) as alice:
        with pytest.raises(EventBusError, match="has a handler"):
            await alice.receive()
        for number in range(10):
            await a.send("alice", "n", number)
        await inbox.got(10)
        assert inbox.data == list(range(10))


async def test_several_tasks_may_read_one_client(uri: str) -> None:
    """Each event goes to one of the tasks that read a client, and none of them is forgotten."""
    async with buses(uri, 2) as (a, b), b.client("alice") as alice:
        got: list[int] = []

        async def read_one() -> None:
            got.append((await alice.receive()).data)

        with anyio.fail_after(DEADLINE):
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(read_one)
                for number in range(3):
                    await anyio.lowlevel.checkpoint()
                    await a.send("alice", "n", number)
        assert sorted(got) == [0, 1, 2]


async def test_many_clients_at_once(uri: str) -> None:
    """A thousand clients are claimed and released together; each gets its own events, the directory lists them all."""
    names = [f"tenant-{number % 7}/client-{number}" for number in range(1000)]
    async with buses(uri, 2) as (a, b):
        inboxes = {name: Inbox() for name in names}
        clients = [b.client(name, handler=inbox) for name, inbox in inboxes.items()]
        async with anyio.create_task_group() as group:
            for client in clients:
                group.start_soon(client.__aenter__)
        assert b.stats().clients == 1000
        assert sorted([name async for name in a.clients()]) == sorted(names)
        assert [name async for name in a.clients("n0")] == []
        assert sorted([name async for name in a.clients("n1")]) == sorted(names)
        async with anyio.create_task_group() as group:
            for name in names:
                group.start_soon(a.send, name, "to", name)
        for name, inbox in inboxes.items():
            assert [event.data for event in await inbox.got(1)] == [name]
        async with anyio.create_task_group() as group:
            for client in clients:
                group.start_soon(client.aclose)
        assert b.stats().clients == 0
        assert [name async for name in a.clients()] == []
        await fence([a], [b])
        assert {len(inbox) for inbox in inboxes.values()} == {1}


async def test_a_client_may_be_anyone_that_the_rules_allow(uri: str) -> None:
    """Names that look like patterns, channels, paths or keys of a broker reach only their own client."""
    names = [
        *("n1", "a.b", "a:b", "{x}", "owners:1", "tenant/n1", "ünïcödé/日本", "a'b\"c", "[a-z]", "?", "\\", "%s"),
        *("all", "l:0", "n:n1", "tenant/all", "x" * 255, "-", "a=b&c", "0", "None", "nodes", "meta", "held:n1"),
    ]
    async with buses(uri, 2) as (a, b):
        inboxes = {name: Inbox() for name in names}
        for name, inbox in inboxes.items():
            await b.client(name, handler=inbox).__aenter__()
        for name in names:
            await a.send(name, "to", name)
        for name, inbox in inboxes.items():
            await inbox.got(1)
            assert inbox.data == [name]
        assert sorted([name async for name in a.clients()]) == sorted(names)


async def test_invalid_client_names_are_refused_at_the_edge(uri: str) -> None:
    """No handle exists for a name against the rules."""
    async with buses(uri, 1) as (bus,):
        for name in ("", "a/b/c", "/a", "a/", "@n0", "#t", "$x", "a*", "a>", "a b", "a\n", "x" * 256):
            with pytest.raises(InvalidName):
                bus.client(name)
