"""Buffers that event loops and threads share."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest
from anyio import to_thread
from hypothesis import given
from hypothesis import strategies as st

from eventbus import Buffers, InvalidName, OptionError
from eventbus_core.api import buffers as module
from eventbus_core.testing.waiting import within_deadline
from tests.support import DEADLINE, until

CAPACITY, EXPIRY = 3, 10.0


async def next_of(buffers: Buffers[int], name: str = "x") -> int:
    with within_deadline(f"an item came to {name}"):
        return await buffers.get(name)
    raise AssertionError


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.floats(0.0, 0.6 * EXPIRY))))
def test_a_buffer_is_in_order_bounded_and_drops_what_expires(steps: list[tuple[str, bool, float]]) -> None:
    """Also the buffers that are not used any more are emptied in time."""
    now, model = 0.0, dict[str, list[tuple[float, int]]]()

    async def run() -> None:
        nonlocal now
        buffers = Buffers[int](lambda name: CAPACITY + (name == "a"), EXPIRY)
        for number, (name, puts, pause) in enumerate(steps):
            now += pause
            left = [entry for entry in model.get(name, []) if entry[0] > now]
            if puts:
                room = len(left) < CAPACITY + (name == "a")
                assert buffers.put(name, number) is room
                left += [(now + EXPIRY, number)] * room
            elif left:
                assert await buffers.get(name) == left.pop(0)[1]
            model[name] = left
        now += 2 * EXPIRY
        buffers.put("last", 0)
        assert set(buffers._waiting) == {"last"}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "monotonic", lambda: now)
        anyio.run(run)


async def test_without_an_expiry_items_stay() -> None:
    buffers = Buffers[int](2)
    assert [buffers.put("x", number) for number in range(3)] == [True, True, False]
    assert [await next_of(buffers), await next_of(buffers)] == [0, 1]
    assert not buffers._waiting


@pytest.mark.parametrize("bad", [-1, 1.5, True, "3", None])
async def test_a_bad_capacity_is_refused(bad: Any) -> None:
    with pytest.raises(OptionError, match="option 'capacity' is "):
        Buffers[int](bad)
    with pytest.raises(OptionError, match="option 'capacity' is "):
        Buffers[int](lambda _: bad).put("x", 1)


@pytest.mark.parametrize("bad", [-1, "3", float("nan")])
async def test_a_bad_expiry_is_refused(bad: Any) -> None:
    with pytest.raises(OptionError, match="option 'expiry' is "):
        Buffers[int](1, bad)


@pytest.mark.parametrize("bad", [None, 7, b"x", ["x"]])
async def test_a_name_that_is_no_text_is_refused(bad: Any) -> None:
    buffers = Buffers[int](1)
    with pytest.raises(InvalidName, match="is not a valid buffer"):
        buffers.put(bad, 1)
    with pytest.raises(InvalidName, match="is not a valid buffer"):
        await buffers.get(bad)


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
async def test_an_item_reaches_a_call_of_another_event_loop(loop: str) -> None:
    buffers, back = Buffers[int](1), Buffers[int](1)

    async def answer() -> None:
        for _ in range(20):
            back.put("x", await next_of(buffers) + 1)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(to_thread.run_sync, lambda: anyio.run(answer, backend=loop))
        for number in range(20):
            buffers.put("x", number)
            assert await next_of(back) == number + 1


async def test_calls_get_items_in_turn() -> None:
    buffers, got = Buffers[int](10), list[str]()

    async def get(name: str) -> None:
        got.append(f"{name}{await next_of(buffers)}")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(get, "a")
        await until(lambda: "x" in buffers._receivers)
        tasks.start_soon(get, "b")
        await until(lambda: len(buffers._receivers["x"]) == 2)
        assert buffers.put("x", 0)
        assert buffers.put("x", 1)
    assert sorted(got) == ["a0", "b1"]
    assert not buffers._receivers


async def test_calls_that_always_find_an_item_let_other_tasks_run() -> None:
    buffers, others, calls = Buffers[int](1), list[int](), 0

    async def run() -> None:
        others.append(calls)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        while not others and calls < 1000:
            assert buffers.put("x", calls)
            assert await buffers.get("x") == calls
            calls += 1
        assert others


async def test_a_call_that_is_cancelled_leaves_what_it_was_given() -> None:
    buffers, order = Buffers[int](10), list[int]()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(buffers.get, "x")
        await until(lambda: "x" in buffers._receivers)
        buffers.put("x", 1)
        buffers.put("x", 2)
        tasks.cancel_scope.cancel()
    order += [await next_of(buffers), await next_of(buffers)]
    assert order == [1, 2]


async def test_a_call_that_is_cancelled_passes_on_what_it_was_given() -> None:
    buffers, got = Buffers[int](10), list[int]()

    async def get() -> None:
        got.append(await next_of(buffers))

    async with anyio.create_task_group() as others, anyio.create_task_group() as tasks:
        tasks.start_soon(buffers.get, "x")
        await until(lambda: "x" in buffers._receivers)
        others.start_soon(get)
        await until(lambda: len(buffers._receivers["x"]) == 2)
        buffers.put("x", 1)
        tasks.cancel_scope.cancel()
    assert got == [1]


async def test_a_cancelled_call_gets_nothing() -> None:
    buffers = Buffers[int](10)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(buffers.get, "x")
        await until(lambda: "x" in buffers._receivers)
        tasks.cancel_scope.cancel()
    assert not buffers._receivers
    assert buffers.put("x", 1)
    assert await next_of(buffers) == 1


def test_a_call_of_an_event_loop_that_is_closed_gets_nothing() -> None:
    buffers = Buffers[int](10)
    loop = asyncio.new_event_loop()
    call = loop.create_task(buffers.get("x"))
    loop.run_until_complete(asyncio.sleep(0))
    assert "x" in buffers._receivers
    loop.close()
    assert buffers.put("x", 1)
    assert asyncio.run(next_of(buffers)) == 1
    call.get_coro().close()


@pytest.mark.parametrize("loops", [1, 2])
def test_threads_lose_nothing_though_calls_are_cancelled(loops: int) -> None:
    """Each item comes once; to a single reader in the order of each thread that put it."""
    number, buffers = 1000, Buffers[tuple[int, int]](10_000)
    found: list[list[tuple[int, int]]] = [[] for _ in range(loops)]

    def put(thread: int) -> None:
        for place in range(number):
            assert buffers.put("x", (thread, place))

    async def get(got: list[tuple[int, int]]) -> None:
        with within_deadline("all items came"):
            while sum(map(len, found)) < 2 * number:
                with anyio.move_on_after(0):
                    got.append(await buffers.get("x"))
                with anyio.move_on_after(0.001):
                    got.append(await buffers.get("x"))

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(asyncio.run, get(got)) for got in found]
        for writer in [pool.submit(put, thread) for thread in range(2)]:
            writer.result(DEADLINE)
        for reader in readers:
            reader.result(DEADLINE)
    items = [item for got in found for item in got]
    assert len(items) == len(set(items)) == 2 * number
    for thread in range(2):
        places = [place for putter, place in items if putter == thread]
        assert places == sorted(places) or loops > 1
