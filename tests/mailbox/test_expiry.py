"""Events that expire while they wait."""

from __future__ import annotations

import time

import pytest

from tests.support import Hooked, Inbox, buses, fence, take, until

ASKING = True


@pytest.mark.parametrize("near", [True, False], ids=["near", "far"])
async def test_g5_an_expired_event_is_reported_and_not_handled(uri: str, near: bool) -> None:
    """What waited for longer than it may is passed over; its sender is told, what came after it is handled."""
    async with buses(uri, 2) as nodes, nodes[1].client("bob") as bob:
        sender = nodes[1 if near else 0]
        lost = Hooked()
        sender.on_undeliverable(lost)
        await sender.send("bob", "short", expires=0.01)
        await sender.send("bob", "long", expires=60.0)
        await fence([sender], [nodes[1]])
        start = time.time()
        await until(lambda: time.time() > start + 0.01)
        assert [event.type for event in await take(bob, 1)] == ["long"]
        await until(lambda: len(lost) == 1)
        assert (lost[0].type, lost[0].reason) == ("short", "expired")


@pytest.mark.parametrize("near", [True, False], ids=["near", "far"])
async def test_g5_an_event_that_expired_before_its_function_was_called_is_reported(uri: str, near: bool) -> None:
    inbox, lost = Inbox(), Hooked()
    async with buses(uri, 2) as nodes, nodes[1].client("bob", handler=inbox):
        sender = nodes[1 if near else 0]
        sender.on_undeliverable(lost)
        await sender.send("bob", "first")
        await inbox.got(1)
        await sender.send("bob", "short", expires=1e-6)
        await sender.send("bob", "long", expires=60.0)
        assert [event.type for event in await inbox.got(2)] == ["first", "long"]
        await until(lambda: len(lost) == 1)
        assert (lost[0].type, lost[0].reason) == ("short", "expired")
