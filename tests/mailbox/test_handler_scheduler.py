"""When plain functions are called: in turns, between which other tasks run."""

from __future__ import annotations

from time import sleep

import anyio
import pytest

from eventbus import Event
from eventbus_core.mailbox.handler_scheduler import TURN
from tests.support import DEADLINE, buses


@pytest.mark.parametrize("size", [pytest.param(0, id="in-a-frame"), pytest.param(1024, id="a-frame-each")])
async def test_plain_functions_give_way_to_other_tasks_under_load(uri: str, size: int) -> None:
    """Another task has its step after a few turns: of the reader, and of the task that calls them for what is left."""
    async with buses(uri, 2, frame_size=size or 128 * 1024) as (a, b):
        called = most = total = 0

        @b.on("n")
        def count(event: Event) -> None:
            nonlocal called, total
            called += 1
            total += 1
            sleep(TURN / 5)

        await b.ready()
        for _ in range(200):
            await a.publish("n", bytes(size))
        with anyio.fail_after(DEADLINE):
            while total < 200:
                called = 0
                await anyio.lowlevel.checkpoint()
                most = max(most, called)
        assert most <= 3 * 6
