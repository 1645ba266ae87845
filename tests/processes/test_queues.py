"""Queues between real processes, some of which are killed in the midst of their work."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from tests.processes.support import NodeProcess, place
from tests.support import until

pytestmark = [
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),
    pytest.mark.skipif(
        "EVENTBUS_PROCESSES" not in os.environ,
        reason="set EVENTBUS_PROCESSES=1: they kill and stop real processes, and take a minute",
    ),
]

LEASE = 6.0
WORK = 0.01
NUMBERS = 1000


async def _empty(*senders: NodeProcess) -> None:
    async def is_empty() -> bool:
        return not any([await sender.ask("queued") for sender in senders])

    await until(is_empty, "the queues are empty")


async def test_work_of_killed_consumers_is_done_by_others(redis_uri: str) -> None:
    """Two of three workers are killed, one leaves, one comes late: all is handled; twice only what the killed had."""
    async with place(redis_uri, LEASE) as here:
        first, second = senders = await here.start("s", "t")
        a, b, c, d = await here.start("a", "b", "c", "d")
        for worker in (a, b, c):
            await worker.ask("consume", queue="jobs", seconds=WORK)
        first.tell("enqueue", queue="jobs", first=0, end=NUMBERS // 2)
        second.tell("enqueue", queue="jobs", first=NUMBERS // 2, end=NUMBERS)
        await until(lambda: len(a.handled("jobs")) >= 10)
        a.kill()
        await until(lambda: len(b.handled("jobs")) >= 30)
        b.kill()
        await d.ask("consume", queue="jobs", seconds=WORK)
        await until(lambda: len(d.handled("jobs")) >= 10)
        c.end()
        await c.exit()
        await _empty(*senders)
        handled = Counter(number for worker in (a, b, c, d) for number in worker.handled("jobs"))
        assert set(handled) == set(range(NUMBERS))
        with_killed = {record["number"] for worker in (a, b) for record in worker.all("begun")}
        again = {number for number, times in handled.items() if times > 1}
        assert again <= with_killed
        assert [first.reported("jobs"), second.reported("jobs")] == [{}, {}]
        print(f"\n{len(with_killed)} events were begun by the killed, {len(again)} of them handled twice")


async def test_a_retained_queue_outlives_all_its_processes(redis_uri: str) -> None:
    """The sender, the only consumer and the dispatcher are killed; new ones handle all that was sent."""
    async with place(redis_uri, LEASE, retain_queues="jobs=10000/600/67108864") as here:
        for generation in range(3):
            first, end = generation * NUMBERS, (generation + 1) * NUMBERS
            sender, worker = await here.start(f"s{generation}", f"w{generation}")
            await sender.ask("enqueue", queue="jobs", first=first, end=end)
            sender.kill()
            await worker.ask("consume", queue="jobs", seconds=WORK)
            await until(lambda worker=worker: len(worker.handled("jobs")) >= 20)  # type: ignore[misc]
            assert await worker.ask("dispatches", queue="jobs")
            worker.kill()
            await worker.exit()
        (last,) = await here.start("last")
        await last.ask("consume", queue="jobs", seconds=0.0)
        numbers = set(range(3 * NUMBERS))

        def handled() -> Counter[int]:
            return Counter(number for process in here.processes for number in process.handled("jobs"))

        await until(lambda: handled().keys() == numbers, "all are handled")
        with_killed = {record["number"] for process in here.processes[:-1] for record in process.all("begun")}
        assert {number for number, times in handled().items() if times > 1} <= with_killed
        assert len(last.handled("jobs")) < 3 * NUMBERS, "what was noted as handled does not come again"


async def test_another_process_dispatches_after_the_death_of_the_dispatcher(redis_uri: str) -> None:
    """Consumers of several processes share the events; one of them dispatches, and is killed in the midst of it."""
    async with place(redis_uri, LEASE, retain_queues="jobs=10000/600/67108864") as here:
        (sender,) = await here.start("s")
        workers = await here.start("a", "b", "c")
        for worker in workers:
            await worker.ask("consume", queue="jobs", seconds=WORK)
        sender.tell("enqueue", queue="jobs", first=0, end=NUMBERS)
        await until(lambda: sum(len(worker.handled("jobs")) for worker in workers) >= 30)
        (dispatcher,) = [worker for worker in workers if await worker.ask("dispatches", queue="jobs")]
        dispatcher.kill()
        await until(lambda: {number for one in workers for number in one.handled("jobs")} == set(range(NUMBERS)))


async def test_a_stopped_consumer_loses_its_work_to_another(redis_uri: str) -> None:
    """Once its lease is over, its events go to another; it may finish them all the same when it goes on."""
    async with place(redis_uri, LEASE) as here:
        sender, a, b = await here.start("s", "a", "b")
        await a.ask("consume", queue="jobs", seconds=WORK)
        await sender.ask("enqueue", queue="jobs", first=0, end=1)
        await _empty(sender)
        a.pause()
        await sender.ask("enqueue", queue="jobs", first=1, end=20)
        await b.ask("consume", queue="jobs", seconds=WORK)
        await _empty(sender)
        a.resume()
        await sender.ask("enqueue", queue="jobs", first=20, end=40)
        await _empty(sender)
        handled = Counter([*a.handled("jobs"), *b.handled("jobs")])
        assert set(handled) == set(range(40))
        assert sum(handled.values()) <= 42, "only the two events that the stopped one had may come twice"
