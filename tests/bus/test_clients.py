"""Clients: claimed, moved, released; what is sent to them reaches them, and nobody else."""

from __future__ import annotations

import anyio
import pytest

from eventbus import (
    Bus,
    BusClosed,
    Client,
    ClientAlreadyClaimed,
    ClientNotFound,
    ClientTakenOver,
    EventBusError,
    InvalidName,
)
from tests.bus.support import DEADLINE, Hooked, Inbox, Reader, buses, fence, read, take, tasks, until

ASKING = True


async def test_g1_an_event_for_a_client_reaches_that_client_and_nobody_else(uri: str) -> None:
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


async def test_g1_nobody_owns_what_was_never_claimed(uri: str) -> None:
    """A send to a client that nobody holds raises, and the event is nowhere."""
    async with buses(uri, 2) as (a, b):
        for bus in (a, b):
            with pytest.raises(ClientNotFound, match="nobody on the bus is 'alice'"):
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
                with pytest.raises(ClientTakenOver, match=f"taken over by node 'n{onto}'"):
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
            assert nodes[0].stats().local == before, "nobody on this node is subscribed"
            for bus in nodes:
                await bus.publish("room.1", 1)
                await bus.publish("room.2", 2)
            await fence(nodes, nodes)
            assert [event.data for event in await take(new, 2)] == [2, 2]


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


async def test_g8_a_takeover_that_nobody_waits_for_any_more_ends_the_old_handle_all_the_same(uri: str) -> None:
    """If a claim is cancelled once it has been granted, the old handle has ended, and nobody holds the client."""
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
        # On a broker a claim takes more turns than that: then all of them were cancelled.


async def _cancel_later(scope: anyio.CancelScope, turns: int) -> None:
    for _ in range(turns):
        await anyio.lowlevel.checkpoint()
    scope.cancel()


async def test_g8_takeover_false_is_refused_and_changes_nothing(uri: str) -> None:
    """A claim with ``takeover=False`` of a client that is held raises; the holder notices nothing of it."""
    async with buses(uri, 2) as nodes, nodes[0].client("alice") as alice:
        for bus in nodes:
            with pytest.raises(ClientAlreadyClaimed, match="client 'alice' is held by node 'n0'") as caught:
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


async def test_g2_events_under_way_in_a_takeover_are_handled_once_or_reported(uri: str) -> None:
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
        assert not raised, "somebody held the client all the time"


async def test_g1_a_released_client_is_nobodys(uri: str) -> None:
    """After the handle was left, the directory names nobody, and a fresh sender is told so."""
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


async def test_an_old_handle_releases_nothing_of_its_successor(uri: str) -> None:
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
