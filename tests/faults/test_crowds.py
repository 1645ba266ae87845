"""Nodes with thousands of clients die: each client has one owner or none, and the other nodes go on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest

from tests.faults.form import CHOSEN, FORM
from tests.processes.support import NodeProcess, gone
from tests.servers import RedisServer
from tests.support import fresh_namespace, until

pytestmark = [
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),
    pytest.mark.skipif(not CHOSEN, reason="set EVENTBUS_FAULTS=short or long: they take minutes"),
]

PROGRAM = "tests.faults.crowd"
STANDSTILL = 0.25  # seconds of CPU: no measure of the machine's load


@asynccontextmanager
async def nodes(server: RedisServer, *names: str, lease: float = FORM.lease) -> AsyncIterator[Sequence[NodeProcess]]:
    """Have a node of each name in a process of its own."""
    uri = f"{server.uri}?namespace={fresh_namespace()}&lease={lease}"
    started = [NodeProcess(uri, name, program=PROGRAM) for name in names]
    try:
        for node in started:
            await node.opened()
            await node.ask("begin")
        yield started
    finally:
        with anyio.CancelScope(shield=True):
            for node in started:
                await anyio.to_thread.run_sync(node.close)


async def test_13_a_node_is_killed_while_it_takes_clients_over(redis_server: RedisServer) -> None:
    """Two leases later the former owner has those clients that the directory gives to it, and no others."""
    async with nodes(redis_server, "former", "taker", "witness") as (former, taker, witness):
        await former.ask("hold", count=FORM.crowd)
        taker.tell("hold", count=FORM.crowd)
        await until(lambda: bool(taker.all("holds half")), "the taker holds half of the clients")
        taker.kill()
        died = await gone(taker.node, witness)
        await anyio.sleep(2 * FORM.lease)
        owners: dict[str, str] = await witness.ask("owners", count=FORM.crowd)
        held: list[str] = await former.ask("open_clients")
        print(f"\n13 of {FORM.crowd:,} clients {FORM.crowd - len(owners):,} have no owner, off the bus at {died:.1f}")
        assert len(held) > 0
        assert owners == dict.fromkeys(held, former.node)

        accepted = await witness.ask("send_each", count=FORM.crowd)
        assert accepted == len(held)

        async def handled() -> bool:
            return bool((await former.ask("counts"))[0] == accepted)

        await until(handled, "the former owner handles an event for each of its clients")
        assert await witness.ask("counts") == [0, 0]


async def test_14_a_sender_goes_on_while_the_clients_of_a_dead_node_are_claimed(redis_server: RedisServer) -> None:
    """Events for the dead node wait at the sender meanwhile."""
    async with nodes(redis_server, "dead", "heir", "sender") as (dead, heir, sender):
        await dead.ask("hold", count=FORM.crowd)
        assert await sender.ask("send_each", count=FORM.crowd) == FORM.crowd  # so it knows the owner of each
        dead.kill()
        await sender.ask("send_on", count=FORM.crowd)
        await heir.ask("hold", count=FORM.crowd)
        await gone(dead.node, sender)

        async def heard() -> bool:
            return bool((await heir.ask("counts"))[0] >= FORM.crowd)

        await until(heard, "the heir handles events of the sender")
        wall, worked = await sender.ask("stop")
        print(
            f"\n14 {FORM.crowd:,} clients claimed: longest standstill of a sender {wall:.3f} s, {worked:.3f} s of CPU"
        )
        assert sender.all("lease lost") == []
        assert worked < STANDSTILL


async def test_18_a_task_that_sends_to_all_waits_once_for_a_hung_node(redis_server: RedisServer) -> None:
    """The node hangs for less than its lease, at default options, and handles all that was accepted afterwards."""
    async with nodes(redis_server, "hung", "healthy", "sender", lease=3 * FORM.hang) as (hung, healthy, sender):
        await hung.ask("hold", count=10)
        await healthy.ask("hold", count=10, start=10)
        await sender.ask("send_each", count=20)
        hung.pause()
        await sender.ask("send_on", count=20)
        await anyio.sleep(FORM.hang)
        hung.resume()
        await sender.ask("stop")
        accepted, waits = await sender.ask("sends")

        async def handled() -> bool:
            counts = [await node.ask("counts") for node in (hung, healthy)]
            return bool(sum(handled for handled, _ in counts) == accepted + 20)

        await until(handled, "both nodes handle all that was accepted")
        to_hung = [seconds for number, seconds in waits if number < 10]
        longest = max(to_hung, default=0.0)
        print(f"\n18 a node hangs: {accepted:,} events accepted, {len(to_hung)} sends to it waited, {longest:.1f} s")
        assert len(to_hung) <= 1
        assert longest < FORM.hang / 2
