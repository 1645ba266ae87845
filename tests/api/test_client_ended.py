"""The end of a handle, as the holder of a client with a handler learns of it."""

from __future__ import annotations

from contextlib import suppress
from typing import Literal

import anyio
import pytest

import eventbus
from eventbus import BusClosed, ClientNotFound, ClientTakenOver, EventBusError, LimitExceeded
from eventbus_core.testing.waiting import within_deadline
from tests.support import Inbox, buses, fresh_namespace, until


@pytest.mark.parametrize("handled", [True, False], ids=["handler", "iterated"])
async def test_a_takeover_is_told(uri: str, handled: bool) -> None:
    """To every task that waits, and to those that ask later; each gets an exception of its own."""
    async with buses(uri, 2) as (a, b), a.client("alice", handler=Inbox() if handled else None) as alice:
        reasons: list[EventBusError] = []

        async def wait() -> None:
            reasons.append(await alice.ended())

        with within_deadline("both were told"):
            async with anyio.create_task_group() as group:
                group.start_soon(wait)
                group.start_soon(wait)
                await a.send("alice", "n")
                async with b.client("alice"):
                    pass
        reasons.append(await alice.ended())
        assert [(type(reason), getattr(reason, "node", None)) for reason in reasons] == [(ClientTakenOver, "n1")] * 3
        assert len(set(map(id, reasons))) == 3


async def test_an_overflow_is_told(uri: str) -> None:
    async with (
        buses(uri, 1, mailbox_events=2, slow_consumer_timeout=0.05) as (bus,),
        bus.client("alice", overflow="close") as alice,
        anyio.create_task_group() as group,
    ):

        async def flood() -> None:
            with suppress(ClientNotFound):
                while True:
                    await bus.send("alice", "n")

        group.start_soon(flood)
        with within_deadline("it was told"):
            assert isinstance(await alice.ended(), LimitExceeded)


@pytest.mark.parametrize("closing", ["handle", "lingering", "bus"])
async def test_closing_is_told(uri: str, closing: Literal["handle", "lingering", "bus"]) -> None:
    bus = await eventbus.connect(uri, namespace=fresh_namespace()).open()
    alice = await bus.client("alice", handler=Inbox(), linger=5.0 if closing == "lingering" else 0.0).open()
    reasons: list[EventBusError] = []

    async def wait() -> None:
        reasons.append(await alice.ended())

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await until(lambda: alice._more._event is not None)
        await (bus if closing == "bus" else alice).aclose()
    assert isinstance(reasons[0], BusClosed)
    await alice.aclose()
    await bus.aclose()
    assert isinstance(await alice.ended(), BusClosed)


async def test_a_handle_that_was_never_opened_has_no_end(uri: str) -> None:
    async with buses(uri, 1) as (bus,):
        with pytest.raises(BusClosed, match="not open"):
            await bus.client("alice").ended()
