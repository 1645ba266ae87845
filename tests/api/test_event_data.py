"""Data and headers: typed, decoded, and never shared between a sender and its receivers."""

from __future__ import annotations

import datetime
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import attrs
import msgspec
import pydantic
import pytest

import eventbus
from eventbus import EventDataError
from tests.support import DEADLINE, Hooked, Inbox, buses, fence, take, until


@attrs.frozen
class AttrsOrder:
    id: int
    items: list[str] = attrs.field(factory=list)


@dataclass
class DataclassOrder:
    id: int
    items: list[str]


class StructOrder(msgspec.Struct):
    id: int
    items: list[str] = []


@attrs.frozen
class Refund:
    items: int


@pytest.mark.parametrize("kind", [AttrsOrder, DataclassOrder, StructOrder])
async def test_a_typed_handler_gets_objects_of_its_type(uri: str, kind: Any) -> None:
    """Whatever class the data was sent as, a handler with a type gets it as that type, near and far."""
    async with buses(uri, 2) as nodes:
        inboxes = [Inbox(), Inbox()]
        for bus, inbox in zip(nodes, inboxes, strict=True):
            bus.on("order.created", inbox, data=kind)
            await bus.ready()
        order = kind(1, ["tea"])
        await nodes[0].publish("order.created", order)
        await nodes[0].publish("order.created", {"id": 2, "items": ["milk"]})
        order.items.append("changed after it was sent")
        for inbox in inboxes:
            await inbox.got(2)
            assert inbox.data == [kind(1, ["tea"]), kind(2, ["milk"])]
        assert all(one.data is not other.data for one, other in zip(*(i.events for i in inboxes), strict=True))


async def test_types_beyond_messagepack_arrive_as_they_are(uri: str) -> None:
    """A typed handler gets back dates, sets and nested classes that MessagePack writes as something simpler."""

    @attrs.frozen
    class Visit:
        at: datetime.datetime
        tags: frozenset[str]
        order: StructOrder | None

    visit = Visit(datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC), frozenset("ab"), StructOrder(3))
    async with buses(uri, 2) as (a, b):
        b.on("visit", data=Visit)(inbox := Inbox())
        await b.ready()
        await a.publish("visit", visit)
        await inbox.got(1)
        assert inbox.data == [visit]


async def test_data_of_another_type_goes_to_on_error_and_the_next_is_handled(uri: str) -> None:
    """Data that is not what the handler asked for never reaches it: ``on_error`` is told, what comes next goes on."""
    async with buses(uri, 2) as (a, b):
        errors = Hooked()
        b.on_error(errors)
        b.on("order.created", data=AttrsOrder)(inbox := Inbox())
        b.on("order.created")(untyped := Inbox())
        await b.ready()
        await a.publish("order.created", {"id": "one"})
        await a.publish("order.created", {"id": 2})
        await inbox.got(1)
        await until(lambda: len(errors) == 1)
        assert inbox.data == [AttrsOrder(2)]
        event, error = errors[0]
        assert event.data == {"id": "one"}
        assert isinstance(error, EventDataError)
        assert "$.id" in str(error)
        assert b.stats().handler_failures == 1
        await untyped.got(2)


async def test_data_is_decoded_on_demand_into_any_type(uri: str) -> None:
    """``event.decode`` gives a client's event the type that is asked for, and says where data differs from it."""
    async with buses(uri, 2) as (a, b), b.client("alice") as alice:
        await a.send("alice", "order", {"id": 1, "items": ["tea"]})
        (event,) = await take(alice, 1)
        assert event.decode(AttrsOrder) == AttrsOrder(1, ["tea"])
        assert event.decode(dict[str, Any]) == {"id": 1, "items": ["tea"]}
        with pytest.raises(EventDataError, match=r"'order'.*`\$\.items`"):
            event.decode(Refund)


async def test_headers_travel_beside_the_data(uri: str) -> None:
    """Headers arrive with everything that is sent, as they were when it was sent, each receiver's its own."""
    async with buses(uri, 2) as nodes, nodes[1].client("alice") as alice:
        inboxes = [Inbox() for _ in range(4)]
        for bus, inbox in zip(nodes * 2, inboxes, strict=True):
            bus.on("n")(inbox)
            await bus.ready()
        await alice.subscribe("n")
        headers = {"trace": "ünïcödé", "": ""}
        await nodes[0].publish("n", headers=headers)
        headers["trace"] = "changed after it was sent"
        for inbox in inboxes:
            (event,) = await inbox.got(1)
            assert event.headers == {"trace": "ünïcödé", "": ""}
            event.headers.clear()
        (event,) = await take(alice, 1)
        assert event.headers == {"trace": "ünïcödé", "": ""}
        for send in (
            nodes[0].send("alice", "n", headers={"a": "1"}),
            nodes[1].send("alice", "n", headers={"a": "1"}),
            alice.send("alice", "n", headers={"a": "1"}),
        ):
            await send
            (event,) = await take(alice, 1)
            assert event.headers == {"a": "1"}
        await nodes[0].send("alice", "n")
        (event,) = await take(alice, 1)
        assert event.headers is None


async def test_g6_bad_headers_are_refused_alike_near_and_far(uri: str) -> None:
    """Headers that are not text are an error of the sender's, the same whether the receiver is near or far."""
    bad: list[Any] = [{"a": 1}, {1: "a"}, {"a": None}, {"a": "\ud800"}, {"\ud800": "a"}, [("a", "b")], "text", 7]
    async with buses(uri, 2) as (a, b), b.client("alice") as alice:
        b.on("n")(inbox := Inbox())
        a.on("n")(Inbox())
        await b.ready()
        for bus in (a, b):
            for headers in bad:
                with pytest.raises(EventDataError):
                    await bus.send("alice", "n", headers=headers)
                with pytest.raises(EventDataError):
                    await bus.publish("n", headers=headers)
            await bus.send("alice", "n", "good")
        assert [event.data for event in await take(alice, 2)] == ["good", "good"]
        await fence([a, b], [b])
        assert len(inbox) == 0


async def test_g6_the_receiver_never_holds_the_senders_object(uri: str) -> None:
    """Data that is changed after it was sent arrives as it was; what one receiver changes, no other sees."""
    async with buses(uri, 2) as nodes, nodes[0].client("alice") as alice, nodes[1].client("bob") as bob:
        inboxes = [Inbox() for _ in range(4)]
        for bus, inbox in zip(nodes * 2, inboxes, strict=True):
            bus.on("n")(inbox)
            await bus.ready()
        for client in (alice, bob):
            await client.subscribe("n")
        data: dict[str, Any] = {"list": [1, {"deep": []}], "bytes": b"\x00\xff"}
        await nodes[0].publish("n", data)
        await nodes[0].send("alice", "m", data)
        await nodes[0].send("bob", "m", data)
        data["list"][1]["deep"].append("changed")
        data["list"].clear()
        wanted = {"list": [1, {"deep": []}], "bytes": b"\x00\xff"}
        events = [*(await take(alice, 2)), *(await take(bob, 2))]
        for inbox in inboxes:
            events += await inbox.got(1)
        assert len(events) == 8
        for event in events:
            assert event.data == wanted
            assert event.data is event.data
            event.data["list"].clear()


class _Model(pydantic.BaseModel):
    id: int
    at: datetime.datetime | None = None
    tags: set[str] = set()


class _Other:
    pass


@attrs.define
class _Recursive:
    inner: list[_Recursive] | None = None


@attrs.define
class _Containing:
    other: _Other | None = None


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (_Other, "use an attrs class"),
        (list[_Other], "use an attrs class"),
        (dict[str, tuple[int, _Other]], "_Other"),
        (_Containing, "_Other"),
        ("int", "no type that msgspec can decode"),
    ],
)
async def test_a_type_that_cannot_be_decoded_is_refused_where_it_is_registered(kind: Any, message: str) -> None:
    bus = eventbus.connect()
    for register in (bus.on, bus.once):
        with pytest.raises(EventDataError, match=message):
            register("n", data=kind)


@pytest.mark.parametrize("kind", [int, int | str, list[_Recursive], _Recursive, dict[str, Any], Any])
async def test_a_type_that_can_be_decoded_is_accepted(kind: Any) -> None:
    bus = eventbus.connect()
    bus.on("n", print, data=kind)
    bus.off(print)


async def test_models_of_pydantic_arrive_as_they_were_sent(uri: str) -> None:
    """Alone, within others, and as the type of data; without a type as dicts."""
    model = _Model(id=1, at=datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), tags={"a"})
    async with buses(uri, 2) as (a, b), b.client("alice") as alice:
        one, many, bare = Inbox(), Inbox(), Inbox()
        b.on("one", one, data=_Model)
        b.on("many", many, data=dict[str, list[_Model | None]])
        b.on("one", bare)
        await b.ready()
        await a.publish("one", model)
        await a.publish("many", {"models": [model, None]})
        await a.send("alice", "one", {"models": [model]})
        assert (await one.got(1))[0].data == model
        assert (await many.got(1))[0].data == {"models": [model, None]}
        assert (await bare.got(1))[0].data == {"id": 1, "at": model.at, "tags": ["a"]}
        event = (await take(alice, 1))[0]
        assert event.decode(dict[str, list[_Model]]) == {"models": [model]}


async def test_data_that_does_not_fit_a_model_is_an_error_of_its_handler(uri: str) -> None:
    async with buses(uri, 1) as (bus,):
        bus.on_error(errors := Hooked())
        bus.on("n", print, data=_Model)
        await bus.publish("n", {"id": "x"})
        await until(lambda: len(errors) == 1)
        assert isinstance(errors[0][1], EventDataError)
        assert "valid integer" in str(errors[0][1])
        async with bus.client("alice") as alice:
            await bus.send("alice", "n", 1)
            with pytest.raises(EventDataError):
                (await alice.receive()).decode(_Model)


def test_the_bus_does_not_import_pydantic() -> None:
    program = "import sys, eventbus; assert not {name for name in sys.modules if name.startswith('pydantic')}"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=DEADLINE)
