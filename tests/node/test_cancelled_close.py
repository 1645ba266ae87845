"""A cancellation that arrives while a bus closes: what the bus accepted is still reported."""

from __future__ import annotations

import asyncio

import pytest

import eventbus
from tests.support import buses, fresh_namespace, until

COUNT = 100


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("own", [True, False], ids=["own-events", "events-of-another-node"])
async def test_g5_a_close_that_is_cancelled_reports_what_waited(uri: str, own: bool) -> None:
    """Cancelled by asyncio itself, which passes every shield: a second SIGTERM, or a timeout around the bus."""
    namespace = fresh_namespace()
    told: list[eventbus.Undeliverable] = []
    opened = asyncio.Event()
    close = asyncio.Event()

    async def hold() -> None:
        async with eventbus.connect(uri, node="held", namespace=namespace) as bus:
            bus.on_undeliverable(told.append)
            await bus.client("alice").__aenter__()
            if own:
                for number in range(COUNT):
                    await bus.send("alice", "n", number)
            opened.set()
            await close.wait()
            task = asyncio.current_task()
            assert task is not None
            task.cancel()  # delivered at the next await: within the close of the bus

    async with buses(uri, 1, namespace=namespace) as (other,):
        other.on_undeliverable(told.append)
        holding = asyncio.ensure_future(hold())
        await opened.wait()
        if not own:
            for number in range(COUNT):
                await other.send("alice", "n", number)
            await other.flush()
        close.set()
        with pytest.raises(asyncio.CancelledError):
            await holding
        await other.flush()
        await until(lambda: len(told) == COUNT)
    assert {fate.target for fate in told} == {"alice"}
