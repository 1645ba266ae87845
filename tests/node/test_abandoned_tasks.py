"""Buses that are still open, or still claim clients, when their body or their event loop ends."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from random import Random
from time import monotonic
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

import eventbus
from eventbus import BusClosed, Event
from eventbus_core.backend import Claim, Owner
from tests.support import DEADLINE, buses, fresh_namespace, tasks, until

ASKING = True


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_task_in_a_bus_is_cancelled_and_leaves_quickly_when_its_event_loop_ends(uri: str) -> None:
    namespace = fresh_namespace()
    held: list[asyncio.Task[None]] = []
    noise: list[dict[str, object]] = []

    def run() -> float:
        async def hold(opened: asyncio.Event) -> None:
            own: dict[str, Any] = {
                "namespace": namespace,
                "node": "held",
                "lease": 2 * DEADLINE,
                "close_timeout": 2 * DEADLINE,
            }
            async with eventbus.connect(uri, **own) as bus, bus.client("bob"):
                opened.set()
                await asyncio.sleep(1000)

        async def main() -> float:
            asyncio.get_running_loop().set_exception_handler(lambda _loop, context: noise.append(context))
            opened = asyncio.Event()
            held.append(asyncio.create_task(hold(opened)))
            await opened.wait()
            return monotonic()

        begun = asyncio.run(main())
        return monotonic() - begun

    seconds = await anyio.to_thread.run_sync(run)
    assert held[0].cancelled()
    assert noise == []
    assert seconds < DEADLINE
    async with eventbus.connect(uri, namespace=namespace, node="held"):
        pass


async def test_a_claim_in_progress_when_the_bus_closes_ends_and_leaves_the_client_free(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with buses(uri, 1) as (other,), tasks() as group:
        asked, answer, ended = anyio.Event(), anyio.Event(), anyio.Event()
        async with eventbus.connect(uri, namespace=other.namespace, node="closing") as bus:
            claim = bus._node.directory.claim

            async def slow(clients: Sequence[str], takeover: bool) -> Sequence[Claim | Owner]:
                claims = await claim(clients, takeover)
                asked.set()
                await answer.wait()
                return claims

            async def iterate() -> None:
                async with bus.client("bob") as bob:
                    async for _ in bob:
                        pass

            async def use() -> None:
                with pytest.raises(BusClosed):
                    await iterate()
                ended.set()
                answer.set()

            leave = bus._node.directory.leave

            async def leave_late() -> None:
                answer.set()
                for _ in range(20):  # a claim that is still waited for is granted now
                    await checkpoint()
                await leave()

            monkeypatch.setattr(bus._node.directory, "claim", slow)
            monkeypatch.setattr(bus._node.directory, "leave", leave_late)
            group.start_soon(use)
            await asked.wait()
        await ended.wait()
        assert bus.stats().clients == 0

        async def free() -> bool:
            return await other.locate("bob") is None

        await until(free)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.filterwarnings("ignore:coroutine 'ServiceGroup._run' was never awaited")  # anyio's, of a task not begun
async def test_the_end_of_an_event_loop_is_a_cancellation_in_whichever_order_it_reaches_the_tasks(uri: str) -> None:
    """Whether a task of the bus ends by it before the one that opened the bus, or after."""

    async def hold(busy: asyncio.Event) -> None:
        async def work(_: Event) -> None:
            busy.set()
            await asyncio.sleep(1000)

        async with eventbus.connect(uri, namespace=fresh_namespace()) as bus, bus.queue("jobs").consume(work):
            await bus.queue("jobs").send("n")
            await busy.wait()

    async def end(seed: int) -> asyncio.Task[None]:
        noise: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: noise.append(context))
        busy = asyncio.Event()
        host = asyncio.create_task(hold(busy), name="host")
        await busy.wait()
        for _ in range(10):  # every task has begun by then, and the host waits for the consumer
            await asyncio.sleep(0)
        running = sorted(asyncio.all_tasks() - {asyncio.current_task()}, key=lambda task: task.get_name())
        Random(seed).shuffle(running)
        for task in running:
            task.cancel()
        await asyncio.wait(running)
        assert noise == []
        return host

    for seed in range(20):
        host = await anyio.to_thread.run_sync(lambda seed=seed: asyncio.run(end(seed)))  # type: ignore[misc]
        assert host.cancelled()
    gc.collect()  # what is not begun is reported here, and not in another test
