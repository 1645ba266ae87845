"""The outbox: senders that wait for room in it."""

from __future__ import annotations

import anyio

from eventbus_core.backend import node_partition
from tests.support import buses, tasks, until

ASKING = True


async def test_g11_a_sender_that_waits_for_space_is_woken_when_earlier_events_are_rerouted(uri: str) -> None:
    async with buses(uri, 1) as (bus,), tasks() as group:
        outbox = bus._node.outbox
        queue = outbox.queue(node_partition("hung"), "hung")
        looked = anyio.Event()

        async def wait() -> None:
            await outbox.wait_for_room(queue)
            looked.set()

        group.start_soon(wait)
        await until(lambda: outbox.waits == 1)
        outbox.take_out(queue, lambda event: event.target == "bob")
        await until(looked.is_set)
