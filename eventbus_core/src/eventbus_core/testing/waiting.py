"""Waiting for a condition, and no longer than a deadline."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import anyio
from anyio.abc import TaskGroup

DEADLINE = float(os.environ.get("EVENTBUS_TEST_DEADLINE", "60"))
"""Seconds until a wait fails; no test that passes waits so long."""

POLL = 0.002


@contextmanager
def within_deadline(what: str, *, times: int = 1) -> Iterator[None]:
    """Limit the block to *times* the ``DEADLINE``; then fail with the message that *what* is still not so."""
    seconds = times * DEADLINE
    with anyio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise AssertionError(f"still not so after {seconds:g} s: {what}")


async def until(
    condition: Callable[[], bool | Awaitable[bool]], what: str = "the condition holds", *, times: int = 1
) -> None:
    """Wait until *condition* is true; after *times* the deadline, fail with the message that *what* is still not so."""
    with within_deadline(what, times=times):
        while True:
            answer = condition()
            if answer if isinstance(answer, bool) else await answer:
                return
            await anyio.sleep(POLL)


@asynccontextmanager
async def tasks() -> AsyncIterator[TaskGroup]:
    """Give a task group whose tasks end with the block, and whose only exception is raised without a group."""
    try:
        async with anyio.create_task_group() as group:
            yield group
            group.cancel_scope.cancel()
    except BaseExceptionGroup as error:
        if len(error.exceptions) == 1:
            raise error.exceptions[0] from None
        raise
