"""A subscriber that ends while another task waits for its lane: the wait ends too."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest

import eventbus
from eventbus import Bus, BusClosed, ClientTakenOver, EventBusError
from eventbus_core.backend import Partition
from eventbus_memory import MemoryTransport
from tests.support import DEADLINE, buses, take, tasks, until

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])


class Gated(MemoryTransport):
    """Joins lanes once the gate is open, but for those that were joined as the bus opened."""

    gate: anyio.Event | None = None

    async def join(self, partitions: Sequence[Partition]) -> None:
        if self.gate is not None:
            await self.gate.wait()
        await super().join(partitions)


@asynccontextmanager
async def _waiting(bus: Bus, wait: Callable[[], Awaitable[object]]) -> AsyncIterator[list[object]]:
    """Have a task wait for a lane that is not joined within the block; then join it, and yield what came of it."""
    outcomes: list[object] = []
    transport = bus._node.transport
    assert isinstance(transport, Gated)
    transport.gate = anyio.Event()

    async def run() -> None:
        try:
            outcomes.append(await wait())
        except EventBusError as error:
            outcomes.append(error)

    before = bus._node.lanes._changed._event
    async with tasks() as group:
        group.start_soon(run)
        await until(lambda: bool(outcomes) or bus._node.lanes._changed._event is not before)
        yield outcomes
        transport.gate.set()
        with anyio.fail_after(DEADLINE):
            await until(lambda: bool(outcomes), "the wait has ended")


@pytest.fixture(autouse=True)
def gated() -> None:
    eventbus.register("gated", Gated)


async def test_a_handler_that_is_taken_off() -> None:
    async with buses("gated://x", 1) as (bus,):
        registration = bus.on("n", print)
        async with _waiting(bus, bus.ready):
            registration.off()


async def test_a_handler_of_one_event_that_has_come() -> None:
    async with buses("gated://x", 1) as (bus,):
        got: list[object] = []
        registration = bus.once("n", got.append)
        async with _waiting(bus, registration.__aenter__):
            await bus.publish("n")
            await until(lambda: len(got) == 1)


async def test_a_client_that_unsubscribes() -> None:
    async with buses("gated://x", 1) as (bus,), bus.client("bob") as bob, _waiting(bus, lambda: bob.subscribe("n")):
        await bob.unsubscribe("n")


async def test_a_client_that_is_taken_over() -> None:
    async with buses("gated://x", 1) as (bus,), bus.client("bob") as bob:
        async with _waiting(bus, lambda: bob.subscribe("n")) as outcomes, bus.client("bob"):
            await until(lambda: bool(outcomes))
        assert isinstance(outcomes[0], ClientTakenOver)


async def test_a_client_that_is_released() -> None:
    async with buses("gated://x", 1) as (bus,):
        bob = await bus.client("bob").open()
        async with _waiting(bus, lambda: bob.subscribe("n")) as outcomes:
            await bob.aclose()
            await until(lambda: bool(outcomes))
        assert isinstance(outcomes[0], BusClosed)


async def test_a_client_that_another_node_subscribes_and_then_has_itself() -> None:
    """The request ends at the node that has the client by then."""
    async with (
        buses("gated://x", 2) as (a, b),
        a.client("bob"),
        _waiting(a, lambda: b.subscribe("bob", "n", timeout=DEADLINE)) as outcomes,
        b.client("bob") as bob,
    ):
        await until(lambda: bool(outcomes))
        assert outcomes == [None]
        await b.publish("n", 1)
        assert [event.data for event in await take(bob, 1)] == [1]


async def test_the_subscription_of_a_client_of_this_node_has_its_timeout() -> None:
    async with buses("gated://x", 1) as (bus,), bus.client("bob"):
        async with _waiting(bus, lambda: bus.subscribe("bob", "n", timeout=0.01)) as outcomes:
            await until(lambda: bool(outcomes))
        assert isinstance(outcomes[0], eventbus.RequestTimeout)
