"""Nodes that send to a retained queue, consume and dispatch it: they come, leave and crash in any order."""

from __future__ import annotations

from collections import Counter
from typing import Any

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint
from hypothesis import example, given, settings
from hypothesis import strategies as st

import eventbus
from eventbus import Bus, Event, Retention
from tests.support import DEADLINE, buses, until
from tests.workers import crashing, noted

LEASE = 30.0
"""A node that crashes leaves the directory, so no test waits for the end of a lease."""
RETAIN = {"jobs": Retention(events=1000, seconds=600)}


class _World:
    """Nodes that consume the retained queue; some of them crash, and with them whatever they dispatch."""

    def __init__(self, uri: str, group: TaskGroup, namespace: str) -> None:
        self.options: dict[str, Any] = {
            "namespace": namespace,
            "lease": LEASE,
            "close_timeout": DEADLINE,
            "retain_queues": RETAIN,
        }
        self.uri = uri
        self.handled: Counter[str] = Counter()
        self.workers: list[_Worker] = []
        self._group = group

    async def add(self, concurrency: int) -> None:
        """Add a node with a consumer."""
        self.workers.append(await self._group.start(_Worker(self, concurrency).run))

    async def settle(self, sent: set[str]) -> Counter[str]:
        """Return how often each event was handled, once that is so for all and the history knows it."""
        if not self.workers:
            await self.add(4)
        await until(lambda: sent <= self.handled.keys(), "all events are handled")
        if sent:
            await noted(*(worker.bus for worker in self.workers))
        return Counter(self.handled)


class _Worker:
    bus: Bus

    def __init__(self, world: _World, concurrency: int) -> None:
        self._world = world
        self._concurrency = concurrency
        self._end, self._ended, self._crash = anyio.Event(), anyio.Event(), anyio.Event()

    async def run(self, *, task_status: anyio.abc.TaskStatus[_Worker]) -> None:
        world = self._world
        async with (
            crashing(world.uri, **world.options) as (self.bus, self._crash),
            self.bus.queue("jobs").consume(self._handle, concurrency=self._concurrency),
        ):
            task_status.started(self)
            await self._end.wait()
        self._ended.set()

    async def stop(self, *, crash: bool) -> None:
        """Leave in good order, or crash."""
        if crash:
            self._crash.set()
        self._end.set()
        await self._ended.wait()

    async def _handle(self, event: Event) -> None:
        await checkpoint()
        self._world.handled[event.id] += 1


STEPS = st.one_of(
    st.tuples(st.just("send"), st.integers(1, 30)),
    st.tuples(st.just("add"), st.sampled_from([1, 2, 16])),
    st.tuples(st.sampled_from(["leave", "crash"]), st.integers(0, 3)),
    st.tuples(st.just("settle"), st.just(0)),
)


@settings(max_examples=10, deadline=None)
@given(steps=st.lists(STEPS, min_size=4, max_size=12))
@example(
    steps=[("send", 20), ("add", 2), ("send", 20), ("crash", 0), ("send", 5), ("add", 1), ("settle", 0), ("crash", 0)]
)
async def test_every_event_is_handled_and_none_again_that_is_noted(uri: str, steps: list[tuple[str, int]]) -> None:
    """Nodes that consume and dispatch come, leave and crash; senders close after each send."""
    async with buses(uri, 1, lease=LEASE, retain_queues=RETAIN) as (witness,), anyio.create_task_group() as group:
        world, sent, noted_before = _World(uri, group, witness.namespace), set[str](), Counter[str]()
        for step, number in steps:
            if step == "send":
                async with eventbus.connect(uri, **world.options) as bus:
                    sent |= {await bus.queue("jobs").send("n", place) for place in range(number)}
            elif step == "add":
                await world.add(number)
            elif step == "settle":
                noted_before = await world.settle(sent)
            elif world.workers:
                await world.workers.pop(number % len(world.workers)).stop(crash=step == "crash")
        final = await world.settle(sent)
        assert final.keys() == sent
        assert {id: final[id] for id in noted_before} == noted_before
        if all(step != "crash" for step, _ in steps):
            assert set(final.values()) <= {1}, "no node died, so no event comes twice"
        for worker in world.workers:
            await worker.stop(crash=False)
