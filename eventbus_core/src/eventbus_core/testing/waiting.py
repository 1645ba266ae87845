"""Waiting for what must come, and no longer than a deadline."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import anyio
from anyio.abc import TaskGroup

DEADLINE = float(os.environ.get("EVENTBUS_TEST_DEADLINE", "20"))
"""Seconds after which what should have come never will; nothing waits so long unless it fails."""

POLL = 0.002


@contextmanager
def within_deadline(what: str, *, times: int = 1) -> Iterator[None]:
    """Let what is done within take so many *times* the ``DEADLINE``; then fail, and say that *what* did not happen."""
    seconds = times * DEADLINE
    with anyio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise AssertionError(f"still not so after {seconds:g} s: {what}")


async def until(condition: Callable[[], bool | Awaitable[bool]], what: str = "the condition holds") -> None:
    """Wait until *condition* is true; fail, saying *what* is still not so, if it is not by the deadline."""
    with within_deadline(what):
        while True:
            answer = condition()
            if answer if isinstance(answer, bool) else await answer:
                return
            await anyio.sleep(POLL)


@asynccontextmanager
async def tasks() -> AsyncIterator[TaskGroup]:
    """Give a task group whose tasks end with the block, and whose one exception comes as it is."""
    try:
        async with anyio.create_task_group() as group:
            yield group
            group.cancel_scope.cancel()
    except BaseExceptionGroup as error:
        if len(error.exceptions) == 1:
            raise error.exceptions[0] from None
        raise
