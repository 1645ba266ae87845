"""Leaks that were found: nothing is kept of who is gone."""

from __future__ import annotations

import anyio

from eventbus import Bus
from eventbus_core.testing.simulation.cut_links import cuttable_buses
from tests.support import Inbox, until


def _known(bus: Bus) -> set[str]:
    return bus._node.sessions.nodes()


def _confirmed(bus: Bus, node: str) -> bool:
    queue = bus._node.outbox.known(node)
    return queue is not None and queue.session.handled == queue.session.next


async def test_g11_a_dead_node_is_forgotten() -> None:
    """Once the lease of a node that had nothing waiting is long over, nothing of the sessions with it is kept."""
    async with cuttable_buses("memory://leaks", 3, lease=3.0) as (a, b, c):
        b.bus.on("news")(inbox := Inbox())
        c.bus.on("news")(Inbox())
        for bus in (a.bus, c.bus):
            await bus.broadcast("news")
            await bus.send(b.bus.address, "news")
        await b.bus.send(a.bus.address, "news")
        await inbox.got(4)
        await until(lambda: _known(a.bus) == {"n1", "n2"}, "they have heard of each other")
        for bus in (a.bus, c.bus):
            await until(lambda bus=bus: _confirmed(bus, "n1"), "nothing waits for the word of n1")  # type: ignore[misc]
        b.transport.cut()
        await until(lambda: _known(a.bus) == {"n2"}, "the dead node is forgotten")
        assert a.bus._node.outbox.known("n1") is None
        detector = a.bus._node.detector
        twice = detector._roll_call_at + 0.5
        await until(lambda: detector._roll_call_at > twice, "the roll is called twice more")
        assert _known(a.bus) == {"n2"}


async def test_g11_a_claim_that_was_given_up_leaves_no_handover() -> None:
    """A claim that is cancelled while the former holder is silent is not waited for any more."""
    async with cuttable_buses("memory://leaks", 2, lease=10) as (a, b), a.bus.client("alice"):
        a.transport.cut()
        with anyio.move_on_after(0.2):
            async with b.bus.client("alice"):
                raise AssertionError("a confirmed it")
        assert not b.bus._node.takeover._handovers
        a.transport.restore()
