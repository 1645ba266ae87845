"""How long a send waits: the ``timeout`` of the call, or the option of the bus."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from msgspec import Raw

from eventbus import Bus, Client, Event, OptionError, TransportUnavailable, connect_blocking
from tests.support import DEADLINE, Inbox, buses, take, tasks, until

FULL: dict[str, Any] = {"local_backlog": 3, "slow_consumer_timeout": 60.0, "send_timeout": 10 * DEADLINE}


async def fill(bus: Bus, bob: Client) -> None:
    """Leave no room in *bob*, who is subscribed to ``n``."""
    await bob.subscribe("n")
    for number in range(3):
        await bus.send("bob", "n", number)


async def repeat(send: Callable[..., Awaitable[object]]) -> None:
    """Send more than there is room for."""
    for _ in range(10):
        await send("n", timeout=0)


async def test_with_timeout_0_an_event_is_accepted_at_once_or_not_at_all(uri: str) -> None:
    """The error comes at once, says that the event was not accepted, and no receiver gets it."""
    async with buses(uri, 1, **FULL) as (bus,), bus.client("bob") as bob:
        await fill(bus, bob)
        accepted = bus.stats().accepted
        sends: list[Callable[[], Awaitable[object]]] = [
            lambda: bus.send("bob", "n", "no room", timeout=0),
            lambda: bob.send("bob", "n", "no room", timeout=0.01),
            lambda: bob.send("bob", "n", "no room", headers={"a": "b"}, timeout=0),
            lambda: bus.publish("n", "no room", timeout=0),
        ]
        for send in sends:
            with pytest.raises(TransportUnavailable, match=r"no room .* within 0(\.01)? s: .* was not accepted"):
                await send()
        assert bus.stats().accepted == accepted
        assert [event.data for event in await take(bob, 3)] == [0, 1, 2]
        await bus.send("bob", "n", "room again", timeout=0)
        assert [event.data for event in await take(bob, 1)] == ["room again"]


async def test_timeout_0_holds_for_events_to_handlers(uri: str) -> None:
    """Broadcasts and events of this node alone do not wait either."""
    async with buses(uri, 1, **FULL) as (bus,):
        gate = anyio.Event()

        @bus.on("n")
        async def stuck(_event: object) -> None:
            await gate.wait()

        for send in (bus.emit, bus.broadcast):
            with pytest.raises(TransportUnavailable, match="within 0 s"):
                await repeat(send)
        gate.set()


async def test_timeout_0_holds_for_replies(uri: str) -> None:
    """A reply to a client without room is not accepted."""
    async with buses(uri, 1, **FULL) as (bus,), bus.client("bob") as bob:
        await fill(bus, bob)
        request = Event("n", "bob", "@x", "1-1", Raw(b"\xc0"), reply_to="bob")
        with pytest.raises(TransportUnavailable, match="within 0 s"):
            await bus.reply(request, "no room", timeout=0)


async def test_a_longer_timeout_than_that_of_the_bus_counts(uri: str) -> None:
    """The call decides, not the smaller of both."""
    async with buses(uri, 1, **(FULL | {"send_timeout": 0.01})) as (bus,), bus.client("bob") as bob, tasks() as group:
        await fill(bus, bob)
        with pytest.raises(TransportUnavailable, match=r"within 0\.01 s"):
            await bus.send("bob", "n", "no room")
        done = anyio.Event()

        async def patient() -> None:
            await bus.send("bob", "n", "later", timeout=DEADLINE)
            done.set()

        group.start_soon(patient)
        await anyio.sleep(0.05)
        assert not done.is_set()
        assert [event.data for event in await take(bob, 4)] == [0, 1, 2, "later"]


@pytest.mark.parametrize("target", ["bob", "@n1"])
async def test_a_target_is_looked_up_though_the_send_does_not_wait(uri: str, target: str) -> None:
    """The first send with ``timeout=0`` need not know where the target is; a later one does."""
    async with buses(uri, 2) as (a, b), b.client("bob", handler=(inbox := Inbox())):
        b.on("n")(inbox)
        if target != "bob":
            target = b.address
        with pytest.raises(TransportUnavailable, match="within 0 s"):
            await a.send(target, "n", "not known yet", timeout=0)
        await until(lambda: target in a._node.table.known or not a._node.state.accepting, "it is found")
        await a.send(target, "n", "known", timeout=0)
        await inbox.got(1)
        assert inbox.data == ["known"]


@pytest.mark.parametrize("timeout", [-1, float("nan"), "1"])
async def test_a_timeout_is_a_number_of_seconds(timeout: Any) -> None:
    """What is none is refused, whether the send would have to wait or not."""
    async with buses("memory://", 1) as (bus,), bus.client("bob"):
        sends: list[Callable[[], Awaitable[object]]] = [
            lambda: bus.send("bob", "n", timeout=timeout),
            lambda: bus.publish("n", timeout=timeout),
            lambda: bus.broadcast("n", timeout=timeout),
            lambda: bus.emit("n", timeout=timeout),
        ]
        for send in sends:
            with pytest.raises(OptionError, match="timeout"):
                await send()


def test_blocking_sends_take_a_timeout() -> None:
    """The blocking twins have the parameter, too."""
    with connect_blocking("memory://", **FULL) as bus, bus.client("bob"):
        for number in range(3):
            bus.send("bob", "n", number)
        with pytest.raises(TransportUnavailable, match="within 0 s"):
            bus.send("bob", "n", "no room", timeout=0)
