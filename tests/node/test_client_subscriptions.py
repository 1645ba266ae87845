"""Subscriptions of clients that are made from elsewhere: rooms that a server puts other servers' clients into."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import eventbus
from eventbus import BusClosed, ClientNotFound, InvalidName, RequestFailed
from tests.support import buses, fence, fresh_namespace, take

ASKING = True

CLIENTS = ["alice", "bob"]
TOPICS = ["room.1", "room.2"]
PATTERNS = ["room.1", "room.2", "room.*"]
MATCHES = {"room.1": {"room.1"}, "room.2": {"room.2"}, "room.*": {"room.1", "room.2"}}
changes = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(CLIENTS), st.sampled_from(PATTERNS), st.booleans()), max_size=10
)


@settings(max_examples=10)
@given(changes=changes)
async def test_every_node_subscribes_and_unsubscribes_every_client(
    uri: str, changes: list[tuple[int, str, str, bool]]
) -> None:
    """Once a call has returned, what any node publishes reaches the client exactly as its patterns say."""
    async with buses(uri, 3) as nodes, nodes[0].client("alice") as alice, nodes[1].client("bob") as bob:
        patterns: dict[str, set[str]] = {name: set() for name in CLIENTS}
        for node, client, pattern, subscribed in changes:
            if subscribed:
                await nodes[node].subscribe(client, pattern)
                patterns[client].add(pattern)
            else:
                await nodes[node].unsubscribe(client, pattern)
                patterns[client].discard(pattern)
        for topic in TOPICS:
            await nodes[2].publish(topic)
        await fence([nodes[2]], nodes[:2])
        for handle in (alice, bob):
            wanted = [topic for topic in TOPICS if any(topic in MATCHES[one] for one in patterns[handle.name])]
            await nodes[2].send(handle.name, "end")
            got = await take(handle, len(wanted) + 1)
            assert sorted(event.type for event in got) == sorted([*wanted, "end"])


async def test_a_subscription_ends_with_the_handle(uri: str) -> None:
    async with buses(uri, 2) as (a, b):
        async with a.client("alice"):
            await b.subscribe("alice", "room")
        async with a.client("alice") as alice:
            await b.publish("room")
            await fence([b], [a])
            await b.send("alice", "end")
            assert [event.type for event in await take(alice, 1)] == ["end"]


async def test_a_client_that_moved_is_found(uri: str) -> None:
    async with buses(uri, 3) as (a, b, c), a.client("alice"):
        await c.subscribe("alice", "before")
        async with b.client("alice") as alice:
            await c.subscribe("alice", "room")
            await a.publish("room")
            assert [event.type for event in await take(alice, 1)] == ["room"]


async def test_errors_say_which(uri: str) -> None:
    async with buses(uri, 2, max_subscriptions=1) as (a, b), a.client("alice"):
        with pytest.raises(ClientNotFound, match="nobody"):
            await b.subscribe("nobody", "room")
        with pytest.raises(InvalidName):
            await b.subscribe("alice", "a..b")
        await b.subscribe("alice", "room")
        with pytest.raises(RequestFailed, match="max_subscriptions"):
            await b.subscribe("alice", "room.2")
        await b.unsubscribe("alice", "never")
    with pytest.raises(BusClosed):
        await a.subscribe("alice", "room")


def test_the_blocking_bus_has_them(uri: str) -> None:
    namespace = fresh_namespace()
    with (
        eventbus.connect_blocking(uri, namespace=namespace) as a,
        eventbus.connect_blocking(uri, namespace=namespace) as b,
        a.client("alice") as alice,
    ):
        b.subscribe("alice", "room")
        b.publish("room", 1)
        assert alice.receive(5.0).data == 1
        b.unsubscribe("alice", "room")
