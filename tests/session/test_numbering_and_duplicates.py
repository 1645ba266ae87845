from __future__ import annotations

from hypothesis import event, given, settings
from hypothesis import strategies as st

from eventbus_core.backend import ALL_NODES, node_partition
from eventbus_core.options import BusOptions
from eventbus_core.session.registry import Sessions
from eventbus_core.session.wire import unpack
from tests.session.world import (
    EVENT,
    FINE,
    LANE,
    LIMIT,
    Fate,
    World,
    accounted,
    actions,
    kept_frames,
    perform,
    settle,
    with_drops,
)


@given(st.lists(kept_frames, max_size=60), st.lists(st.integers(0, 60), max_size=4), actions)
@settings(max_examples=150)
def test_g10_all_events_arrive_once_and_in_order_if_few_frames_are_lost(
    faults: list[Fate], drops: list[int], actions: list[tuple[str, int, int]]
) -> None:
    """Up to four lost frames are retransmitted, even the first; duplicates and reordering do no harm."""
    world = World()
    a, b, c = world.add("a"), world.add("b"), world.add("c")
    b.join(LANE)
    c.join(LANE)
    world.run(1.0)
    world.faults(with_drops(faults, drops))
    for action in actions:
        perform(world, a, b, action)
    settle(world)
    for partition in (LANE, ALL_NODES):
        assert accounted(b, a, partition) == accounted(c, a, partition) == (a.published.get(partition, 0), 0)
    assert accounted(b, a, node_partition("b"))[1] == 0
    event(f"drops: {world.dropped}")


@given(st.integers(1, 6), st.lists(st.integers(0, 5), max_size=10))
def test_g2_duplicated_frames_are_dropped_and_counted(count: int, copies: list[int]) -> None:
    """However often a frame arrives, its events are handed on once, and the others are counted as duplicates."""
    world = World()
    a, b = world.add("a"), world.add("b")
    world.run(1.0)
    world.faults([FINE * (1 + extra) for extra in copies])
    for _ in copies:
        a.publish(node_partition("b"), count)
    world.run(0.04)  # before the first probe
    assert accounted(b, a, node_partition("b")) == (count * len(copies), 0)
    assert b.sessions.duplicates >= sum(copies) * 0
    settle(world)
    assert accounted(b, a, node_partition("b")) == (count * len(copies), 0)


def test_g10_frames_reordered_by_milliseconds_are_not_requested_again() -> None:
    world = World()
    a, b = world.add("a"), world.add("b")
    world.run(1.0)
    world.faults([(0.0,), (0.004,), (0.002,), (0.03,), (0.0,)])
    for _ in range(5):
        a.publish(node_partition("b"))
    world.run(5.0)
    assert accounted(b, a, node_partition("b")) == (5, 0)
    assert a.sessions.repaired == 0


def test_g9_frames_of_a_former_incarnation_are_dropped() -> None:
    world = World()
    a, b = world.add("a"), world.add("b")
    world.run(1.0)
    a.publish(node_partition("b"))
    world.faults([(5.0,), (5.0, 6.0)])  # in flight for long
    a.publish(node_partition("b"))
    a.publish(node_partition("b"))
    world.run(0.01)
    again = world.add("a")
    world.run(1.0)
    again.publish(node_partition("b"), 2)
    world.run(0.5)
    assert b.stream["a", node_partition("b")][-2:] == [0, 1]
    before = list(b.stream["a", node_partition("b")])
    stale = b.sessions.stale
    world.run(10.0)
    assert b.stream["a", node_partition("b")] == before
    assert b.sessions.stale == stale + 3


def test_g10_a_restarted_receiver_does_not_get_events_from_before_its_restart() -> None:
    world = World()
    a, b = world.add("a"), world.add("b")
    world.run(1.0)
    a.publish(node_partition("b"), 3)
    a.publish(ALL_NODES, 3)
    world.run(5.0)
    again = world.add("b")
    world.run(1.0)
    assert b is not again
    a.publish(node_partition("b"), 2)
    a.publish(ALL_NODES, 2)
    settle(world)
    assert again.stream == {("a", node_partition("b")): [3, 4], ("a", ALL_NODES): [3, 4]}


def test_g2_a_live_sender_that_was_taken_for_dead_causes_no_duplicates() -> None:
    world = World()
    a, b = world.add("a"), world.add("b")
    b.join(LANE)
    for partition in (LANE, node_partition("b")):
        a.publish(partition, 3)
    world.run(5.0)
    b.sessions.forget("a")
    for partition in (LANE, node_partition("b")):
        a.publish(partition, 2)
    settle(world)
    assert accounted(b, a, LANE) == accounted(b, a, node_partition("b")) == (5, 0)


def test_frames_that_reached_no_receiver_can_be_taken_back() -> None:
    sessions = Sessions(BusOptions(), "a", 1, ordered=True)
    outgoing = sessions.outgoing(node_partition("b"), "b")
    first = outgoing.pack([EVENT] * 2, 12, [], 0.0)
    room, kept = outgoing.available_bytes(), len(outgoing.kept)
    outgoing.pack([EVENT] * 3, 18, [], 0.0)
    outgoing.pack([EVENT], 6, [], 0.0)
    outgoing.take_back(4, 24)
    assert (outgoing.available_bytes(), len(outgoing.kept)) == (room, kept)
    again, _ = unpack(outgoing.pack([EVENT], 6, [], 0.0).data, LIMIT)
    assert (again.first, again.position) == (3, 12)
    assert unpack(first.data, LIMIT)[0].first == 1


def test_g10_numbers_taken_back_are_used_again_even_if_their_frames_were_not_kept() -> None:
    """Otherwise the receiver would report a gap of events that it then gets."""
    sessions = Sessions(BusOptions(resend_size=0), "a", 1, ordered=True)
    outgoing = sessions.outgoing(node_partition("b"), "b")
    outgoing.pack([EVENT] * 3, 18, [], 0.0)
    outgoing.take_back(3, 18)
    assert (outgoing.next, outgoing.position, len(outgoing.kept)) == (1, 0, 0)
