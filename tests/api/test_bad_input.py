"""Bad input at the edge: bad names, data and sizes are refused with an error of ours, and nothing is sent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any

import anyio
import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import eventbus
from eventbus import ClientNotFound, ConfigurationError, EventDataError, EventTooLarge, InvalidName, OptionError
from tests.support import DEADLINE, Inbox, buses, fence, take

BAD_TOPICS = (
    "",
    ".",
    "a.",
    ".a",
    "a..b",
    "a b",
    "a\tb",
    "a\n",
    "a\x00",
    "\ud800",
    "*",
    ">",
    "a.*",
    "$sys.x",
    "x" * 256,
)
NOT_TEXT: tuple[Any, ...] = (None, 7, b"a", {"a": 1}, {"a"}, object())
LISTS = (["a"], ("a",))
BAD_TARGETS = (
    "",
    "a/b/c",
    "/a",
    "a/",
    "#topic",
    "$x",
    "*",
    "a b",
    "a\n",
    "x" * 256,
    "@",
    "@a b",
    "@a/b",
    "@ä",
    "@" + "x" * 65,
)


async def test_g12_invalid_types_and_topics_are_refused(uri: str) -> None:
    """Every call rejects a name against the rules with an error of ours, and no receiver gets the event."""
    async with buses(uri, 2) as (a, b), a.client("alice") as alice, b.client("bob") as bob:
        b.on(">")(inbox := Inbox())
        await bob.subscribe(">")
        await b.ready()
        uses: list[Callable[[Any], Awaitable[Any]]] = [
            lambda name: a.send("bob", name),
            lambda name: a.send("alice", name),
            lambda name: a.send("@n1", name),
            lambda name: a.broadcast(name),
            lambda name: a.emit(name),
            lambda name: a.request("bob", name),
            lambda name: alice.send("bob", name),
            lambda name: alice.request("bob", name),
        ]
        uses_of_lists: list[Callable[[Any], Awaitable[Any]]] = [
            lambda names: a.publish(names),
            lambda names: alice.publish(names),
        ]
        before = a.stats()
        for name in (*BAD_TOPICS, *NOT_TEXT):
            for use in (*uses, *uses_of_lists):
                with pytest.raises(InvalidName):
                    await use(name)
        for names in LISTS:
            for use in uses:
                with pytest.raises(InvalidName):
                    await use(names)
        after = a.stats()
        assert (after.accepted, after.sent_events) == (before.accepted, before.sent_events)
        await fence([a], [b])
        assert {event.type for event in inbox.events} <= {"fence.lowered"}


async def test_g12_invalid_targets_are_refused(uri: str) -> None:
    """A target that can be no client and no node is refused, never looked up and never taken for a pattern."""
    async with buses(uri, 2) as (a, _), a.client("alice") as alice:
        uses: list[Callable[[Any], Awaitable[Any]]] = [
            lambda name: a.send(name, "n"),
            lambda name: a.request(name, "n"),
            lambda name: alice.send(name, "n"),
            lambda name: alice.request(name, "n"),
        ]
        for use in uses:
            for name in (*BAD_TARGETS, *NOT_TEXT, *LISTS):
                with pytest.raises(InvalidName):
                    await use(name)
        for name in (*BAD_TARGETS, *NOT_TEXT, *LISTS):
            with pytest.raises(InvalidName):
                await a.locate(name)
        assert a.stats().accepted == 0
        with pytest.raises(ClientNotFound):
            await a.send("@n1.but.not.quite", "n")


async def test_g12_invalid_clients_and_patterns_are_refused(uri: str) -> None:
    """No handle and no subscription exists under a name against the rules, nor for what is no text."""
    async with buses(uri, 1) as (bus,), bus.client("alice") as alice:
        for name in (*NOT_TEXT, *LISTS):
            with pytest.raises(InvalidName):
                bus.client(name)
            with pytest.raises(InvalidName):
                bus.on(name)
            with pytest.raises(InvalidName):
                bus.once(name)
            with pytest.raises(InvalidName):
                await bus.wait_for(name)
            with pytest.raises(InvalidName):
                await alice.subscribe(name)
            if name is not None:
                with pytest.raises(InvalidName):
                    _ = [client async for client in bus.clients(name)]
        for name in ("", "a b", "ä", "x" * 65, "*"):
            with pytest.raises(InvalidName):
                _ = [client async for client in bus.clients(name)]


@settings(max_examples=30)
@given(name=st.text(max_size=40) | st.text("ab/.*>@#$ \n", max_size=8))
async def test_g1_any_text_is_a_client_of_its_own_or_refused(uri: str, name: str) -> None:
    """Whatever text names a client, it is refused, or its events reach that client and no other."""
    async with buses(uri, 2) as (a, b), b.client("bystander", handler=(bystander := Inbox())):
        try:
            client = b.client(name)
        except InvalidName:
            with pytest.raises((InvalidName, ClientNotFound)):
                await a.send(name, "n")
            return
        async with client:
            await a.send(name, "n", name)
            (event,) = await take(client, 1)
            assert (event.target, event.data) == (name, name)
        assert len(bystander) == 0 or name == "bystander"


class NoData:
    """Something that MessagePack cannot hold."""


@attrs.define
class Order:
    id: int
    extra: Any


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (NoData(), r"data cannot be sent.*NoData"),
        ({"a": [1, {"b": NoData()}]}, r"data\['a'\]\[1\]\['b'\] cannot be sent"),
        (Order(1, [NoData()]), r"data\.extra\[0\] cannot be sent"),
        ([1, 2**64], r"data\[1\] cannot be sent"),
        ({"deep": -(2**63) - 1}, r"data\['deep'\] cannot be sent"),
        ({"text": "\ud800"}, r"data\['text'\] cannot be sent"),
        (lambda: None, "data cannot be sent"),
        ({(1, NoData()): 1}, "data cannot be sent"),
    ],
)
async def test_data_that_cannot_be_sent_is_refused_by_its_path(uri: str, data: Any, path: str) -> None:
    """The error names the part of the data that is at fault; the same near and far; nothing is sent."""
    async with (
        buses(uri, 2) as (a, b),
        a.client("near", handler=(near := Inbox())),
        b.client("far", handler=(far := Inbox())),
    ):
        for target in ("near", "far", "@n1", "nobody"):
            with pytest.raises(EventDataError, match=path):
                await a.send(target, "n", data)
        for send in (a.publish, a.broadcast, a.emit):
            with pytest.raises(EventDataError, match=path):
                await send("n", data)
        await fence([a], [b])
        assert a.stats().accepted <= 1  # the fence
        assert len(near) == len(far) == 0


async def test_a_cycle_in_the_data_is_refused(uri: str) -> None:
    """Data that contains itself is an error of the sender's, not the end of the process."""
    cycle: list[Any] = []
    cycle.append(cycle)
    async with buses(uri, 1) as (bus,):
        with pytest.raises(EventDataError):
            await bus.emit("n", cycle)


def nested(depth: int) -> list[Any]:
    """Lists in lists."""
    data: list[Any] = []
    for _ in range(depth):
        data = [data]
    return data


class Proxy:
    """Raises whenever it is asked for something, as objects do that stand for others which are not there."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("working outside of a request")

    def __repr__(self) -> str:
        raise RuntimeError("working outside of a request")


class Text(str):
    """A str and more."""


class Kind(StrEnum):
    ORDER = "order.created"


@pytest.mark.parametrize(
    "data",
    [nested(100_000), 10**5000, [10**5000], {10**5000: 1}, Proxy(), [Proxy()], {"a": {"b": Proxy()}}],
    ids=range(7),
)
async def test_data_that_cannot_even_be_shown_is_refused(uri: str, data: Any) -> None:
    """What is wrong with data is said in a few words, however large it is and whatever its repr does."""
    async with buses(uri, 1) as (bus,), bus.client("near"):
        for target in ("near", "@n0"):
            with pytest.raises(EventDataError) as caught:
                await bus.send(target, "n", data)
            assert len(str(caught.value)) < 500
        with pytest.raises(EventDataError) as caught:
            await bus.emit("n", headers={"h": data})
        assert len(str(caught.value)) < 500
        names: tuple[Any, ...] = (data, [data], {"a": data})
        for name in names:
            with pytest.raises(InvalidName) as refused:
                await bus.emit(name)
            assert len(str(refused.value)) < 300


async def test_a_name_may_be_of_a_subclass_of_str(uri: str) -> None:
    """A member of an enum, or another kind of str, names what its text names, and arrives as plain text."""
    async with (
        buses(uri, 2) as (a, b),
        a.client(Text("near"), handler=(near := Inbox())),
        b.client(Text("far"), handler=(far := Inbox())),
    ):
        b.on(Text("order.*"))(handler := Inbox())
        await b.ready()
        for target in (Text("near"), Text("far"), Text("@n1")):
            await a.send(target, Kind.ORDER, 1)
        await a.publish(Text("order.paid"), 1)
        await a.broadcast(Kind.ORDER, 1)
        await near.got(1)
        await far.got(1)
        for event in await handler.got(3):
            assert {type(text) for text in (event.type, event.target, event.source)} == {str}
        assert near.types == far.types == ["order.created"]
        assert type(near.events[0].type) is type(near.events[0].target) is str


async def test_a_million_headers_are_refused(uri: str) -> None:
    async with buses(uri, 1) as (bus,):
        with pytest.raises(EventDataError, match="at most 64 headers, not 1000000"):
            await bus.emit("n", headers={f"h{number}": "x" for number in range(1_000_000)})


@pytest.mark.parametrize("name", ["x" * 10_000_000, "*." * 5000 + "*", ">." * 5000 + ">", "é" * 128, "\0" * 1_000_000])
async def test_g11_a_huge_name_is_refused_in_a_few_words(uri: str, name: str) -> None:
    async with buses(uri, 1) as (bus,), bus.client("alice") as alice:
        uses: list[Callable[[], Awaitable[Any]]] = [
            lambda: bus.emit(name),
            lambda: bus.send(name, "n"),
            lambda: bus.locate(name),
            lambda: alice.subscribe(name),
            lambda: bus.wait_for(name),
        ]
        for use in uses:
            with pytest.raises(InvalidName) as caught:
                await use()
            assert len(str(caught.value)) < 300


async def test_g11_patterns_made_to_match_slowly_match_in_time(uri: str) -> None:
    """The cost of a match grows with the topic and with what is subscribed, never with their combinations."""
    async with buses(uri, 1) as (bus,):
        inbox = Inbox()
        for number in range(500):
            bits = f"{number:09b}" * 14
            bus.on(".".join("a" if bit == "0" else "*" for bit in bits))(inbox)
        bus.on("*." * 100 + ">")(inbox)
        await bus.ready()
        with anyio.fail_after(DEADLINE):
            for _ in range(3):
                await bus.emit("a." * 125 + "a")
                await bus.emit("a." * 125 + "b")
            await inbox.got(3 * 501)


async def test_an_event_that_is_too_large_is_refused(uri: str) -> None:
    """An event over ``max_event_size`` raises where it is sent, near or far, to the byte; nothing of it is sent."""
    async with (
        buses(uri, 2, max_event_size=1000) as (a, b),
        a.client("near", handler=(near := Inbox())),
        b.client("far", handler=(far := Inbox())),
    ):
        b.on("n")(handler := Inbox())
        await b.ready()
        fits, excess = b"x" * 997, b"x" * 998  # MessagePack adds three bytes
        sends: list[Callable[[object], Awaitable[object]]] = [
            lambda data: a.send("near", "n", data),
            lambda data: a.send("far", "n", data),
            lambda data: a.send("@n1", "n", data),
            lambda data: a.publish("n", data),
            lambda data: a.broadcast("n", data),
        ]
        for send in sends:
            with pytest.raises(EventTooLarge, match=r"1,001 bytes, the limit is 1,000.*max_event_size") as caught:
                await send(excess)
            assert (caught.value.size, caught.value.limit) == (1001, 1000)
        assert a.max_event_size == 1000
        for send in sends:
            await send(fits)
        await near.got(1)
        await far.got(1)
        await handler.got(3)
        await fence([a], [b])
        assert (len(near), len(far), len(handler)) == (1, 1, 3)


@pytest.mark.parametrize("seconds", [float("nan"), -1.0, "5"])
async def test_a_timeout_that_is_no_number_of_seconds_is_refused(uri: str, seconds: Any) -> None:
    """A wait or a client would last without end, or no time at all."""
    async with buses(uri, 1) as (bus,), bus.client("bob", handler=Inbox()) as bob:
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: bus.send("bob", "n", expires=seconds),
            lambda: bob.send("bob", "n", expires=seconds),
            lambda: bus.request("bob", "n", timeout=seconds),
            lambda: bus.wait_for("n", timeout=seconds),
        ]
        for call in calls:
            with pytest.raises(OptionError, match="seconds"):
                await call()
        with pytest.raises(OptionError, match="linger"):
            bus.client("amy", linger=seconds)
        assert bus.stats().pending_requests == 0


async def test_headers_count_as_part_of_the_event(uri: str) -> None:
    """Headers cannot smuggle past the limit what data may not hold."""
    async with buses(uri, 2, max_event_size=1000) as (a, b), a.client("near") as near, b.client("far") as far:
        for target in ("near", "far"):
            with pytest.raises(EventTooLarge):
                await a.send(target, "n", b"x" * 500, headers={"h": "y" * 600})
            with pytest.raises(EventTooLarge):
                await a.send(target, "n", headers={"y" * 600: "y" * 600})
            await a.send(target, "n", b"x" * 500, headers={"h": "y" * 400})
        for client in (near, far):
            assert [len(event.data) for event in await take(client, 1)] == [500]


async def test_sizes_that_cannot_go_together_are_refused(uri: str) -> None:
    """Events that are allowed must fit into what the transport may carry: else opening says so."""
    with pytest.raises(ConfigurationError, match="max_event_size"):
        eventbus.connect(uri, max_event_size=10 * 1024**3)


async def test_g12_unsendable_data_is_refused_also_on_a_known_route(uri: str) -> None:
    async with buses(uri, 2, max_event_size=1024) as (a, b), b.client("bob") as bob:
        await a.send("bob", "n", b"first")
        with pytest.raises(EventDataError, match="data cannot be sent"):
            await a.send("bob", "n", object())
        with pytest.raises(EventTooLarge):
            await a.send("bob", "n", bytes(1025))
        await a.send("bob", "n", bytes(1000))  # with what is about it, it takes more than that
        assert [event.data for event in await take(bob, 2)] == [b"first", bytes(1000)]
