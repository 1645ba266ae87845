"""One event that cannot be read in a frame: every other one is handled, and the loss is told exactly."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from eventbus import Event, EventDataError, Gap
from tests.support import Hooked, Inbox, buses, until

ASKING = True


def deep(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("way", ["client", "topic", "broadcast", "node"])
async def test_g10_an_event_that_cannot_be_found_in_its_frame_is_a_gap_of_just_those_after_it(
    uri: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken length inside the data hides where the next event begins; a sender by other means may let it pass."""
    for place in ("model.event", "routing.sender"):
        monkeypatch.setattr(f"eventbus_core.{place}.check_encoded", lambda encoded: None)
    broken = {"a": msgspec.Raw(b"\xdd\xff\xff\xff\xff")}
    async with buses(uri, 2) as (a, b), b.client("bob", handler=(inbox := Inbox())) as bob:
        b.on_gap(gaps := Hooked())
        b.on("n")(inbox)
        await bob.subscribe("n")
        await b.ready()
        await a.send("bob", "n", "first")
        await inbox.got(1)

        async def send(data: object) -> None:
            if way == "client":
                await a.send("bob", "n", data)
            elif way == "topic":
                await a.publish("n", data)
            elif way == "broadcast":
                await a.broadcast("n", data, include_self=False)
            else:
                await a.send(b.address, "n", data)

        # No await gives way in between, so all go into one frame.
        for data in (1, broken, 2, 3):
            await send(data)
        await until(lambda: len(gaps) == 1)
        gap = gaps[0]
        assert isinstance(gap, Gap)
        assert (gap.source, gap.missed) == (a.address, 3)
        assert b.stats().missed == 3
        await send(4)
        await until(lambda: 4 in inbox.data)
        assert {1, 4} <= {data for data in inbox.data if isinstance(data, int)}
        assert not {2, 3} & {data for data in inbox.data if isinstance(data, int)}


@pytest.mark.parametrize(
    ("data", "path"),
    [
        ({"a": msgspec.Raw()}, "data['a']"),
        ([1, {"b": msgspec.Raw(b"\xdd\xff\xff\xff\xff")}], "data[1]['b']"),
        ({"a": [msgspec.Raw(b"\x01\x02")]}, "data['a'][0]"),
        ((msgspec.Raw(b"\xc1"),), "data[0]"),
    ],
)
async def test_g5_bytes_that_would_break_the_frame_of_others_are_refused_wherever_they_stand(
    uri: str, data: object, path: str
) -> None:
    async with buses(uri, 2) as (a, b), b.client("bob", handler=(inbox := Inbox())):
        for receiver in (a, b):
            receiver.on("n")(inbox)
        await a.send("bob", "n", 0)  # from now on, events for bob are encoded together with their data
        await inbox.got(1)
        sends: list[Callable[[], Awaitable[object]]] = [
            lambda: a.send("bob", "n", data),
            lambda: b.send("bob", "n", data),
            lambda: a.publish("n", data),
            lambda: a.broadcast("n", data),
            lambda: a.request("bob", "n", data),
        ]
        for send in sends:
            with pytest.raises(EventDataError, match=re.escape(path)):
                await send()
        await a.send("bob", "n", 1)
        await inbox.got(2)
        assert inbox.data == [0, 1]
        assert b.stats().missed == 0


async def test_g5_an_event_that_is_nested_too_deeply_for_its_receiver_takes_no_other_with_it(uri: str) -> None:
    """The stack of the receiver may be smaller than that of the sender."""
    async with buses(uri, 2) as (a, b), b.client("bob", handler=(inbox := Inbox())), b.client("eve") as eve:
        await a.send("bob", "n", 0)
        await a.send("eve", "n", 0)
        await inbox.got(1)
        assert (await eve.receive()).data == 0
        route = a._node.table.known["eve"]
        raw = msgspec.Raw(b"\x91" * 100_000 + b"\x01")
        forged = Event("n", a.address, "eve", "1-deep", raw, None, route.epoch)
        await a.send("bob", "n", 1)
        assert a._node.router.put_out(route, msgspec.msgpack.encode(forged))
        await a.send("bob", "n", 2)
        await inbox.got(3)
        assert inbox.data == [0, 1, 2]
        unread = await eve.receive()
        assert unread.id == "1-deep"
        with pytest.raises(EventDataError):
            _ = unread.data
        assert b.stats().missed == 0
