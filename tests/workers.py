"""What the tests of queues share: functions that handle events as they are told to, and nodes that crash."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio

import eventbus
from eventbus import Bus, BusClosed, Event
from eventbus_core.history.stream_names import queue_stream
from tests.support import until


class Desk:
    """A function that handles events only as it is told to, and what it was given."""

    def __init__(self) -> None:
        self.begun: list[Event] = []
        self.done: list[Event] = []
        self._permits = anyio.Semaphore(0)

    async def __call__(self, event: Event) -> None:
        self.begun.append(event)
        await self._permits.acquire()
        self.done.append(event)

    def permit(self, number: int = 1) -> None:
        """Let it finish so many events."""
        for _ in range(number):
            self._permits.release()


class _Crash(Exception):
    pass


@asynccontextmanager
async def crashing(uri: str, **options: Any) -> AsyncIterator[tuple[Bus, anyio.Event]]:
    """Open a bus whose tasks end, as those of a process that is killed do, once the event is set."""
    crash = anyio.Event()

    async def fail() -> None:
        await crash.wait()
        raise _Crash

    with suppress(_Crash, BusClosed):
        async with eventbus.connect(uri, **options) as bus:
            bus._node.services.start(fail)
            yield bus, crash


def noted_count(bus: Bus) -> int:
    """Return how many events the history knows to be handled by the dispatcher on *bus*; 0 if that is another node."""
    assert bus._node.dispatchers is not None
    dispatcher = bus._node.dispatchers._active.get("jobs")
    return 0 if dispatcher is None else dispatcher._recorded_count


async def noted(*nodes: Bus) -> None:
    """Return once one of *nodes* dispatches, and the history knows that every event is handled."""

    async def is_noted() -> bool:
        for bus in nodes:
            assert bus._node.dispatchers is not None
            assert bus._node.history is not None
            (top,) = await bus._node.history.reader.tops([queue_stream("jobs")])
            for one in bus._node.dispatchers._active.values():
                progress = one._progress
                all_handled = top is not None and progress.following > top.offset and not progress._unhandled
                if all_handled and one._recorded_count == one._done_count:
                    return True
        return False

    await until(is_noted, "what is handled is noted")
