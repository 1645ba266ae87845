from __future__ import annotations

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from eventbus_core.backend import ALL_NODES, Frame, lane_partition, node_partition
from eventbus_core.model.reports import Gap
from eventbus_core.options import BusOptions
from eventbus_core.session.protocol import MISSING
from eventbus_core.session.registry import Sessions
from eventbus_core.session.wire import Header, Note, unpack
from tests.session.world import (
    DROPPED,
    EVENT,
    FINE,
    LANE,
    LATENCY,
    LIMIT,
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


@given(
    st.lists(lossy_frames, max_size=150),
    st.lists(st.tuples(actions, st.sampled_from(["", "", "cut b", "cut a", "end faults"])), min_size=1, max_size=4),
    st.sampled_from([0, 700, 5_000, 1 << 20]),
    st.sampled_from([1024, 1 << 20]),
    st.booleans(),
)
@settings(max_examples=200)
def test_g10_every_event_arrives_or_is_in_a_gap_at_its_place(
    faults: list[Fate],
    scenes: list[tuple[list[tuple[str, int, int]], str]],
    resend_size: int,
    hold_back_size: int,
    ordered: bool,
) -> None:
    """However many frames are lost and however few are kept, each event arrives once and in order, or is in a gap."""
    world = World(ordered=ordered, resend_size=resend_size, hold_back_size=hold_back_size)
    a, b, c = world.add("a"), world.add("b"), world.add("c")
    b.join(LANE)
    c.join(LANE)
    a.join(LANE)
    world.run(1.0)
    world.faults(faults)
    for scene, turn in scenes:
        if turn == "end faults":
            world.end_faults()
        elif turn:
            world.cut.add(turn[-1])
        for action in scene:
            perform(world, a, b, action)
            if action[2] == 10:
                perform(world, b, a, action)
    world.cut |= {"a", "b", "c"}
    world.end_faults()
    settle(world)
    missed = 0
    for partition in (LANE, ALL_NODES, node_partition("b")):
        missed += accounted(b, a, partition)[1]
    for partition in (LANE, ALL_NODES, node_partition("a")):
        missed += accounted(a, b, partition)[1]
    for sender in (a, b):
        for partition in (LANE, ALL_NODES):
            missed += accounted(c, sender, partition)[1]
    assert missed == sum(peer.sessions.missed for peer in world.peers.values())
    event("some are missing" if missed else "nothing is missing")


@pytest.mark.parametrize("ordered", [True, False])
def test_g10_a_lost_first_frame_of_a_session_is_retransmitted(ordered: bool) -> None:
    world = World(ordered=ordered)
    a, b = world.add("a"), world.add("b")
    b.join(LANE)
    world.run(1.0)
    for partition in (LANE, ALL_NODES, node_partition("b")):
        world.faults([DROPPED])
        a.publish(partition)
        world.run(0.01)
        a.publish(partition)
        settle(world)
        assert accounted(b, a, partition) == (2, 0)


def test_g10_lost_first_frames_of_a_node_that_entered_later_are_retransmitted() -> None:
    world = World()
    b = world.add("b")
    b.join(LANE)
    world.run(1.0)
    a = world.add("a")
    world.run(1.0)
    world.faults([DROPPED] * 2)
    a.publish(LANE)
    a.publish(node_partition("b"))
    settle(world)
    assert accounted(b, a, LANE) == accounted(b, a, node_partition("b")) == (1, 0)


@pytest.mark.parametrize("probes", range(4))
def test_g10_probes_reveal_a_lost_last_frame(probes: int) -> None:
    world = World()
    a, b = world.add("a"), world.add("b")
    world.run(1.0)
    world.faults([DROPPED] * (1 + probes))
    a.publish(node_partition("b"))
    world.run(6.0)
    assert accounted(b, a, node_partition("b")) == (1, 0)


class _ProbedWorld(World):
    """Counts the probes."""

    probes = 0

    def send(self, sender: Peer, frame: Frame) -> None:
        header, _ = unpack(frame.data, LIMIT)
        self.probes += header.session > 0 and header.count == 0
        super().send(sender, frame)


def test_g10_frames_that_come_steadily_need_no_probes_and_a_lost_last_one_is_revealed() -> None:
    world = _ProbedWorld()
    a, b = world.add("a"), world.add("b")
    world.run(1.0)
    for _ in range(10):
        a.publish(node_partition("b"))
        world.run(0.1)
    assert world.probes <= 1, "after the first frame it was not known that more would come"
    world.faults([DROPPED])
    a.publish(node_partition("b"))
    world.run(0.5)
    assert accounted(b, a, node_partition("b")) == (11, 0)


def test_g10_no_probe_follows_once_the_node_has_confirmed_all_events() -> None:
    world = _ProbedWorld()
    a, b = world.add("a"), world.add("b")
    world.run(1.0)
    a.publish(node_partition("b"))
    world.run(2.0)
    assert a.sessions.outgoing(node_partition("b")).handled == 2
    probes = world.probes
    world.run(10.0)
    assert world.probes == probes > 0
    assert accounted(b, a, node_partition("b")) == (1, 0)


@pytest.mark.parametrize("lost", range(5))
def test_g10_a_receiver_that_was_cut_off_asks_until_it_gets_an_answer(lost: int) -> None:
    world = World()
    a, b = world.add("a"), world.add("b")
    world.run(1.0)
    world.cut.add("b")
    a.publish(node_partition("b"))
    a.publish(LANE)
    world.run(30.0)
    assert b.stream == {}
    world.faults([DROPPED] * lost)
    world.cut.clear()
    b.sessions.interrupted()
    world.run(3.0)
    assert accounted(b, a, node_partition("b")) == (1, 0)


def test_g10_on_an_ordered_transport_missing_frames_are_requested_at_once() -> None:
    world = World(ordered=True)
    a, b = world.add("a"), world.add("b")
    world.run(1.0)
    world.faults([FINE, DROPPED])
    for _ in range(3):
        a.publish(node_partition("b"))
    world.run(TICK + 5 * LATENCY)
    assert accounted(b, a, node_partition("b")) == (3, 0)


def test_g10_frames_lost_before_the_sender_restarted_are_reported_as_a_gap() -> None:
    world = World()
    a, b = world.add("a"), world.add("b")
    world.run(1.0)
    partition = node_partition("b")
    world.faults([FINE, DROPPED])
    for _ in range(3):
        a.publish(partition)
    again = world.add("a")  # before the lost one could be sent again
    world.faults([DROPPED])
    again.publish(partition)
    again.publish(partition)
    settle(world)
    assert b.stream["a", partition] == [0, Gap("@a", partition, 1), 2, 0, 1]


def test_g10_missing_events_of_a_dead_sender_are_reported_as_gaps() -> None:
    world = World()
    a, b = world.add("a"), world.add("b")
    world.run(1.0)
    world.faults([FINE, DROPPED, FINE, DROPPED, FINE])
    for _ in range(5):
        a.publish(node_partition("b"))
    world.run(0.01)
    del world.peers["a"]
    b.sessions.forget("a")
    world.run(2 * TICK)
    assert accounted(b, a, node_partition("b")) == (3, 2)


def test_g10_missing_events_of_a_silent_sender_are_reported_as_a_gap() -> None:
    world = World()
    a, b = world.add("a"), world.add("b")
    world.run(1.0)
    world.faults([FINE, DROPPED])
    for _ in range(3):
        a.publish(node_partition("b"))
    del world.peers["a"]
    world.run(7.0)
    assert accounted(b, a, node_partition("b")) == (2, 1)


def test_g10_a_sender_that_was_cut_off_for_seconds_is_asked_again() -> None:
    """A sender that gets its connection back later than the receiver has missed the first requests."""
    world = World()
    a, b = world.add("a"), world.add("b")
    world.run(1.0)
    world.faults([FINE, DROPPED])
    world.cut.add("a")
    for _ in range(3):
        a.publish(node_partition("b"))
    world.run(3.0)
    world.cut.clear()
    world.run(1.0)
    assert accounted(b, a, node_partition("b")) == (3, 0)


def test_g10_a_receiver_that_is_cut_again_and_again_gives_nothing_up() -> None:
    """A receiver may be cut each time that missing frames are retransmitted to it; it still asks again."""
    world = World()
    a, b = world.add("a"), world.add("b")
    world.run(1.0)
    world.faults([FINE, DROPPED])
    for _ in range(3):
        a.publish(node_partition("b"))
    for _ in range(50):
        world.cut.add("b")
        world.run(0.2)
        world.end_faults()
    world.run(1.0)
    assert accounted(b, a, node_partition("b")) == (3, 0)


def test_g10_the_same_request_again_is_answered_with_fewer_bytes() -> None:
    """Redis cuts a subscriber that gets too much at once; the same amount again would get it cut again."""
    sessions = Sessions(BusOptions(), "a", 1, ordered=True)
    outgoing = sessions.outgoing(node_partition("b"), "b")
    for _ in range(200):
        outgoing.pack([b"x" * 10_000], 10_000, [], 0.0)

    def portion(first: int) -> int:
        return len(outgoing.retransmission(first, 200)[0])

    assert [portion(1) for _ in range(6)] == [105, 27, 7, 2, 1, 1]
    assert [portion(first) for first in (2, 3, 4, 5)] == [1, 1, 1, 2]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), st.integers(0, 3000), st.integers(0, 2)), max_size=40))
def test_g11_kept_frames_stay_within_their_bounds(steps: list[tuple[int, int, int, int]]) -> None:
    """The kept frames have no more bytes than resend_size in all, and none is older than resend_age."""
    sessions = Sessions(BusOptions(resend_size=5000, resend_age=10.0), "a", 1, ordered=True)
    now = 1000.0
    packed: dict[int, list[tuple[int, int]]] = {0: [], 1: [], 2: []}
    for lane, count, size, taken_back in steps:
        outgoing = sessions.outgoing(lane_partition(lane))
        outgoing.pack([b"x" * size] * count, count * size, [], now)
        packed[lane].append((count, count * size))
        for _ in range(min(taken_back, len(packed[lane]))):
            outgoing.take_back(*packed[lane].pop())
        everything = [kept for other in range(3) for kept in sessions.outgoing(lane_partition(other)).kept]
        assert sum(len(kept.data) for kept in everything) <= 5000
        now += 1.0
        assert list(sessions.tend(now)) == []
        everything = [kept for other in range(3) for kept in sessions.outgoing(lane_partition(other)).kept]
        assert all(now - kept.at <= 10.0 for kept in everything)
    assert list(sessions.tend(now + 11.0)) == []
    assert not any(sessions.outgoing(lane_partition(lane)).kept for lane in range(3))


def test_g11_waiting_notes_and_retransmissions_are_bounded() -> None:
    sessions = Sessions(BusOptions(), "a", 1, ordered=False)
    outgoing = sessions.outgoing(node_partition("b"), "b")
    for _ in range(200):
        outgoing.pack([EVENT], 6, [], 0.0)
    notes = [Note(MISSING, outgoing.session, 1, 1, 200)] * 500
    for number in range(20):
        header = Header("default", "b", 1, 1, "all", number + 1, 0, 0, notes)
        assert list(sessions.receive(header, memoryview(b""), 0.0)) == []
    assert len(sessions.take_frames()) <= 10_200
    for _ in range(10_000):
        sessions.interrupted()
    assert len(sessions.take_frames()) <= 10_200
