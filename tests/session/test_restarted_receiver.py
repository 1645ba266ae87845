"""A receiver that restarted under its own id: what its former incarnation did not confirm stays unconfirmed."""

from __future__ import annotations

from math import inf

from eventbus_core.backend import node_partition
from eventbus_core.session.outgoing import Outgoing
from tests.session.world import Peer, World

OWN = node_partition("b")


def _restarted() -> tuple[World, Peer, Outgoing]:
    """A sender of three events that *b* did not handle, and of two that it handled once it had restarted."""
    world = World()
    a, _ = world.add("a"), world.add("b", lag=inf)
    a.publish(OWN, 3)
    world.run(2.0)
    world.add("b")
    world.run(1.0)
    a.publish(OWN, 2)
    world.run(3.0)
    return world, a, a.sessions.outgoing(OWN)


def test_a_later_incarnation_confirms_nothing_of_what_the_former_one_got() -> None:
    world, a, session = _restarted()
    restarted: list[tuple[int, int]] = []
    a.sessions.when_restarted(lambda session: restarted.append(session.restarted()))
    assert session.handled == 1
    a.sessions.correct_incarnation("b", world.peers["b"].sessions.incarnation)
    assert restarted == [(1, 4)]
    assert session.handled == 6
    a.publish(OWN, 2)
    world.run(3.0)
    assert session.handled == session.next == 8


def test_an_incarnation_that_the_directory_does_not_know_changes_nothing() -> None:
    world, a, session = _restarted()
    a.sessions.correct_incarnation("b", world.peers["b"].sessions.incarnation - 1)
    assert session.restart is None
    assert session.handled == 1


def test_a_receiver_that_restarts_after_it_has_confirmed_everything_is_no_restart() -> None:
    world = World()
    a, _ = world.add("a"), world.add("b")
    a.publish(OWN, 3)
    world.run(2.0)
    world.add("b")
    world.run(1.0)
    a.publish(OWN, 2)
    world.run(3.0)
    assert a.sessions.outgoing(OWN).restart is None
    assert a.sessions.outgoing(OWN).handled == 6
