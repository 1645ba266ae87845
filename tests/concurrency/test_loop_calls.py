"""Calls into an event loop from other threads."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import pytest

from eventbus_core.concurrency.loop_calls import LoopCalls, calls_here
from tests.support import until


async def test_calls_that_gather_share_one_wake_up() -> None:
    wakes: list[Any] = []
    called: list[int] = []
    calls = LoopCalls(None, wakes.append)
    for number in range(3):
        calls.add(lambda number=number: called.append(number))  # type: ignore[misc]
    assert (len(wakes), called) == (1, [])
    wakes.pop()()
    assert called == [0, 1, 2]
    calls.add(lambda: called.append(3))
    wakes.pop()()
    assert called == [0, 1, 2, 3]


async def test_a_call_that_is_added_while_others_are_made_is_made() -> None:
    wakes: list[Any] = []
    called: list[int] = []
    calls = LoopCalls(None, wakes.append)
    calls.add(lambda: calls.add(lambda: called.append(1)))
    while wakes:
        wakes.pop()()
    assert called == [1]


async def test_calls_that_add_calls_leave_other_tasks_their_turn() -> None:
    calls, added = calls_here(), 0
    other = anyio.Event()

    def add_again() -> None:
        nonlocal added
        added += 1
        if added < 100 and not other.is_set():
            calls.add(add_again)

    async def run_other() -> None:
        other.set()

    async with anyio.create_task_group() as group:
        calls.add(add_again)
        group.start_soon(run_other)
    await other.wait()
    assert added < 100


async def test_no_call_of_any_thread_is_lost_and_each_thread_keeps_its_order() -> None:
    calls = calls_here()
    assert calls_here() is calls
    called: list[tuple[int, int]] = []

    def add(thread: int) -> None:
        for number in range(5000):
            calls.add(lambda number=number: called.append((thread, number)))  # type: ignore[misc]

    threads = [threading.Thread(target=add, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    await until(lambda: len(called) == 20_000)
    for number, thread in enumerate(threads):
        thread.join()
        assert [place for source, place in called if source == number] == list(range(5000))


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_closed_event_loop_refuses_calls() -> None:
    found: list[LoopCalls] = []

    async def find() -> None:
        found.append(calls_here())

    await anyio.to_thread.run_sync(lambda: anyio.run(find))
    for _ in range(2):  # the first must not leave the second waiting
        with pytest.raises(RuntimeError):
            found[0].add(list)
