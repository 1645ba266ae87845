"""What ``on`` and ``once`` return for a function: a registration that is taken off alone."""

from __future__ import annotations

from collections import Counter
from queue import Queue
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import eventbus
from eventbus import BusClosed, EventDataError, InvalidName
from tests.support import DEADLINE, Hooked, Inbox, buses, fence, fresh_namespace

PATTERNS = ["a.b", "a.*", ">", "c"]
TOPICS = ["a.b", "a.c", "c"]
MATCHES = {"a.b": {"a.b"}, "a.*": {"a.b", "a.c"}, ">": {"a.b", "a.c", "c"}, "c": {"c"}}
steps = st.lists(st.one_of(st.sampled_from(PATTERNS), st.integers(0, 9)), max_size=20)


@settings(max_examples=15)
@given(steps=steps, unhashable=st.booleans())
async def test_each_registration_is_taken_off_alone(uri: str, steps: list[str | int], unhashable: bool) -> None:
    """One function, registered many times: it is called once for each registration that is left."""
    async with buses(uri, 2) as (a, b):
        function: Inbox = _Unhashable() if unhashable else Inbox()
        registered: list[eventbus.Registration] = []
        left: list[eventbus.Registration] = []
        for step in steps:
            if isinstance(step, str):
                registered.append(b.on(step, function))
                left.append(registered[-1])
            elif step < len(registered):
                registered[step].off()
                left = [one for one in left if one is not registered[step]]
        await b.ready()
        for topic in TOPICS:
            await a.publish(topic, topic)
        expected = Counter(topic for one in left for topic in MATCHES[one.pattern])
        await function.got(sum(expected.values()))
        await fence([a], [b])
        assert Counter(event.type for event in function.events if event.type in TOPICS) == expected


class _Unhashable(Inbox):
    __hash__ = None  # type: ignore[assignment]


async def test_once_can_be_taken_off_before_its_event(uri: str) -> None:
    async with buses(uri, 1) as (bus,):
        first, second = Inbox(), Inbox()
        registration = bus.once("n", first)
        bus.once("n", second)
        registration.off()
        await bus.emit("n", 1)
        await bus.emit("n", 2)
        await second.got(1)
        await fence([bus], [bus])
        assert (first.data, second.data) == ([], [1])
        registration.off()


async def test_within_its_block_a_registration_is_ready(uri: str) -> None:
    """Events of other nodes arrive in the block from the start, and none after it."""
    async with buses(uri, 2) as (a, b):
        inbox = Inbox()
        async with b.on("n.*", inbox, data=int) as registration:
            await a.publish("n.x", 1)
            await inbox.got(1)
            assert registration.pattern == "n.*"
        await a.publish("n.x", 2)
        await fence([a], [b])
        assert inbox.data == [1]


async def test_a_block_that_cannot_become_ready_leaves_nothing(uri: str) -> None:
    bus = eventbus.connect(uri, namespace=fresh_namespace())
    inbox = Inbox()
    with pytest.raises(BusClosed):
        async with bus.on("n", inbox):
            pass
    async with bus:
        assert len(bus._node.handlers) == 0


async def test_what_waited_for_a_handler_that_is_taken_off_is_reported(uri: str) -> None:
    async with buses(uri, 2) as (a, b):
        a.on_undeliverable(fates := Hooked())
        registration = b.on("n", Inbox())
        registration.off()
        await a.send(b.address, "n")
        await fence([a], [b])
        await fence([b], [a])
        assert [fate.reason for fate in fates] == ["no handler"]


async def test_errors_come_before_anything_is_registered(uri: str) -> None:
    async with buses(uri, 1) as (bus,):
        for register in (bus.on, bus.once):
            with pytest.raises(InvalidName):
                register("a..b", Inbox())
            with pytest.raises(EventDataError):
                register("a", Inbox(), data=cast("Any", object()))
        assert len(bus._node.handlers) == 0


def test_the_blocking_bus_registers_in_the_same_way(uri: str) -> None:
    namespace = fresh_namespace()
    with eventbus.connect_blocking(uri, namespace=namespace) as bus:
        got: Queue[int] = Queue()
        with bus.on("n", lambda event: got.put(event.data)) as registration:
            assert registration.pattern == "n"
            bus.emit("n", 1)
            assert got.get(timeout=DEADLINE) == 1
        bus.once("n", lambda event: got.put(event.data)).off()
        bus.emit("n", 2)
        bus.once("n", lambda event: got.put(event.data))
        bus.emit("n", 3)
        assert got.get(timeout=DEADLINE) == 3
    assert got.empty()
