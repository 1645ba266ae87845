"""What a node gets that joins a namespace in use."""

from __future__ import annotations

import eventbus
from tests.support import Inbox, buses, fence

ASKING = True


async def test_g10_a_handler_made_before_the_bus_opens_gets_nothing_older(uri: str) -> None:
    """What was published before the node joined is not sent again to it, and counts as no loss."""
    async with buses(uri, 1) as (a,):
        for number in range(10):
            await a.publish("n", number)
        await a.flush()
        late = eventbus.connect(uri, namespace=a.namespace, node="late")
        late.on("n")(inbox := Inbox())
        async with late:
            await a.publish("n", "now")
            await inbox.got(1)
            await fence([a], [late])
            assert inbox.data == ["now"]
            assert late.stats().missed == 0
