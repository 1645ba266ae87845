"""A node that leaves: it confirms what it took in once all fates are known, and says where it stopped."""

from __future__ import annotations

from math import inf

from eventbus_core.backend import node_partition
from tests.session.world import Peer, World

OWN = node_partition("b")


def _leaving() -> tuple[World, Peer, Peer, list[tuple[str, int]]]:
    """Two peers, of which *b* has three events of *a* and has stopped; and what *a* learns of its leaving."""
    world = World()
    a, b = world.add("a"), world.add("b", lag=inf)
    told: list[tuple[str, int]] = []
    a.sessions.when_left(lambda session, first: told.append((session.partition, first)))
    a.publish(OWN, 3)
    world.run(0.1)
    b.sessions.stop()
    return world, a, b, told


def test_nothing_is_confirmed_between_stop_and_close() -> None:
    world, a, b, told = _leaving()
    for _, _, ticket, count in b.unhandled:
        ticket.settle(count)
    world.run(3.0)
    assert a.sessions.outgoing(OWN).handled == 1
    assert told == []
    b.sessions.close()
    world.run(0.1)
    assert told == [(OWN, 4)]


def test_what_comes_after_the_stop_is_not_taken_in_and_its_sender_learns_that() -> None:
    world, a, b, told = _leaving()
    c = world.add("c")
    c.sessions.when_left(lambda session, first: told.append((f"c to {session.partition}", first)))
    for peer in (a, c):
        peer.publish(OWN, 2)
    world.run(0.1)
    assert [len(b.stream.get((name, OWN), [])) for name in "ac"] == [3, 0]
    b.sessions.close()
    world.run(0.1)
    assert told == [(OWN, 4), (f"c to {OWN}", 1)]
    a.publish(OWN)
    world.run(0.1)
    assert told[-1] == (OWN, 6)
