"""Without a directory: two nodes that did not hear of each other in time agree in the end on who holds a client."""

from __future__ import annotations

import pytest

from eventbus import ClientTakenOver
from eventbus_core.testing.severed import severable_buses
from tests.bus.support import DEADLINE, Hooked, read, take, tasks, until

URI = "asking://tests"


@pytest.mark.parametrize("takeover", [True, False], ids=["takeover", "plain"])
@pytest.mark.parametrize("cut_first", [True, False], ids=["cut-first", "cut-last"])
async def test_g8_of_two_that_claimed_while_cut_off_the_last_keeps_the_client(takeover: bool, cut_first: bool) -> None:
    """Neither heard of the other; once the line holds again, the one that claimed it first gives it up."""
    async with severable_buses(URI, 3, lease=DEADLINE) as (one, other, sender), tasks() as group:
        cut, whole = (one, other) if cut_first else (other, one)
        cut.transport.sever()
        first = read(group, await one.bus.client("alice", takeover=takeover).__aenter__())
        async with other.bus.client("alice", takeover=takeover) as last:
            cut.transport.mend()
            assert isinstance(await first.over(), ClientTakenOver)
            await sender.bus.send("alice", "note", 1)
            await whole.bus.send("alice", "note", 2)
            assert sorted(event.data for event in await take(last, 2)) == [1, 2]
        assert not first.data


async def test_g9_a_node_that_enters_again_while_nobody_hears_it_gives_up_what_others_claimed() -> None:
    """It has asked who holds its clients and got no answer; that comes later, and counts nevertheless."""
    async with severable_buses(URI, 3, lease=1.0) as (sender, old, new), tasks() as group:
        lost = Hooked()
        old.bus.on_lease_lost(lost)
        alice = read(group, await old.bus.client("alice").__aenter__())
        async with old.bus.client("bob") as bob:
            old.transport.sever()

            async def free() -> bool:
                return await new.bus.locate("alice") is None

            await until(free)
            async with new.bus.client("alice", takeover=False) as after:
                await until(lambda: len(lost) > 0)
                old.transport.mend()
                assert isinstance(await alice.over(), ClientTakenOver)
                await sender.bus.send("alice", "note", 1)
                await sender.bus.send("bob", "note", 2)
                assert [event.data for event in await take(after, 1)] == [1]
                assert [event.data for event in await take(bob, 1)] == [2]
        assert not alice.data
