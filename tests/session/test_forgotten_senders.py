from __future__ import annotations

from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from eventbus_core.backend import ALL_NODES, Partition, node_partition
from eventbus_core.model.reports import Gap
from eventbus_core.session import dropped_sessions, registry
from eventbus_core.session.wire import Header, pack
from tests.session.world import (
    DROPPED,
    LANE,
    TICK,
    Fate,
    Peer,
    World,
    accounted,
    actions,
    lossy_frames,
    perform,
    settle,
)

PARTITIONS = (LANE, ALL_NODES, node_partition("b"))


def _two_nodes(**options: Any) -> tuple[World, Peer, Peer]:
    world = World(**options)
    a, b = world.add("a"), world.add("b")
    b.join(LANE)
    world.run(1.0)
    return world, a, b


def _forge_restart(receiver: Peer, sender: Peer) -> None:
    """Give *receiver* a forged frame of a later incarnation of *sender*."""
    receiver.receive(pack(Header("default", sender.name, 10**9, 99, node_partition(receiver.name), 1, 0, 0), []))


@given(
    st.lists(lossy_frames, max_size=100),
    st.lists(
        st.tuples(actions, st.sampled_from(["", "forget", "forge", "correct", "cut b", "cut a", "end faults"])),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([0, 700, 1 << 20]),
    st.sampled_from([1, 2, 100]),
)
@settings(max_examples=200)
def test_g10_a_sender_that_was_forgotten_loses_nothing_in_silence(
    faults: list[Fate], scenes: list[tuple[list[tuple[str, int, int]], str]], resend_size: int, max_incoming: int
) -> None:
    """A receiver may forget a live sender, or believe that it restarted: each event still arrives or is in a gap."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "MAX_INCOMING", max_incoming)
        world, a, b = _two_nodes(resend_size=resend_size)
        world.faults(faults)
        for scene, turn in scenes:
            if turn == "forget":
                b.sessions.forget("a")
            elif turn == "forge":
                _forge_restart(b, a)
            elif turn == "correct":
                b.sessions.correct_incarnation("a", a.sessions.incarnation)
            elif turn == "end faults":
                world.end_faults()
            elif turn:
                world.cut.add(turn[-1])
            for action in scene:
                perform(world, a, b, action)
        b.sessions.correct_incarnation("a", a.sessions.incarnation)
        world.cut |= {"a", "b"}
        world.end_faults()
        for partition in PARTITIONS:
            a.publish(partition)
        settle(world)
        missed = sum(accounted(b, a, partition)[1] for partition in PARTITIONS)
        assert missed == b.sessions.missed
        event("some are missing" if missed else "nothing is missing")


@pytest.mark.parametrize("partition", PARTITIONS)
def test_g10_events_lost_before_a_sender_was_forgotten_are_retransmitted_once_it_continues(
    partition: Partition,
) -> None:
    world, a, b = _two_nodes()
    a.publish(partition, 3)
    world.run(1.0)
    world.cut.add("b")
    a.publish(partition, 3)
    world.run(10.0)
    world.cut.clear()
    b.sessions.forget("a")
    world.run(1.0)
    a.publish(partition, 2)
    settle(world)
    assert accounted(b, a, partition) == (8, 0)


@pytest.mark.parametrize("partition", PARTITIONS)
def test_g10_events_lost_before_a_sender_was_forgotten_are_a_gap_of_exactly_that_many_if_not_kept(
    partition: Partition,
) -> None:
    world, a, b = _two_nodes(resend_size=0)
    a.publish(partition, 3)
    world.run(1.0)
    world.cut.add("b")
    a.publish(partition, 4)
    world.run(10.0)
    world.cut.clear()
    b.sessions.forget("a")
    a.publish(partition, 2)
    settle(world)
    assert b.stream["a", partition] == [0, 1, 2, Gap("@a", partition, 4), 7, 8]


def test_g10_the_first_frame_that_a_forgotten_sender_ever_sends_to_a_lane_is_not_lost_in_silence() -> None:
    world = World()
    b = world.add("b")
    b.join(LANE)
    world.run(1.0)
    a = world.add("a")
    a.publish(node_partition("b"))
    world.run(1.0)
    b.sessions.forget("a")
    world.faults([DROPPED])
    a.publish(LANE)
    world.run(TICK / 2)
    a.publish(LANE)
    settle(world)
    assert accounted(b, a, LANE) == (2, 0)


def test_g10_a_lane_joined_while_a_sender_was_forgotten_brings_none_of_its_earlier_events() -> None:
    world = World()
    a, b = world.add("a"), world.add("b")
    world.run(1.0)
    a.publish(LANE, 5)
    world.run(1.0)
    b.sessions.forget("a")
    b.joined.add(LANE)
    b.sessions.joined([LANE], [])
    world.run(1.0)
    a.publish(LANE, 2)
    settle(world)
    assert b.stream["a", LANE] == [5, 6]


def test_g10_a_lane_left_and_joined_again_brings_nothing_in_between_from_a_forgotten_sender() -> None:
    world, a, b = _two_nodes()
    a.publish(LANE, 3)
    world.run(1.0)
    b.sessions.forget("a")
    b.leave(LANE)
    a.publish(LANE, 4)
    world.run(1.0)
    b.join(LANE)
    world.run(1.0)
    a.publish(LANE, 2)
    settle(world)
    assert b.stream["a", LANE] == [0, 1, 2, 7, 8]


def test_g11_the_numbers_of_dropped_sessions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dropped_sessions, "MAX_DROPPED", 2)
    world, a, b = _two_nodes()
    for partition in PARTITIONS:
        a.publish(partition, 2)
    world.run(1.0)
    b.sessions.forget("a")
    assert len(b.sessions._dropped._expected) == 2
    for partition in PARTITIONS:
        a.publish(partition)
    settle(world)
    assert [b.stream["a", partition] for partition in PARTITIONS] == [[0, 1, 2]] * 3
