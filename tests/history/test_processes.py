"""Processes that are killed, and a broker that fails over: each event once, or an exact gap."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from eventbus import Bus, Gap, Resumed, Retention
from tests.processes.support import NodeProcess
from tests.sentinels import Service
from tests.support import buses, fresh_namespace, take, tasks, until

pytestmark = [pytest.mark.redis, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

CLIENTS = [f"acme/{number}" for number in range(30)]
EVENTS = 120
TOPIC = "chat.room"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with Service(tmp_path) as service:
        yield service


async def test_g13_a_process_that_holds_retained_clients_is_killed(redis_uri: str) -> None:
    """Under load, and its clients come back at another node at once: each handles each event once, in order."""
    namespace = fresh_namespace()
    retained = "acme/*=1000/600/8388608"
    process = NodeProcess(
        f"{redis_uri}?namespace={namespace}&lease=2&retain_clients={retained}",
        "doomed",
        program="tests.history.reader_node",
    )
    try:
        await process.opened()
        options = {"namespace": namespace, "lease": 2.0, "retain_clients": {"acme/*": Retention(1000, 600.0)}}
        async with buses(redis_uri, 2, **options) as (sender, other), tasks() as group:
            begun = {name: await begin(other, name) for name in CLIENTS}
            for name in CLIENTS:
                await process.ask("resume", client=name, since=begun[name])

            async def send() -> None:
                for number in range(EVENTS):
                    for name in CLIENTS:
                        await sender.send(name, "count", number)
                    await anyio.sleep(0.005)

            group.start_soon(send)
            await until(lambda: len(process.all("handled")) > 20 * len(CLIENTS), "events are handled")
            process.kill()
            await until(lambda: process.ended, "it is dead, and all that it said is read")
            await until_gone(other, "doomed")
            for name in CLIENTS:
                said = process.all("handled", client=name)
                before = [record["number"] for record in said]
                since = said[-1]["position"] if said else begun[name]
                async with other.client(name, since=since) as client:
                    assert isinstance(client.resumed, Resumed)
                    after = [event.data for event in await take(client, EVENTS - len(before))]
                assert before + after == list(range(EVENTS)), name
    finally:
        process.close()


async def test_g13_a_replica_without_the_latest_writes_becomes_the_primary(service: Service) -> None:
    """Events that were accepted, handled and lost: a reader that has them is told, and misses none that came later."""
    async with buses(service.uri, 2, retain={"chat.>": Retention(events=1000)}, lease=30.0) as (a, b):
        async with b.client("live") as live:
            await live.subscribe(TOPIC, since="")
            for number in range(1, 101):
                await a.publish(TOPIC, number)
            await a.flush()
            kept = (await take(live, 100))[-1].position
            await anyio.to_thread.run_sync(service.wait, service.settled, "the replicas follow")
            former = service.primary
            service.cut_off(former)
            for number in range(101, 106):
                await a.publish(TOPIC, number, durable=True)
            lost = (await take(live, 5))[-1].position
        await anyio.to_thread.run_sync(service.wait, lambda: service.taken_over(former), "another is the primary")

        async def rolled_back() -> bool:
            return all(event.data <= 100 for event in await a.history(TOPIC))

        await until(rolled_back, "both nodes have left the former primary")
        for number in range(201, 211):
            await a.publish(TOPIC, number)
        await a.flush()
        assert kept is not None
        assert lost is not None
        async with b.client("ahead") as client:
            gap = await client.subscribe(TOPIC, since=lost)
            assert isinstance(gap, Gap)
            assert (gap.reason, gap.missed) == ("rolled_back", 0)
            events = await take(client, 1)
            while events[-1].data != 210:
                events += await take(client, 1)
            numbers = [event.data for event in events]
            assert numbers[-10:] == list(range(201, 211))
            assert numbers[:-10] == list(range(numbers[0], 101)), "what it may have got twice has no hole"
        async with b.client("behind") as client:
            answer = await client.subscribe(TOPIC, since=kept)
            assert isinstance(answer, Resumed)
            assert [event.data for event in await take(client, 10)] == list(range(201, 211))
    service.reconnect(former)


async def begin(bus: Bus, client: str) -> str:
    """Return the first position of *client*, which is not held afterwards."""
    async with bus.client(client, since="") as handle:
        assert isinstance(handle.resumed, Resumed)
        return handle.resumed.position


async def until_gone(bus: Bus, node: str) -> None:
    async def gone() -> bool:
        return node not in [each.id for each in await bus.nodes()]

    await until(gone, f"the lease of {node} has ended")
