"""Buses that a test opens and closes."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from secrets import token_hex
from typing import Any

import anyio
from anyio.abc import TaskGroup, TaskStatus

from eventbus_core.api.bus import Bus
from eventbus_core.api.connect import connect
from eventbus_core.testing.waiting import within_deadline

_numbers = itertools.count(1)


def fresh_namespace() -> str:
    """Return a namespace that no other test uses."""
    return f"t{os.getpid()}-{next(_numbers)}-{token_hex(3)}"


@asynccontextmanager
async def buses(uri: str, count: int = 2, **options: Any) -> AsyncIterator[list[Bus]]:
    """Open *count* buses, ``n0``, ``n1``, ..., in a namespace of their own."""
    options.setdefault("namespace", fresh_namespace())
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(connect(uri, node=f"n{number}", **options)) for number in range(count)]


class Host:
    """A bus in a task of its own, so that buses can come and go in any order."""

    def __init__(self, uri: str, **options: Any) -> None:
        self.bus = connect(uri, **options)
        self._stop = anyio.Event()
        self._gone = anyio.Event()

    async def open(self, group: TaskGroup) -> Bus:
        """Open the bus in a task of *group*."""
        await group.start(self._run)
        return self.bus

    async def close(self) -> None:
        """Close the bus, and return once it has closed."""
        self._stop.set()
        with within_deadline(f"{self.bus!r} closed"):
            await self._gone.wait()

    async def _run(self, *, task_status: TaskStatus[None]) -> None:
        async with self.bus:
            task_status.started()
            await self._stop.wait()
        self._gone.set()
