"""Limits that an application can meet: each is an error that names its option, and room comes back."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial

import anyio
import pytest

from eventbus import EventTooLarge, LimitExceeded, RequestTimeout, TransportUnavailable
from eventbus_core.backend import Owner
from eventbus_core.routing import forwarding as errands
from tests.support import DEADLINE, Hooked, Inbox, buses, take, tasks, until

ASKING = True


async def test_g11_clients_of_a_node(uri: str) -> None:
    """One too many is refused, alone or among others in one go; one that is held already can be claimed again."""
    async with buses(uri, 2, max_clients=3) as (a, b), AsyncExitStack() as stack:
        refused: list[LimitExceeded] = []

        async def claim(name: str) -> None:
            try:
                await stack.enter_async_context(a.client(name))
            except LimitExceeded as error:
                refused.append(error)

        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(claim, f"c{number}")
        assert len(refused) == 2
        assert a.stats().clients == 3
        assert "node 'n0' cannot hold another client, 'c" in str(refused[0])
        assert (refused[0].option, refused[0].limit) == ("max_clients", 3)
        (name, *_) = [name async for name in a.clients("n0")]
        async with a.client(name):
            assert a.stats().clients == 3
        await claim("another")
        assert len(refused) == 2
        assert len([name async for name in a.clients()]) == 3
        async with b.client("there"):
            pass


async def test_g11_subscriptions_of_a_client(uri: str) -> None:
    """One too many is refused and leaves no trace; the same one again, and one after another ended, is not."""
    async with buses(uri, 1, max_subscriptions=2) as (bus,), bus.client("bob") as bob, bus.client("eve") as eve:
        await bob.subscribe("a")
        await bob.subscribe("b")
        with pytest.raises(LimitExceeded, match="'bob' cannot subscribe to 'c' too: max_subscriptions is 2; uns"):
            await bob.subscribe("c")
        await bob.subscribe("a")
        await eve.subscribe("c")
        for topic in ("c", "b"):
            await bus.publish(topic)
        assert [event.type for event in await take(bob, 1)] == ["b"]
        await bob.unsubscribe("a")
        await bob.subscribe("c")
        await bus.publish("c")
        assert [event.type for event in await take(bob, 1)] == ["c"]


async def test_g11_patterns_of_a_node(uri: str) -> None:
    """Handlers and clients share them."""
    async with buses(uri, 1, max_patterns=3) as (bus,), bus.client("bob") as bob:
        bus.on("a")(inbox := Inbox())
        bus.on("a", local=True)(inbox)
        await bob.subscribe("a")
        for _ in range(2):
            with pytest.raises(LimitExceeded, match="the pattern 'b' cannot be added: max_patterns is 3"):
                await bob.subscribe("b")
            with pytest.raises(LimitExceeded, match="max_patterns"):
                bus.on("b")(Inbox())
            with pytest.raises(LimitExceeded, match="max_patterns"):
                bus.on("b", local=True)(Inbox())
            with pytest.raises(LimitExceeded, match="max_patterns"):
                await bus.wait_for("b", timeout=0.01)
        await bus.publish("a")
        await inbox.got(2)
        bus.off(inbox)
        await bob.subscribe("b")
        with pytest.raises(RequestTimeout):
            await bus.wait_for("c", timeout=0.01)
        bus.on("c")(Inbox())


async def test_g11_pending_requests(uri: str) -> None:
    """One too many is refused before anything is sent; a caller that gives up, or a timeout, makes room."""
    async with buses(uri, 2, max_requests=2) as (a, b), b.client("silent") as silent:
        async with tasks() as group:
            for _ in range(2):
                group.start_soon(partial(a.request, "silent", "n", timeout=DEADLINE))
            await take(silent, 2)
            with pytest.raises(LimitExceeded, match="max_requests is 2"):
                await a.request("silent", "n", timeout=DEADLINE)
            assert a.stats().pending_requests == 2
        for _ in range(3):
            with pytest.raises(RequestTimeout):
                await a.request("silent", "n", timeout=0.05)
        assert len(await take(silent, 3)) == 3


async def test_g11_claims_of_closed_handles_are_bounded_while_the_directory_is_away(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So much is kept to be sent after its client; the rest is reported at once."""
    monkeypatch.setattr(errands, "MAX_STRAYS", 5)
    async with buses(uri, 1) as (bus,):
        lost = Hooked()
        bus.on_undeliverable(lost)
        away = True
        locate = bus._node.directory.locate

        async def find(clients: Sequence[str]) -> Sequence[Owner | None]:
            if away:
                raise TransportUnavailable("the directory is away")
            return await locate(clients)

        monkeypatch.setattr(bus._node.directory, "locate", find)
        async with bus.client("bob"):
            for number in range(20):
                await bus.send("bob", f"n.{number}")
        await until(lambda: len(lost) == 15)
        assert {fate.reason for fate in lost} == {"client gone"}
        away = False
        await until(lambda: len(lost) == 20)


async def test_g11_the_size_of_an_event(uri: str) -> None:
    """Data and headers count together."""
    async with buses(uri, 1, max_event_size=1000) as (bus,), bus.client("bob") as bob:
        await bus.send("bob", "n", b"x" * 900, headers={"a": "b" * 50})
        with pytest.raises(EventTooLarge, match="max_event_size"):
            await bus.send("bob", "n", b"x" * 900, headers={"a": "b" * 500})
        assert len(await take(bob, 1)) == 1
