"""The routing table: events that wait for a node go after the clients that have moved away from it."""

from __future__ import annotations

import msgspec
import pytest

import eventbus
from eventbus_core.backend import Owner, node_partition
from eventbus_core.model.event import Event, encode_event
from eventbus_core.outbox.partition_queue import PartitionQueue
from tests.support import buses, until

NAMES = [f"c{number}" for number in range(300)]


def wait_for(bus: eventbus.Bus, node: str, names: list[str]) -> PartitionQueue:
    """Let two events for each of *names* wait for *node*, which does not exist."""
    outbox = bus._node.outbox
    bus._node.table.remember_all((name, Owner(node, 1, 1)) for name in names)
    queue = outbox.queue(node_partition(node), node)
    for data in (1, 2):
        for name in names:
            raw = msgspec.Raw(msgspec.msgpack.encode(data))
            outbox.add(queue, encode_event(Event("n", bus.address, name, f"{data}-{name}", raw)))
    return queue


def in_queue(queue: PartitionQueue) -> list[tuple[str, int]]:
    events = [msgspec.msgpack.decode(event, type=Event) for event in queue.events]
    return [(event.target, event.data) for event in events]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_g4_events_of_many_clients_that_moved_keep_their_order() -> None:
    """Nothing gives way in between, so all of it is still in the queues."""
    async with buses("memory://tests", 1) as (bus,):
        table, outbox = bus._node.table, bus._node.outbox
        former = wait_for(bus, "dead", NAMES)
        table.remember_all((name, Owner("alive", 2, 2)) for name in NAMES[::2])
        later = outbox.queue(node_partition("alive"), "alive")
        assert in_queue(former) == [(name, data) for data in (1, 2) for name in NAMES[1::2]]
        assert in_queue(later) == [(name, data) for data in (1, 2) for name in NAMES[::2]]
        assert former.size == sum(map(len, former.events))
        assert former.accepted - former.published == len(former.events)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_g11_a_queue_is_looked_through_once_however_many_clients_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead node with 20,000 clients, claimed by another, stopped a mere sender for ten seconds."""
    async with buses("memory://tests", 2) as (a, b):
        former = wait_for(a, "dead", NAMES)
        looked = 0
        take_out = a._node.outbox.take_out

        def counted(*args: object) -> list[Event]:
            nonlocal looked
            looked += 1
            return take_out(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(a._node.outbox, "take_out", counted)
        for name in NAMES:  # nothing gives way in between, so all of it comes in one frame
            b._node.takeover.tell_moved(a.node, name, Owner("alive", 2, 2))
        await until(lambda: not former.events)
        assert 1 <= looked <= 10
