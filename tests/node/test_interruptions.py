"""A transport that cannot read some partitions, or may have lost frames of them: what the node makes of it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from eventbus import Bus, ClientTakenOver
from eventbus_core.backend import (
    ALL_NODES,
    Claim,
    Disconnected,
    Interrupted,
    Owner,
    Partition,
    lane_partition,
    node_partition,
)
from eventbus_core.model.topics import lane_of
from eventbus_memory import MemoryTransport
from tests.support import Inbox, buses, take, until

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])


async def says(bus: Bus, item: Interrupted | Disconnected) -> None:
    """Have the transport of *bus* yield *item*, and wait until the node has taken it in."""
    transport = bus._node.transport
    assert isinstance(transport, MemoryTransport)
    transport._arrived(item)  # type: ignore[arg-type]
    await until(lambda: not transport._frames)


def lane(topic: str) -> Partition:
    return lane_partition(lane_of(topic, 64))


async def test_a_node_is_connected_once_it_can_read_all_that_it_wants_to() -> None:
    async with buses("memory://interruptions", 1) as (bus,):
        for topic in ("one", "two"):
            bus.on(topic)(Inbox())
        await bus.ready()
        await says(bus, Disconnected("server 1 is away", [lane("one")]))
        await until(lambda: bus.state == "disconnected")
        await says(bus, Disconnected("server 2 is away", [lane("two"), ALL_NODES]))
        await says(bus, Interrupted("server 1 is back", [lane("one")]))
        assert bus.state == "disconnected"
        await says(bus, Interrupted("server 2 is back", [lane("two"), ALL_NODES]))
        await until(lambda: bus.state == "open")
        await says(bus, Disconnected("all are away"))
        await says(bus, Interrupted("server 1 is back", [lane("one")]))
        assert bus.state == "disconnected"
        await says(bus, Interrupted("all are back"))
        await until(lambda: bus.state == "open")


async def test_a_partition_that_was_left_does_not_count() -> None:
    async with buses("memory://interruptions", 1) as (bus,):
        bus.on("one")(inbox := Inbox())
        await bus.ready()
        await says(bus, Disconnected("server 1 is away", [lane("one")]))
        await until(lambda: bus.state == "disconnected")
        bus.off(inbox)
        await until(lambda: lane("one") not in bus._node.lanes.accepted)
        await says(bus, Disconnected("server 1 is still away", []))
        await until(lambda: bus.state == "open")


async def test_clients_are_confirmed_only_if_claims_of_others_may_have_been_missed() -> None:
    async with buses("memory://interruptions", 1, lease=60.0) as (bus,):
        bus.on("one")(Inbox())
        await bus.ready()
        hurried: list[str] = []
        bus._node.receiver.missed.connect(lambda: hurried.append("missed"))
        await says(bus, Interrupted("server 1 is back", [lane("one")]))
        await until(lambda: bus.stats().interruptions == 1)
        assert hurried == []
        for number, partitions in enumerate(([ALL_NODES], [lane("one"), node_partition(bus.node)], None), 1):
            await says(bus, Interrupted("a server is back", partitions))
            await until(lambda: len(hurried) == number)  # noqa: B023


async def test_g8_interruptions_cost_no_question_until_a_client_was_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many clients there are, and however often connections are cut."""
    async with (
        buses("memory://interruptions", 2, lease=60.0) as (a, b),
        a.client("bob") as bob,
        a.client("carol") as carol,
    ):
        asked: list[Sequence[str]] = []
        directory = a._node.directory
        claim = directory.claim

        async def counted(clients: Sequence[str], takeover: bool) -> Sequence[Claim | Owner]:
            asked.append(clients)
            return await claim(clients, takeover)

        monkeypatch.setattr(directory, "claim", counted)

        async def cut() -> None:
            await says(a, Interrupted("it was cut"))
            await until(lambda: not a._node.pool.limits.frozen(), "the clients are confirmed")

        await cut()
        assert [sorted(clients) for clients in asked] == [["bob", "carol"]]
        for _ in range(5):
            await cut()
        assert len(asked) == 1
        await b._node.directory.claim(["bob"], takeover=True)  # of which no message comes
        await cut()
        assert len(asked) == 2
        with pytest.raises(ClientTakenOver):
            await bob.receive()
        await b.send("carol", "n")
        await take(carol, 1)
        await cut()
        assert len(asked) == 2
