"""Topics and broadcasts: who gets them, in which order, and on which lanes."""

from __future__ import annotations

from zlib import crc32

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import eventbus
from eventbus import Bus, InvalidName
from eventbus_core.backend import lane_partition
from eventbus_core.testing.simulation.expectations import matches
from tests import strategies
from tests.support import DEADLINE, Inbox, buses, fence, take


@settings(max_examples=15)
@given(
    patterns=st.lists(strategies.crowded_patterns, min_size=1, max_size=12, unique=True),
    topics=st.lists(strategies.crowded_topics, min_size=1, max_size=8, unique=True),
)
async def test_g7_the_receivers_of_a_topic_are_those_whose_pattern_matches(
    uri: str, patterns: list[str], topics: list[str]
) -> None:
    """By the rule and by nothing else, a subscriber gets a topic: handlers and clients, near and far, each once."""
    async with buses(uri, 2) as nodes:
        a, b = nodes
        inboxes: dict[tuple[str, str], Inbox] = {}
        for pattern in patterns:
            for bus in nodes:
                inboxes[pattern, bus.node] = inbox = Inbox()
                bus.on(pattern)(inbox)
            inboxes[pattern, "client"] = inbox = Inbox()
            client = b.client(f"c/{pattern.replace('*', 'one').replace('>', 'rest')}", handler=inbox)
            await client.__aenter__()
            await client.subscribe(pattern)
        for bus in nodes:
            await bus.ready()
        for topic in topics:
            await a.publish(topic, topic)
        for (pattern, _), inbox in inboxes.items():
            wanted = [topic for topic in topics if matches(pattern, topic)]
            await inbox.got(len(wanted))
        await fence([a], nodes)
        for (pattern, receiver), inbox in inboxes.items():
            wanted = [topic for topic in topics if matches(pattern, topic)]
            got = [data for data in inbox.data if data is not None]  # None: the fence
            assert sorted(got) == sorted(wanted), (pattern, receiver)


async def test_g7_a_client_that_matches_more_than_once_gets_the_event_once(uri: str) -> None:
    """Overlapping patterns of one client make one delivery."""
    async with buses(uri, 2) as nodes, nodes[1].client("alice") as alice:
        for pattern in ("room.1", "room.*", "room.>", ">", "*.1", "room.1"):
            await alice.subscribe(pattern)
        for bus in nodes:
            await bus.publish("room.1", bus.node)
        await fence(nodes, nodes)
        await nodes[0].send("alice", "last", "last")
        events = await take(alice, 3)
        assert [event.data for event in events[:2]] in (["n0", "n1"], ["n1", "n0"])
        assert events[2].type == "last"


async def test_g7_the_end_of_a_subscription(uri: str) -> None:
    """What a client has unsubscribed from does not come, and its other patterns go on."""
    async with buses(uri, 2) as nodes, nodes[1].client("alice") as alice:
        await alice.subscribe("room.1")
        await alice.subscribe("room.*")
        await alice.unsubscribe("room.*")
        await alice.unsubscribe("never.was")
        for bus in nodes:
            await bus.publish("room.2", "no")
            await bus.publish("room.1", bus.node)
        assert sorted(event.data for event in await take(alice, 2)) == ["n0", "n1"]
        await alice.unsubscribe("room.1")
        for bus in nodes:
            await bus.publish("room.1", "no")
        await fence(nodes, nodes)
        await nodes[0].send("alice", "last")
        assert [event.type for event in await take(alice, 1)] == ["last"]


async def test_g7_subscriptions_come_and_go_without_a_trace(uri: str) -> None:
    """A client that subscribes and unsubscribes again and again gets just what is published while it is subscribed."""
    async with buses(uri, 2) as (a, b), b.client("alice") as alice:
        for turn in range(20):
            await a.publish("room.1", ("no", turn))
            await a.flush()
            await fence([a], [b])
            await alice.subscribe("room.1")
            await a.publish("room.1", ("yes", turn))
            assert (await take(alice, 1))[0].data == ["yes", turn]
            await alice.unsubscribe("room.1")


async def test_g7_many_clients_share_a_lane_and_leave_it_alone(uri: str) -> None:
    """While some come and others go on the same topic, those who stay miss nothing."""
    async with buses(uri, 2) as (a, b), b.client("stayer") as stayer:
        await stayer.subscribe("room.1")

        left = 20

        async def visit(name: str) -> None:
            nonlocal left
            async with b.client(name) as visitor:
                await visitor.subscribe("room.1")
                await visitor.receive()
                await visitor.unsubscribe("room.1")
            left -= 1

        published = 0
        with anyio.fail_after(DEADLINE):
            async with anyio.create_task_group() as group:
                for number in range(left):
                    group.start_soon(visit, f"visitor-{number}")
                while left:
                    await a.publish("room.1", published)
                    published += 1
                    await anyio.lowlevel.checkpoint()
        events = await take(stayer, published)
        assert [event.data for event in events] == list(range(published))


async def test_g7_concurrent_subscriptions_of_one_pattern_each_hold(uri: str) -> None:
    """If one of several calls that subscribe a client to one pattern is cancelled, the others still hold."""
    async with buses(uri, 2) as (a, b), b.client("alice") as alice:
        for turn in range(10):
            topic = f"room.{turn}"
            cancelled = anyio.CancelScope()

            async def first(topic: str = topic, cancelled: anyio.CancelScope = cancelled) -> None:
                with cancelled:
                    await alice.subscribe(topic)

            async with anyio.create_task_group() as group:
                group.start_soon(first)
                group.start_soon(alice.subscribe, topic)
                await anyio.lowlevel.checkpoint()
                cancelled.cancel()
            await a.publish(topic, turn)
            assert (await take(alice, 1))[0].data == turn
            with anyio.CancelScope() as scope:  # it is subscribed already: no call can undo that but unsubscribe
                scope.cancel()
                await alice.subscribe(topic)
            await a.publish(topic, turn)
            assert (await take(alice, 1))[0].data == turn


async def test_g4_one_topic_from_one_node_keeps_its_order(uri: str) -> None:
    """Events of a topic arrive everywhere in the order in which one node published them."""
    count = 500
    async with buses(uri, 3) as nodes:
        inboxes = []
        for bus in nodes:
            bus.on("n")(inbox := Inbox())
            bus.on(">")(inbox_all := Inbox())
            await bus.ready()
            inboxes += [inbox, inbox_all]

        async def publish(bus: Bus) -> None:
            for number in range(count):
                await bus.publish("n", (bus.node, number))

        async with anyio.create_task_group() as group:
            for bus in nodes:
                group.start_soon(publish, bus)
        for inbox in inboxes:
            await inbox.got(3 * count)
            for bus in nodes:
                assert [number for node, number in inbox.data if node == bus.node] == list(range(count))


async def test_g3_a_broadcast_reaches_every_node_once(uri: str) -> None:
    """Every handler of every node whose pattern matches the type gets a broadcast once; clients do not."""
    async with buses(uri, 4) as nodes, nodes[1].client("alice") as alice:
        await alice.subscribe(">")
        inboxes = []
        for bus in nodes:
            for pattern in ("config.*", "config.changed", ">"):
                bus.on(pattern)(inbox := Inbox())
                inboxes.append(inbox)
            bus.on("other")(Inbox())
        for bus in nodes:
            await bus.broadcast("config.changed", bus.node)
        for inbox in inboxes:
            await inbox.got(4)
            assert sorted(inbox.data) == ["n0", "n1", "n2", "n3"]
            assert {(event.target, event.topic) for event in inbox.events} == {("*", None)}
        await fence(nodes, nodes)
        assert {len([data for data in inbox.data if data]) for inbox in inboxes} == {4}
        await nodes[0].send("alice", "only.this")
        assert [event.type for event in await take(alice, 1)] == ["only.this"]


async def test_g3_include_self_leaves_only_the_sender_out(uri: str) -> None:
    """With ``include_self=False`` all nodes but the sender's get the broadcast."""
    async with buses(uri, 3) as nodes:
        inboxes = {bus.node: Inbox() for bus in nodes}
        for bus in nodes:
            bus.on("config.changed")(inboxes[bus.node])
            bus.on("config.changed", local=True)(inboxes[bus.node])
        await nodes[0].broadcast("config.changed", include_self=False)
        await inboxes["n1"].got(1)
        await inboxes["n2"].got(1)
        await fence(nodes, nodes)
        assert [len(inbox) for inbox in inboxes.values()] == [0, 1, 1]
        await nodes[0].broadcast("config.changed")
        await inboxes["n0"].got(2)  # one by the handler, one by the local one
        await fence(nodes, nodes)
        assert [len(inbox) for inbox in inboxes.values()] == [2, 2, 2]


async def test_g3_a_broadcast_reaches_nodes_that_came_last(uri: str) -> None:
    """Once connecting to the bus has returned, a node gets every broadcast."""
    async with buses(uri, 1) as (a,):
        for number in range(5):
            async with eventbus.connect(uri, namespace=a.namespace, node=f"late-{number}") as late:
                late.on("hello")(inbox := Inbox())
                await a.broadcast("hello")
                await inbox.got(1)


async def test_emitted_events_stay_on_their_node(uri: str) -> None:
    """What is emitted reaches the handlers of its own node, local ones too, and leaves it in no way."""
    async with buses(uri, 2) as nodes, nodes[0].client("alice") as alice:
        await alice.subscribe("tick")
        inboxes = [Inbox(), Inbox(), Inbox()]
        nodes[0].on("tick")(inboxes[0])
        nodes[0].on("*", local=True)(inboxes[1])
        nodes[1].on("tick")(inboxes[2])
        await nodes[1].ready()
        sent = nodes[0].stats().sent_events
        await nodes[0].emit("tick", 1)
        await inboxes[0].got(1)
        await inboxes[1].got(1)
        await nodes[0].flush()
        assert nodes[0].stats().sent_events == sent
        await fence(nodes, nodes)
        assert len(inboxes[2]) == 0
        await nodes[1].send("alice", "last")
        assert [event.type for event in await take(alice, 1)] == ["last"]


async def test_local_handlers_get_the_events_of_their_own_node(uri: str) -> None:
    """With ``local=True`` a handler gets what its node emits, publishes and broadcasts, and nothing of others."""
    async with buses(uri, 2) as nodes:
        inbox = Inbox()
        nodes[0].on("tick", local=True)(inbox)
        for bus in nodes:
            await bus.publish("tick", bus.node)
            await bus.broadcast("tick", bus.node)
            await bus.emit("tick", bus.node)
            await bus.send("@n0", "tick", bus.node)
        await inbox.got(3)
        await fence(nodes, nodes)
        assert inbox.data == ["n0", "n0", "n0"]


async def test_events_for_a_node_reach_its_handlers_by_type(uri: str) -> None:
    """What is sent to a node comes to each of its handlers whose pattern matches the type, near and far."""
    async with buses(uri, 2) as nodes:
        inboxes = [Inbox(), Inbox(), Inbox()]
        nodes[1].on("job.*")(inboxes[0])
        nodes[1].on("job.done")(inboxes[1])
        nodes[0].on("job.*")(inboxes[2])
        for bus in nodes:
            await bus.send("@n1", "job.done", bus.node)
            await bus.send(nodes[1].address, "job.other", bus.node)
        await inboxes[0].got(4)
        await fence(nodes, nodes)
        assert sorted(inboxes[0].data) == ["n0", "n0", "n1", "n1"]
        assert sorted(inboxes[1].data) == ["n0", "n1"]
        assert len(inboxes[2]) == 0
        assert {event.target for event in inboxes[0].events} == {"@n1"}


async def test_the_topic_of_an_event(uri: str) -> None:
    """A published event has its topic as type and as topic; others have no topic."""
    async with buses(uri, 1) as (bus,):
        bus.on("order.created")(inbox := Inbox())
        await bus.publish("order.created")
        await bus.send("@n0", "order.created")
        events = await inbox.got(2)
        assert [(event.type, event.topic) for event in events] == [
            ("order.created", "order.created"),
            ("order.created", None),
        ]


async def test_handlers_that_were_there_before_the_bus_opened_miss_nothing(uri: str) -> None:
    """Handlers registered before ``async with`` get what other nodes publish once it has been entered."""
    async with buses(uri, 1) as (a,):
        late = eventbus.connect(uri, namespace=a.namespace, node="late")
        inboxes = [Inbox(), Inbox()]
        late.on("order.*")(inboxes[0])
        late.on("order.created")(inboxes[1])
        async with late:
            await a.publish("order.created", 1)
            for inbox in inboxes:
                assert [event.data for event in await inbox.got(1)] == [1]


async def test_a_lane_count_of_one_carries_all_topics(uri: str) -> None:
    """Fewer lanes mean that nodes read more than they need, never that a subscriber gets more or less."""
    async with buses(uri, 2, lanes=1) as (a, b):
        b.on("a")(inbox := Inbox())
        await b.ready()
        for topic in ("a", "b", "c", "a"):
            await a.publish(topic, topic)
        await inbox.got(2)
        await fence([a], [b])
        assert inbox.data == ["a", "a"]


async def test_g7_invalid_patterns_are_refused_at_the_edge(uri: str) -> None:
    """A pattern against the rules is refused wherever one is given, and changes nothing."""
    async with buses(uri, 1) as (bus,), bus.client("alice") as alice:
        for pattern in ("", ".", "a.", ".a", "a..b", "a*", "*a", ">.a", "a.>.b", "a b", "a\t", "x" * 256):
            with pytest.raises(InvalidName):
                bus.on(pattern)
            with pytest.raises(InvalidName):
                bus.once(pattern)
            with pytest.raises(InvalidName):
                await bus.wait_for(pattern)
            with pytest.raises(InvalidName):
                await alice.subscribe(pattern)


async def test_a_bus_says_which_lane_carries_a_topic(uri: str) -> None:
    """By the rule that every node and every release follows; what is no topic has none."""
    async with buses(uri, 1, lanes=8) as (bus,):
        for topic in ("a", "room.acme.cats", "über"):
            assert bus.partition_of(topic) == lane_partition(crc32(topic.encode()) % 8)
        for name in ("a.*", "", "$sys.x"):
            with pytest.raises(InvalidName):
                bus.partition_of(name)


async def test_g1_subscribers_of_a_lane_see_only_their_own_topics(uri: str) -> None:
    """Topics that share a lane do not mix."""
    topics = [f"t{number}" for number in range(300)]
    first = topics[0]
    async with buses(uri, 2) as (a, b):
        mates = [topic for topic in topics if a.partition_of(topic) == a.partition_of(first)]
        assert len(mates) > 1
        b.on(first)(inbox := Inbox())
        await b.ready()
        for topic in mates:
            await a.publish(topic, topic)
        await inbox.got(1)
        await fence([a], [b])
        assert inbox.data == [first]
        assert b.stats().refused == {}
