"""A retained event that cannot be read: the others of its entry are handled, and its loss is told."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from eventbus import Bus, EventDataError, Gap, Retention
from tests.support import Hooked, Inbox, buses, take, until

ASKING = True
DEEP = {"a": msgspec.Raw(b"\x91" * 100_000 + b"\xc0")}
"""Nested deeper than any Python decodes, as data that just passes the check is within the frames of its event."""
OPTIONS: dict[str, Any] = {"retain": {"chat.>": Retention()}, "retain_clients": {"bob": Retention()}}


async def _send(bus: Bus, to: str, data: object) -> None:
    if to == "topic":
        await bus.publish("chat.1", data)
    else:
        await bus.send("bob", "n", data)


@pytest.mark.parametrize("to", ["topic", "client"])
async def test_g10_the_data_of_one_event_that_cannot_be_read_hides_no_other(
    uri: str, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventbus_core.model.event.check_encoded", lambda encoded: None)
    async with buses(uri, 2, **OPTIONS) as (a, b), b.client("bob", handler=(inbox := Inbox())) as bob:
        await bob.subscribe("chat.>")
        # No await gives way in between, so all go into one entry.
        for data in (1, DEEP, 2):
            await _send(a, to, data)
        await inbox.got(3)
        assert (inbox.events[0].data, inbox.events[2].data) == (1, 2)
        with pytest.raises(EventDataError):
            _ = inbox.events[1].data
        if to == "topic":
            kept = await a.history("chat.1")
            assert [event.id for event in kept] == [event.id for event in inbox.events]
            async with a.client("back") as back:
                await back.subscribe("chat.1", since=inbox.events[0].position or "")
                assert [event.id for event in await take(back, 2)] == [event.id for event in inbox.events[1:]]


async def test_g13_an_event_that_cannot_be_found_in_its_entry_is_a_gap_of_just_those_after_it(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken length inside the data hides where the next event begins; a sender by other means may let it pass."""
    monkeypatch.setattr("eventbus_core.model.event.check_encoded", lambda encoded: None)
    async with buses(uri, 2, **OPTIONS) as (a, b), b.client("bob") as bob:
        b.on_gap(gaps := Hooked())
        await bob.subscribe("chat.>")
        for data in (1, {"a": msgspec.Raw(b"\xdd\xff\xff\xff\xff")}, 2, 3):
            await _send(a, "topic", data)
        await a.flush()
        await _send(a, "topic", 4)
        got = [event.data for event in await take(bob, 3)]
        assert got == [1, Gap("#chat.1", b.partition_of("chat.1"), 3), 4]
        await until(lambda: gaps == [got[1]])
        assert b.stats().missed == 3
        assert [event.data for event in await b.history("chat.1")] == [1, 4]
