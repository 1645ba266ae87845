"""One event for several topics, of which each receiver gets one copy; topics and broadcasts that expire."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventbus import InvalidName, TransportUnavailable
from eventbus_core.model.names import MAX_TOPICS
from eventbus_core.model.topics import PatternIndex, besides
from tests.support import DEADLINE, Inbox, buses, fence, take

ASKING = True

TOPICS = ["a.1", "a.2", "b.1", "b.2"]
PATTERNS = [*TOPICS, "a.*", "*.1", ">"]


def _matches(pattern: str, topic: str) -> bool:
    index: PatternIndex[int] = PatternIndex()
    index.add(pattern, 1)
    return index.match(topic) == (1,)


@given(
    subscriptions=st.lists(st.tuples(st.sampled_from(PATTERNS), st.integers(0, 5))),
    topics=st.lists(st.sampled_from(TOPICS), unique=True, min_size=1),
)
def test_g7_each_receiver_has_the_first_of_its_topics_alone(
    subscriptions: list[tuple[str, int]], topics: list[str]
) -> None:
    index: PatternIndex[int] = PatternIndex()
    for pattern, receiver in subscriptions:
        index.add(pattern, receiver)
    served: set[int] = set()
    for place, topic in enumerate(topics):
        wanted = set(index.match(topic)) - served
        got = index.match(besides(topic, topics[:place]))
        assert set(got) == wanted
        assert [one for one in index.match(topic) if one in wanted] == list(got)
        served |= wanted


def test_g11_a_forged_list_of_topics_costs_nothing() -> None:
    index: PatternIndex[int] = PatternIndex()
    index.add("a", 1)
    assert index.match("a " + "b " * 1_000_000) == ()
    assert index.match("a") == (1,)


@settings(max_examples=10)
@given(
    patterns=st.lists(st.tuples(st.integers(0, 1), st.lists(st.sampled_from(PATTERNS), max_size=3)), max_size=4),
    topics=st.lists(st.sampled_from(TOPICS), min_size=1, max_size=5),
)
async def test_g7_each_client_and_handler_gets_one_event(
    uri: str, patterns: list[tuple[int, list[str]]], topics: list[str]
) -> None:
    """On the sender's node and others, whatever it subscribed to: the first topic of the list that it has."""
    async with buses(uri, 2) as nodes:
        clients = [nodes[node].client(f"c{number}") for number, (node, _) in enumerate(patterns)]
        for client, (_, wanted) in zip(clients, patterns, strict=True):
            await client.open()
            for pattern in wanted:
                await client.subscribe(pattern)
        nodes[1].on(">", everything := Inbox())
        await nodes[1].ready()
        await nodes[0].publish(topics, 1)
        await everything.got(1)
        await fence([nodes[0]], [nodes[1]])
        assert [event.topic for event in everything.events if event.topic] == topics[:1]
        for client, (_, wanted) in zip(clients, patterns, strict=True):
            first = next((topic for topic in topics if any(_matches(pattern, topic) for pattern in wanted)), None)
            await nodes[0].send(client.name, "end")
            got = await take(client, 1 if first is None else 2)
            assert sorted(event.type for event in got) == sorted(["end"] if first is None else [first, "end"])
            assert all(event.topic in (None, first) for event in got)
            await client.aclose()


async def test_a_list_of_topics_is_accepted_or_refused_as_a_whole(uri: str) -> None:
    options: dict[str, Any] = {"local_backlog": 1, "slow_consumer_timeout": DEADLINE}
    async with buses(uri, 1, **options) as (bus,), bus.client("slow") as slow, bus.client("idle") as idle:
        await slow.subscribe("a.2")
        await idle.subscribe("a.1")
        with suppress(TransportUnavailable):
            while True:
                await bus.publish("a.2", timeout=0)
        with pytest.raises(TransportUnavailable):
            await bus.publish(["a.1", "a.2"], 2, timeout=0)
        await bus.send("idle", "end")
        assert [event.type for event in await take(idle, 1)] == ["end"]


async def test_g12_a_bad_list_of_topics_is_refused(uri: str) -> None:
    async with buses(uri, 1) as (bus,):
        for topics in ([], ["a", "b..c"], [f"t{number}" for number in range(MAX_TOPICS + 1)]):
            with pytest.raises(InvalidName):
                await bus.publish(topics)


async def test_what_is_published_or_broadcast_expires(uri: str) -> None:
    """An event that waited too long is not handled; one in time is."""
    async with buses(uri, 2) as (a, b), b.client("alice") as alice:
        await alice.subscribe("room")
        release, inbox = anyio.Event(), Inbox()

        @b.on("cast")
        async def slow(event: object) -> None:
            inbox(event)  # type: ignore[arg-type]
            await release.wait()

        await b.ready()
        await a.broadcast("cast", 0)
        await inbox.got(1)
        await a.publish("room", 1, expires=0.01)
        await a.publish(["room", "other"], 2, expires=0.01)
        await a.broadcast("cast", 3, expires=0.01)
        await a.publish("room", 4, expires=60.0)
        await a.broadcast("cast", 5, expires=60.0)
        await fence([a], [b])
        await anyio.sleep(0.05)
        release.set()
        assert [event.data for event in await take(alice, 1)] == [4]
        await inbox.got(2)
        assert inbox.data == [0, 5]
