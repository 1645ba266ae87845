"""A worker: it has a task only while there is something to do."""

from __future__ import annotations

import anyio
import pytest

from eventbus_core.concurrency.service_group import ServiceGroup
from eventbus_core.concurrency.worker import Worker
from tests.support import tasks, until

pytestmark = pytest.mark.anyio


async def test_everything_that_is_added_is_done_by_one_task_at_a_time() -> None:
    waiting: list[int] = []
    done: list[int] = []
    at_work = 0

    async def work() -> None:
        nonlocal at_work
        at_work += 1
        assert at_work == 1
        while waiting:
            number = waiting.pop(0)
            await anyio.lowlevel.checkpoint()
            done.append(number)
        at_work -= 1

    services = ServiceGroup()
    worker = Worker(services, work)
    waiting.append(0)
    worker.wake()  # before the bus is open
    async with tasks() as group:
        group.start_soon(services.run_in, group)
        for number in range(1, 20):
            waiting.append(number)
            worker.wake()
            if number % 3 == 0:
                await anyio.lowlevel.checkpoint()
        await until(lambda: len(done) == 20)
        await until(lambda: at_work == 0)
        waiting.append(20)
        worker.wake()  # after it was idle
        await until(lambda: len(done) == 21)
        assert done == list(range(21))
        services.end()
        waiting.append(21)
        worker.wake()
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        assert waiting == [21]
