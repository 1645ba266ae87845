from __future__ import annotations

from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from eventbus_core.backend import ALL_NODES, node_partition
from eventbus_core.options import BusOptions
from eventbus_core.session import outgoing
from eventbus_core.session.incoming import Ready
from eventbus_core.session.outgoing import Outgoing
from eventbus_core.session.protocol import GRANT
from eventbus_core.session.registry import Sessions
from eventbus_core.session.wire import Header, Note, pack, unpack
from tests.session.world import (
    EMPTY_BODY,
    LANE,
    LIMIT,
    TICK,
    Fate,
    Peer,
    World,
    accounted,
    lossy_frames,
    settle,
)

KIB = 1024


class Watched(World):
    """A world that asserts that no sender has more bytes in flight to *watched* than *bound*."""

    def __init__(self, watched: str, bound: int, **options: Any) -> None:
        super().__init__(**options)
        self.watched = watched
        self.bound = bound
        self.most = 0

    def on_sent(self, sender: Peer, outgoing: Outgoing) -> None:
        receiver = self.peers[self.watched]
        if outgoing.partition == node_partition(self.watched) and not receiver.sessions.missed:
            in_flight = outgoing.position - receiver.handled.get((sender.name, outgoing.partition), 0)
            self.most = max(self.most, in_flight)
            assert in_flight <= self.bound, "more is in flight than the receiver granted"


@given(
    st.lists(lossy_frames, max_size=80),
    st.lists(st.tuples(st.integers(0, 20), st.sampled_from([10, 300, 3000])), min_size=1, max_size=5),
    st.sampled_from([1024, 4096]),
    st.sampled_from([0.0, 0.02, 0.3]),
    st.booleans(),
)
@settings(max_examples=100)
def test_g11_a_sender_has_no_more_in_flight_than_was_granted_and_never_stalls_for_good(
    faults: list[Fate],
    bursts: list[tuple[int, int]],
    budget: int,
    lag: float,
    crowded: bool,
) -> None:
    """Unhandled bytes stay within the window and one event, and a lost grant stalls no sender for good."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outgoing, "FIRST_WINDOW", 1024)
        largest = 3100
        world = Watched("b", max(1024, budget) + 2 * EMPTY_BODY + largest, frame_size=2048)
        a, b = world.add("a"), world.add("b", lag=lag, receive_budget=budget)
        others = [world.add(name) for name in "cd"] if crowded else []
        world.run(1.0)
        world.faults(faults)
        for count, size in bursts:
            for sender in (a, *others):
                sender.publish(node_partition("b"), count, size)
            world.run(0.1)
        world.cut |= {"a", "b", "c", "d"} & world.peers.keys()
        world.end_faults()
        settle(world)
        for sender in (a, *others):
            accounted(b, sender, node_partition("b"))
        event("the window was used" if world.most > budget // 2 else "the window was not needed")


@pytest.mark.parametrize(("size", "window"), [(1000, 256 * KIB), (64_000, 512 * KIB)])
def test_g11_more_bytes_may_be_in_flight_if_events_are_large(size: int, window: int) -> None:
    world = Watched("b", window + size + 2 * EMPTY_BODY, receive_budget=1024 * KIB)
    a, _ = world.add("a"), world.add("b", lag=0.05)
    world.run(1.0)
    a.publish(node_partition("b"), 8192 * KIB // size, size)
    world.run(3.0)
    assert world.most > window * 3 // 4


def _pauses(world: World, sender: Peer, receiver: Peer, seconds: float) -> list[float]:
    """Keep *sender* busy on the lane; return how long each pause of over 0.2 s at *receiver* was."""
    pauses = []
    last, came = world.now, len(receiver.stream.get((sender.name, LANE), []))
    end = world.now + seconds
    while world.now < end:
        if sum(map(len, sender.queues.get(LANE, []))) < 100_000:
            sender.publish(LANE, 50, 200)
        world.run(0.01)
        if (count := len(receiver.stream.get((sender.name, LANE), []))) > came:
            pauses.append(world.now - last)
            last, came = world.now, count
    pauses.append(world.now - last)
    return [pause for pause in pauses if pause > 0.2]


@pytest.mark.parametrize("slow_consumers", [1, 3])
def test_g11_slow_consumers_delay_a_lane_once_and_no_longer_than_the_timeout(slow_consumers: int) -> None:
    world = World(slow_consumer_timeout=2.0)
    a, b = world.add("a"), world.add("b", receive_budget=64_000)
    slow = [world.add(f"slow-{n}", lag=float("inf"), receive_budget=16_000 + n) for n in range(slow_consumers)]
    for peer in (b, *slow):
        peer.join(LANE)
    world.run(1.0)
    pauses = _pauses(world, a, b, 20.0)
    assert len(pauses) == 1
    assert pauses[0] <= 2.0 + 3 * TICK
    assert _received_in_order(b, a) > 100


def _received_in_order(receiver: Peer, sender: Peer) -> int:
    """Assert that *receiver* got the events of the lane in order and without a gap; return how many."""
    stream = receiver.stream[sender.name, LANE]
    assert stream == list(range(len(stream)))
    return len(stream)


def test_g11_a_slow_consumer_that_recovers_gets_its_events_or_gaps_and_counts_again() -> None:
    world = World(slow_consumer_timeout=1.0, resend_size=30_000)
    a, b, c = world.add("a"), world.add("b"), world.add("c", lag=float("inf"), receive_budget=10_000)
    b.join(LANE)
    c.join(LANE)
    world.run(1.0)
    _pauses(world, a, b, 5.0)
    world.cut.add("c")  # as brokers do with a reader that is too slow
    _pauses(world, a, b, 1.0)
    c.lag = 0.01
    c.unhandled = [(world.now, order, ticket, count) for _, order, ticket, count in c.unhandled]
    world.end_faults()
    assert _pauses(world, a, b, 5.0) == []
    settle(world)
    assert accounted(b, a, LANE)[1] == 0
    received, missed = accounted(c, a, LANE)
    assert received > 0
    assert missed > 0


def test_g11_a_receiver_that_always_uses_its_window_is_no_slow_consumer() -> None:
    world = World(slow_consumer_timeout=0.5)
    a, b, c = world.add("a"), world.add("b"), world.add("c", lag=0.1, receive_budget=5_000)
    a.publish(LANE)
    b.join(LANE)
    c.join(LANE)
    world.run(1.0)
    _pauses(world, a, b, 5.0)
    assert any(a.queues.values()), "the sender had to wait all the time"
    largest_frame = 5_000 + 300
    behind = a.sessions.outgoing(LANE).position - c.handled["a", LANE]
    assert behind <= 5_000 + largest_frame


def test_g11_a_receiver_that_left_a_lane_no_longer_delays_its_senders() -> None:
    world = World(slow_consumer_timeout=2.0)
    a, b, c = world.add("a"), world.add("b"), world.add("c", lag=0.1, receive_budget=5_000)
    b.join(LANE)
    c.join(LANE)
    world.run(1.0)
    _pauses(world, a, b, 1.0)
    c.leave(LANE)
    assert _pauses(world, a, b, 5.0) == []


def test_an_idle_bus_sends_nothing() -> None:
    world = World()
    a, b, c = world.add("a"), world.add("b"), world.add("c")
    b.join(LANE)
    for partition in (LANE, ALL_NODES, node_partition("b")):
        a.publish(partition, 100)
    b.publish(node_partition("a"))
    settle(world)
    c.join(LANE)
    settle(world)
    sent = world.sent
    world.run(60.0)
    assert world.sent == sent


def test_a_receiver_sends_about_one_grant_per_half_window() -> None:
    world = World(receive_budget=100_000, frame_size=1024)
    a, b = world.add("a"), world.add("b")
    world.run(1.0)
    sent = world.sent
    a.publish(node_partition("b"), 1000, 1000)
    frames = b.sessions
    world.run(1.0)
    assert accounted(b, a, node_partition("b")) == (1000, 0)
    assert frames.duplicates == 0
    assert world.sent - sent - 1000 <= 1_020_000 / 50_000 + 5


def test_g11_a_grant_to_a_former_incarnation_gives_no_credit_to_the_next() -> None:
    world = World()
    a = world.add("a")
    b = world.add("b", lag=float("inf"), receive_budget=10_000)
    world.run(1.0)
    a.publish(node_partition("b"), 100, 1000)
    world.run(1.0)
    again = world.add("a")
    late = [ticket for _, _, ticket, _ in b.unhandled]
    world.run(1.0)
    again.publish(node_partition("b"), 400, 1000)
    for ticket in late:
        ticket.settle(1)
    world.run(1.0)
    sent = again.sessions.outgoing(node_partition("b")).position
    assert sent <= outgoing.FIRST_WINDOW + 2_000


def test_g5_a_closing_node_still_gets_credit_for_its_own_reports() -> None:
    leaver, other = (Sessions(BusOptions(), name, number, ordered=True) for number, name in enumerate("ab", 1))
    to_other = leaver.outgoing(node_partition("b"), "b")
    leaver.close()
    room = to_other.available_bytes()
    grant = Note(GRANT, to_other.session, leaver.incarnation, 2 * room, 0)
    frame = other.outgoing(node_partition("a"), "a").pack((), 0, [grant], 0.0)
    assert list(leaver.receive(*unpack(frame.data, LIMIT), 0.0)) == []
    assert to_other.available_bytes() > room


def test_no_credit_is_given_to_nor_by_a_node_that_has_not_entered() -> None:
    """Neither takes the notes of the other, so each grant would be a frame for nothing."""
    entered, entering = (Sessions(BusOptions(), "a", incarnation, ordered=True) for incarnation in (1, 0))
    assert granted(entered, incarnation=0) == []
    assert granted(entered, incarnation=1) == [GRANT]
    assert granted(entering, incarnation=1) == []
    entering.begin(2)
    assert granted(entering, incarnation=1, first=2) == [GRANT]


def granted(sessions: Sessions, *, incarnation: int, first: int = 1) -> list[str]:
    """Return the kinds of the notes to node b that follow from a frame of it."""
    header = Header("default", "b", incarnation, 1, ALL_NODES, first, 1, 0)
    for item in sessions.receive(*unpack(pack(header, [b"\x80"]), 1000), 0.0):
        assert isinstance(item, Ready)
        item.ticket.expect(0)
    return sorted({note.kind for note in sessions.take_notes().get("b", [])})
