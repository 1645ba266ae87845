"""The tasks of a bus, and what comes after they have ended."""

from __future__ import annotations

import anyio
import pytest

from eventbus_core.concurrency.service_group import ServiceGroup

pytestmark = pytest.mark.anyio


async def test_services_that_come_after_a_crash_are_not_started() -> None:
    """Also between the end of the tasks and :meth:`ServiceGroup.end`, when their group takes none any more."""
    services = ServiceGroup()
    started: list[str] = []

    async def crash() -> None:
        raise ValueError

    async def late() -> None:
        started.append("late")

    async def run() -> None:
        async with anyio.create_task_group() as group:
            services.start(crash)
            await services.run_in(group)

    with pytest.raises(ExceptionGroup):
        await run()
    services.start(late)
    await anyio.lowlevel.checkpoint()
    assert not started
