"""A node that is killed and started again under its own id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import pytest

import eventbus
from eventbus_core.backend import Frame
from tests.support import DEADLINE, Hooked, Inbox, buses, fence, publish_by, take, tasks, until

ASKING = True


async def test_g5_what_the_former_node_did_not_confirm_is_reported(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sent to the new node is handled, and nothing of that is reported."""

    async def stall(*_: Any) -> None:
        await anyio.sleep_forever()

    async with buses(uri, 1) as (a,), tasks():
        lost = Hooked()
        a.on_undeliverable(lost)
        # It alone finds out: no other call that asks the directory can notice that the node was away.
        monkeypatch.setattr(a._node.detector, "_roll_call_at", float("inf"))
        options: dict[str, Any] = {"lease": 4.5, "close_timeout": 0.1, "slow_consumer_timeout": DEADLINE}
        async with eventbus.connect(uri, namespace=a.namespace, node="same", **options) as b:
            bob = await b.client("bob").__aenter__()
            for number in range(10):
                await a.send("bob", f"n.{number}")
            await fence([a], [b])
            await take(bob, 4)
            monkeypatch.setattr(b._node.directory, "leave", stall)
            publish_by(monkeypatch, b._node.transport, stall)
        inbox = Inbox()
        while True:
            try:
                again = eventbus.connect(uri, namespace=a.namespace, node="same")
                async with again as b, b.client("bob", handler=inbox):
                    await a.send("bob", "new")
                    await inbox.got(1)
                    await until(lambda: {f"n.{number}" for number in range(4, 10)} <= {fate.type for fate in lost})
                    assert {fate.reason for fate in lost} == {"node dead"}
                    assert "new" not in {fate.type for fate in lost}
                    assert len(lost) == len({fate.id for fate in lost})
                return
            except eventbus.NodeAlreadyPresent:
                await anyio.sleep(0.05)


async def test_g5_what_the_former_node_reported_itself_is_not_reported_again(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ended before it could confirm the event."""
    async with buses(uri, 1) as (a,):
        lost = Hooked()
        a.on_undeliverable(lost)
        async with eventbus.connect(uri, namespace=a.namespace, node="same") as b:
            publish = b._node.transport.publish

            async def publish_reports(frames: Sequence[Frame]) -> Sequence[int]:
                await publish([frame for frame in frames if b"undeliverable" in frame.data])
                return [1] * len(frames)

            await fence([a], [b])
            publish_by(monkeypatch, b._node.transport, publish_reports)
            first = await a.send("@same", "n")
            await until(lambda: len(lost) == 1)
        inbox = Inbox()
        async with eventbus.connect(uri, namespace=a.namespace, node="same") as b:
            b.on("n", inbox)
            later = await a.send("@same", "n")
            await until(lambda: len(inbox) == 1 or later in {fate.id for fate in lost})  # sent to the one or the other
            assert [fate.reason for fate in lost if fate.id == first] == ["no handler"]
