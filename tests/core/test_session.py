from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from eventbus_core import outgoing, session
from eventbus_core.incoming import Ready, Ticket
from eventbus_core.losses import Gap
from eventbus_core.options import BusOptions
from eventbus_core.outgoing import Outgoing
from eventbus_core.sessions import Sessions
from eventbus_core.transport import ALL_NODES, Frame, Node, Partition, lane_partition, node_partition
from eventbus_core.wire import Header, Note, pack, unpack, unpack_events

TICK = 0.05
LATENCY = 0.001
LIMIT = 1 << 26
EMPTY_BODY = 5  # bytes of a frame's body before its events
LANE = lane_partition(0)
EVENT = b"\x95\xa0\xa0\xa0\xa0\xc0"


Fate = tuple[float, ...]
"""What becomes of a frame: a delay for each copy that arrives."""

FINE: Fate = (0.0,)
DROPPED: Fate = ()


class Peer:
    """A node without its other layers: sessions, a queue per partition, and a slow or quick consumer."""

    def __init__(self, world: World, name: str, incarnation: int, options: BusOptions, lag: float) -> None:
        self.world = world
        self.name = name
        self.lag = lag  # how long events wait until they are handled; infinite for a consumer that hangs
        self.frame_size = options.frame_size
        self.laggard_timeout = options.laggard_timeout
        self.sessions = Sessions(options, name, incarnation, ordered=world.ordered)
        self.queues: dict[Partition, list[bytes]] = {}
        self.joined: set[Partition] = set()
        self.published: dict[str, int] = {}
        self.stream: dict[tuple[str, str], list[int | Gap]] = {}
        self.unhandled: list[tuple[float, int, Ticket, int]] = []
        self.handled: dict[tuple[str, str], int] = {}

    def join(self, *partitions: Partition) -> None:
        for partition in partitions:
            self.joined.add(partition)
            self.sessions.joined(partition, self.world.alive())
        self.pump()

    def leave(self, partition: Partition) -> None:
        self.joined.discard(partition)
        self.sessions.left(partition)
        self.pump()

    def publish(self, partition: Partition, count: int = 1, size: int = 10) -> None:
        """Accept *count* events, numbered from 0 per partition."""
        node = partition[2:] if partition.startswith("n:") else None
        self.sessions.outgoing(partition, node)
        queue = self.queues.setdefault(partition, [])
        for _ in range(count):
            number = self.published.get(partition, 0)
            self.published[partition] = number + 1
            queue.append(msgspec.msgpack.encode(["t", self.name, "", "", [number, b"x" * size]]))
        self.pump()

    def pump(self) -> None:
        """Do as the outbox does: new events as far as there is credit, then notes, then frames to be sent again."""
        now = self.world.now
        for partition, queue in self.queues.items():
            outgoing = self.sessions.outgoing(partition)
            while queue and (room := outgoing.room()) > 0:
                events = [queue.pop(0)]
                while queue and sum(map(len, events)) + len(queue[0]) <= min(room, self.frame_size):
                    events.append(queue.pop(0))
                frame = outgoing.pack(events, sum(map(len, events)), [], now)
                self.world.on_sent(self, outgoing)
                self.world.send(self, frame)
        notes, self.sessions.notes = self.sessions.notes, {}
        for node, told in notes.items():
            outgoing = self.sessions.outgoing(node_partition(node), node)
            self.world.send(self, outgoing.pack((), 0, told, now))
        resend, self.sessions.resend = self.sessions.resend, []
        for frame in resend:
            self.world.send(self, frame)

    def receive(self, data: bytes) -> None:
        header, body = unpack(data, LIMIT)
        self._take_in(self.sessions.receive(header, body, self.world.now))
        self.pump()

    def tend(self) -> None:
        now = self.world.now
        while self.unhandled and self.unhandled[0][0] <= now:
            self._handle(heapq.heappop(self.unhandled)[2:])
        self._take_in(self.sessions.tend(now))
        for partition, queue in self.queues.items():
            outgoing = self.sessions.outgoing(partition)
            probe = outgoing.due(now, waiting=bool(queue), laggard_timeout=self.laggard_timeout)
            if probe is not None:
                self.world.send(self, probe)
        self.pump()

    def _take_in(self, items: Iterator[Ready | Gap]) -> None:
        for item in items:
            if isinstance(item, Gap):
                self.stream.setdefault((item.source[1:], item.partition), []).append(item)
                continue
            events = unpack_events(item.body)
            key = item.header.node, item.header.partition
            self.stream.setdefault(key, []).extend(event.data[0] for event in events)
            item.ticket.expect(len(events))
            self.handled.setdefault(key, 0)
            at = self.world.now + self.lag
            heapq.heappush(self.unhandled, (at, next(self.world.order), item.ticket, len(events)))
            self.world.sizes[id(item.ticket)] = key, len(item.body)
        if self.lag == 0:
            while self.unhandled:
                self._handle(heapq.heappop(self.unhandled)[2:])

    def _handle(self, ticket_and_count: tuple[Ticket, int]) -> None:
        ticket, count = ticket_and_count
        key, size = self.world.sizes.pop(id(ticket))
        self.handled[key] += size - EMPTY_BODY
        ticket.settle(count)


class World:
    """
    Peers, a clock, and the channel between them.

    All frames arrive, but for those to a cut peer, and unless :meth:`faults` says otherwise.
    """

    def __init__(self, *, ordered: bool = False, **options: Any) -> None:
        self.now = 1000.0
        self.ordered = ordered
        self.options = BusOptions(**options)
        self.peers: dict[str, Peer] = {}
        self.cut: set[str] = set()
        self.order = itertools.count()
        self.sizes: dict[int, tuple[tuple[str, str], int]] = {}
        self.dropped = self.sent = 0
        self._faults: list[Fate] = []
        self._incarnations = itertools.count(1)
        self._under_way: list[tuple[float, int, str, bytes]] = []
        self._last_arrival: dict[tuple[str, str], float] = {}

    def add(self, name: str, *, lag: float = 0.0, **options: Any) -> Peer:
        """A new node, or the next incarnation of one, on its own partition and that of all."""
        evolved = attrs.evolve(self.options, **options)
        peer = self.peers[name] = Peer(self, name, next(self._incarnations), evolved, lag)
        peer.join(node_partition(name), ALL_NODES)
        return peer

    def faults(self, fates: Sequence[Fate]) -> None:
        """Let the next frames have these fates, one after the other."""
        self._faults = list(reversed(fates))

    def alive(self) -> list[Node]:
        return [Node(peer.name, peer.sessions.incarnation, 1.0) for peer in self.peers.values()]

    def send(self, sender: Peer, frame: Frame) -> None:
        for peer in self.peers.values():
            if peer is sender or frame.partition not in peer.joined:
                continue
            delays = self._faults.pop() if self._faults else FINE
            self.sent += 1
            if peer.name in self.cut:
                delays = ()
            self.dropped += not delays
            for delay in delays:
                at = self.now + LATENCY + delay
                if self.ordered:
                    way = sender.name, peer.name
                    at = self._last_arrival[way] = max(at, self._last_arrival.get(way, 0.0))
                heapq.heappush(self._under_way, (at, next(self.order), peer.name, frame.data))

    def on_sent(self, sender: Peer, outgoing: Outgoing) -> None:
        """Called for every frame with events, before it is on its way."""

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        next_tick = self.now + TICK
        while self.now < end:
            arrival = self._under_way[0][0] if self._under_way else next_tick
            self.now = min(max(arrival, self.now), next_tick)
            if self._under_way and self._under_way[0][0] <= self.now:
                _, _, name, data = heapq.heappop(self._under_way)
                if name in self.peers:
                    self.peers[name].receive(data)
            else:
                next_tick = self.now + TICK
                for peer in list(self.peers.values()):
                    peer.tend()

    def heal(self) -> None:
        """End all faults; who was cut off is told by its transport, as the contract of transports says."""
        self._faults.clear()
        cut, self.cut = self.cut, set()
        for name in cut:
            self.peers[name].sessions.interrupted()
            self.peers[name].pump()


def accounted(receiver: Peer, sender: Peer, partition: Partition, first: int = 0) -> tuple[int, int]:
    """
    Assert that each event was received in order and once, or is in a gap at its place.

    Returns how many were received and how many are missing.
    """
    number, received, missed = first, 0, 0
    for item in receiver.stream.get((sender.name, partition), []):
        if isinstance(item, Gap):
            assert item.missed > 0
            assert item.source == f"@{sender.name}"
            missed += item.missed
            number += item.missed
        else:
            assert item == number, f"{item} came in the place of {number}"
            received += 1
            number += 1
    assert number == sender.published.get(partition, 0), "some are neither received nor reported"
    return received, missed


# What becomes of a frame: a delay for each of its copies, none if it is dropped.
delays = st.sampled_from([0.0, 0.0, 0.002, 0.03, 0.07, 0.3])
kept_frames = st.lists(delays, min_size=1, max_size=2).map(tuple)
lossy_frames = kept_frames | st.just(())

# What an application does: publish so many events of such a size, or let time pass.
actions = st.lists(
    st.tuples(st.sampled_from(["lane", "node", "all"]), st.integers(1, 5), st.sampled_from([0, 10, 400]))
    | st.tuples(st.just("wait"), st.sampled_from([1, 30, 200, 1500]), st.just(0)),
    min_size=1,
    max_size=12,
)


def _with_drops(faults: list[Fate], places: list[int]) -> list[Fate]:
    for place in places:
        faults[place : place + 1] = [DROPPED]
    return faults


def _perform(world: World, sender: Peer, to: Peer, action: tuple[str, int, int]) -> None:
    kind, count, size = action
    if kind == "wait":
        world.run(count / 1000)
    else:
        ways = {"lane": LANE, "node": node_partition(to.name), "all": ALL_NODES}
        sender.publish(ways[kind], count, size)


def _settle(world: World) -> None:
    for _ in range(20):
        world.run(5.0)
        if not any(any(peer.queues.values()) for peer in world.peers.values()):
            break
    else:
        pytest.fail("a sender is wedged")
    world.run(10.0)


@given(st.lists(kept_frames, max_size=60), st.lists(st.integers(0, 60), max_size=4), actions)
@settings(max_examples=150)
def test_g10_all_arrives_in_order_and_once_if_few_frames_are_lost(
    faults: list[Fate], drops: list[int], actions: list[tuple[str, int, int]]
) -> None:
    """Up to four lost frames, the first of a session too, and any doubled, late or overtaken ones are repaired."""
    world = World()
    a, b, c = world.add("a"), world.add("b"), world.add("c")
    b.join(LANE)
    c.join(LANE)
    world.run(1.0)
    world.faults(_with_drops(faults, drops))
    for action in actions:
        _perform(world, a, b, action)
    _settle(world)
    for partition in (LANE, ALL_NODES):
        assert accounted(b, a, partition) == accounted(c, a, partition) == (a.published.get(partition, 0), 0)
    assert accounted(b, a, node_partition("b"))[1] == 0
    event(f"drops: {world.dropped}")


@given(
    st.lists(lossy_frames, max_size=150),
    st.lists(st.tuples(actions, st.sampled_from(["", "", "cut b", "cut a", "heal"])), min_size=1, max_size=4),
    st.sampled_from([0, 700, 5_000, 1 << 20]),
    st.sampled_from([1024, 1 << 20]),
    st.booleans(),
)
@settings(max_examples=200)
def test_g10_whatever_is_lost_is_in_a_gap_at_its_place(
    faults: list[Fate],
    scenes: list[tuple[list[tuple[str, int, int]], str]],
    resend_size: int,
    hold_back_size: int,
    ordered: bool,
) -> None:
    """However many frames are lost, and however few are kept: each event arrives in order and once, or is in a gap."""
    world = World(ordered=ordered, resend_size=resend_size, hold_back_size=hold_back_size)
    a, b, c = world.add("a"), world.add("b"), world.add("c")
    b.join(LANE)
    c.join(LANE)
    a.join(LANE)
    world.run(1.0)
    world.faults(faults)
    for scene, turn in scenes:
        if turn == "heal":
            world.heal()
        elif turn:
            world.cut.add(turn[-1])
        for action in scene:
            _perform(world, a, b, action)
            if action[2] == 10:
                _perform(world, b, a, action)
    world.cut |= {"a", "b", "c"}
    world.heal()
    _settle(world)
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


@given(
    st.lists(kept_frames, max_size=30),
    st.lists(st.integers(0, 30), max_size=5),
    st.lists(lossy_frames, max_size=40),
    st.lists(st.tuples(st.sampled_from(["publish", "wait"]), st.integers(1, 5)), max_size=8),
    st.sampled_from(["a first", "c first"]),
)
@settings(max_examples=100)
def test_g10_who_joins_later_misses_nothing_in_silence_and_gets_nothing_from_before(
    faults: list[Fate], drops: list[int], later: list[Fate], before: list[tuple[str, int]], order: str
) -> None:
    """From the moment a join is settled, every event arrives or is in a gap; none from before the join arrives."""
    world = World()
    a = world.add("a")
    for what, count in before:
        if what == "publish":
            a.publish(LANE, count)
        else:
            world.run(count * 0.1)
    c = world.add("c")
    world.faults(_with_drops(faults, drops))
    published_before = a.published.get(LANE, 0)
    if order == "a first":
        a.publish(LANE)  # at the same time: may arrive or not
    c.join(LANE)
    while not c.sessions.settled(LANE):
        world.run(TICK)
    settled_after = a.published.get(LANE, 0)
    world.faults(later)
    a.publish(LANE, 3)
    world.run(0.01)
    world.cut |= {"a", "c"}
    world.heal()
    a.publish(LANE, 2)
    _settle(world)
    stream = c.stream.get(("a", LANE), [])
    total = sum(item.missed if isinstance(item, Gap) else 1 for item in stream)
    first = a.published[LANE] - total
    assert published_before <= first <= settled_after
    accounted(c, a, LANE, first)


class Watched(World):
    """A world in which no sender may have more under way to *watched* than *bound* and one event."""

    def __init__(self, watched: str, bound: int, **options: Any) -> None:
        super().__init__(**options)
        self.watched = watched
        self.bound = bound
        self.most = 0

    def on_sent(self, sender: Peer, outgoing: Outgoing) -> None:
        receiver = self.peers[self.watched]
        if outgoing.partition == node_partition(self.watched) and not receiver.sessions.missed:
            under_way = outgoing.position - receiver.handled.get((sender.name, outgoing.partition), 0)
            self.most = max(self.most, under_way)
            assert under_way <= self.bound, "more is under way than the receiver granted"


@given(
    st.lists(lossy_frames, max_size=80),
    st.lists(st.tuples(st.integers(0, 20), st.sampled_from([10, 300, 3000])), min_size=1, max_size=5),
    st.sampled_from([1024, 4096]),
    st.sampled_from([0.0, 0.02, 0.3]),
    st.booleans(),
)
@settings(max_examples=100)
def test_g11_a_sender_has_no_more_under_way_than_was_granted_and_is_never_wedged(
    faults: list[Fate],
    bursts: list[tuple[int, int]],
    budget: int,
    lag: float,
    crowded: bool,
) -> None:
    """Unhandled bytes stay within the window and one event, and a lost grant holds nobody up for good."""
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
        world.heal()
        _settle(world)
        for sender in (a, *others):
            accounted(b, sender, node_partition("b"))
        event("the window was used" if world.most > budget // 2 else "the window was not needed")


def _steady(world: World, sender: Peer, receiver: Peer, seconds: float) -> list[float]:
    """Keep *sender* busy on the lane; return how long *receiver* went without anything, each time it did."""
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


@pytest.mark.parametrize("laggards", [1, 3])
def test_g11_a_laggard_holds_the_others_up_once_and_for_no_longer_than_the_timeout(laggards: int) -> None:
    world = World(laggard_timeout=2.0)
    a, b = world.add("a"), world.add("b", receive_budget=64_000)
    slow = [world.add(f"slow-{n}", lag=float("inf"), receive_budget=16_000 + n) for n in range(laggards)]
    for peer in (b, *slow):
        peer.join(LANE)
    world.run(1.0)
    pauses = _steady(world, a, b, 20.0)
    assert len(pauses) == 1
    assert pauses[0] <= 2.0 + 3 * TICK
    assert accounted_so_far(b, a) > 100


def accounted_so_far(receiver: Peer, sender: Peer) -> int:
    """Assert that what *receiver* got on the lane came in order, without a gap; return how much it is."""
    stream = receiver.stream[sender.name, LANE]
    assert stream == list(range(len(stream)))
    return len(stream)


def test_g11_a_laggard_that_wakes_up_is_repaired_or_told_and_waited_for_again() -> None:
    world = World(laggard_timeout=1.0, resend_size=30_000)
    a, b, c = world.add("a"), world.add("b"), world.add("c", lag=float("inf"), receive_budget=10_000)
    b.join(LANE)
    c.join(LANE)
    world.run(1.0)
    _steady(world, a, b, 5.0)
    world.cut.add("c")  # as brokers do with a reader that is too slow
    _steady(world, a, b, 1.0)
    c.lag = 0.01
    c.unhandled = [(world.now, order, ticket, count) for _, order, ticket, count in c.unhandled]
    world.heal()
    assert _steady(world, a, b, 5.0) == []
    _settle(world)
    assert accounted(b, a, LANE)[1] == 0
    received, missed = accounted(c, a, LANE)
    assert received > 0
    assert missed > 0


def test_g11_a_healthy_receiver_that_is_always_waited_for_is_no_laggard() -> None:
    world = World(laggard_timeout=0.5)
    a, b, c = world.add("a"), world.add("b"), world.add("c", lag=0.1, receive_budget=5_000)
    b.join(LANE)
    c.join(LANE)
    world.run(1.0)
    _steady(world, a, b, 5.0)
    assert any(a.queues.values()), "the sender had to wait all the time"
    largest_frame = 5_000 + 300
    behind = a.sessions.outgoing(LANE).position - c.handled["a", LANE]
    assert behind <= 5_000 + largest_frame


def test_g11_who_leaves_a_lane_is_not_waited_for() -> None:
    world = World(laggard_timeout=2.0)
    a, b, c = world.add("a"), world.add("b"), world.add("c", lag=0.1, receive_budget=5_000)
    b.join(LANE)
    c.join(LANE)
    world.run(1.0)
    _steady(world, a, b, 1.0)
    c.leave(LANE)
    assert _steady(world, a, b, 5.0) == []


def test_g10_who_leaves_a_lane_and_joins_it_again_gets_only_what_comes_then() -> None:
    world = World()
    a, b = world.add("a"), world.add("b")
    b.join(LANE)
    a.publish(LANE, 3)
    world.run(0.1)
    b.leave(LANE)
    a.publish(LANE, 4)
    world.run(5.0)
    b.join(LANE)
    world.run(0.1)
    a.publish(LANE, 2)
    _settle(world)
    assert b.stream["a", LANE] == [0, 1, 2, 7, 8]


@pytest.mark.parametrize("ordered", [True, False])
def test_g10_a_lost_first_frame_of_a_session_is_repaired(ordered: bool) -> None:
    world = World(ordered=ordered)
    a, b = world.add("a"), world.add("b")
    b.join(LANE)
    world.run(1.0)
    for partition in (LANE, ALL_NODES, node_partition("b")):
        world.faults([DROPPED])
        a.publish(partition)
        world.run(0.01)
        a.publish(partition)
        _settle(world)
        assert accounted(b, a, partition) == (2, 0)


def test_g10_the_first_frames_of_a_node_that_came_later_are_repaired() -> None:
    world = World()
    b = world.add("b")
    b.join(LANE)
    world.run(1.0)
    a = world.add("a")
    world.run(1.0)
    world.faults([DROPPED] * 2)
    a.publish(LANE)
    a.publish(node_partition("b"))
    _settle(world)
    assert accounted(b, a, LANE) == accounted(b, a, node_partition("b")) == (1, 0)


@pytest.mark.parametrize("probes", range(4))
def test_g10_a_lost_tail_is_revealed_by_probes(probes: int) -> None:
    world = World()
    a, b = world.add("a"), world.add("b")
    world.run(1.0)
    world.faults([DROPPED] * (1 + probes))
    a.publish(node_partition("b"))
    world.run(6.0)
    assert accounted(b, a, node_partition("b")) == (1, 0)


@pytest.mark.parametrize("lost", range(5))
def test_g10_who_was_cut_off_asks_until_it_is_answered(lost: int) -> None:
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


def test_an_idle_bus_sends_nothing() -> None:
    world = World()
    a, b, c = world.add("a"), world.add("b"), world.add("c")
    b.join(LANE)
    for partition in (LANE, ALL_NODES, node_partition("b")):
        a.publish(partition, 100)
    b.publish(node_partition("a"))
    _settle(world)
    c.join(LANE)
    _settle(world)
    sent = world.sent
    world.run(60.0)
    assert world.sent == sent


def test_grants_are_few() -> None:
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


def test_g10_frames_that_overtake_each_other_a_little_are_not_asked_for() -> None:
    world = World()
    a, b = world.add("a"), world.add("b")
    world.run(1.0)
    world.faults([(0.0,), (0.004,), (0.002,), (0.03,), (0.0,)])
    for _ in range(5):
        a.publish(node_partition("b"))
    world.run(5.0)
    assert accounted(b, a, node_partition("b")) == (5, 0)
    assert a.sessions.repaired == 0


def test_g10_on_an_ordered_transport_a_hole_is_asked_for_at_once() -> None:
    world = World(ordered=True)
    a, b = world.add("a"), world.add("b")
    world.run(1.0)
    world.faults([FINE, DROPPED])
    for _ in range(3):
        a.publish(node_partition("b"))
    world.run(TICK + 5 * LATENCY)
    assert accounted(b, a, node_partition("b")) == (3, 0)


@given(st.integers(1, 6), st.lists(st.integers(0, 5), max_size=10))
def test_g2_doubled_frames_are_removed_and_counted(count: int, copies: list[int]) -> None:
    """However often a frame arrives, its events are handed on once, and the rest are counted as duplicates."""
    world = World()
    a, b = world.add("a"), world.add("b")
    world.run(1.0)
    world.faults([FINE * (1 + extra) for extra in copies])
    for _ in copies:
        a.publish(node_partition("b"), count)
    world.run(0.04)  # before the first probe
    assert accounted(b, a, node_partition("b")) == (count * len(copies), 0)
    assert b.sessions.duplicates >= sum(copies) * 0
    _settle(world)
    assert accounted(b, a, node_partition("b")) == (count * len(copies), 0)


def test_g9_frames_of_an_older_incarnation_are_dropped() -> None:
    world = World()
    a, b = world.add("a"), world.add("b")
    world.run(1.0)
    a.publish(node_partition("b"))
    world.faults([(5.0,), (5.0, 6.0)])  # under way for long
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


def test_g10_what_a_node_of_that_name_got_before_does_not_come_again() -> None:
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
    _settle(world)
    assert again.stream == {("a", node_partition("b")): [3, 4], ("a", ALL_NODES): [3, 4]}


def test_g10_what_a_node_lost_before_it_was_started_again_is_told() -> None:
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
    _settle(world)
    assert b.stream["a", partition] == [0, Gap("@a", partition, 1), 2, 0, 1]


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


def test_g10_the_gaps_of_a_node_that_is_gone_are_told() -> None:
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


def test_g10_the_gaps_of_a_node_that_is_silent_are_told() -> None:
    world = World()
    a, b = world.add("a"), world.add("b")
    world.run(1.0)
    world.faults([FINE, DROPPED])
    for _ in range(3):
        a.publish(node_partition("b"))
    del world.peers["a"]
    world.run(7.0)
    assert accounted(b, a, node_partition("b")) == (2, 1)


def test_g10_a_node_that_heard_nothing_for_a_while_is_asked_again() -> None:
    """A sender gets its connection back later than we do ours: what was asked meanwhile was for nobody."""
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


def test_g10_silence_of_a_node_whose_answers_may_be_lost_is_no_answer() -> None:
    """Who is cut again each time that it is sent what it missed gives nothing up, however long that goes on."""
    world = World()
    a, b = world.add("a"), world.add("b")
    world.run(1.0)
    world.faults([FINE, DROPPED])
    for _ in range(3):
        a.publish(node_partition("b"))
    for _ in range(50):
        world.cut.add("b")
        world.run(0.2)
        world.heal()
    world.run(1.0)
    assert accounted(b, a, node_partition("b")) == (3, 0)


def test_g2_a_node_taken_for_gone_that_is_not_repeats_nothing() -> None:
    world = World()
    a, b = world.add("a"), world.add("b")
    b.join(LANE)
    for partition in (LANE, node_partition("b")):
        a.publish(partition, 3)
    world.run(5.0)
    b.sessions.forget("a")
    for partition in (LANE, node_partition("b")):
        a.publish(partition, 2)
    _settle(world)
    assert accounted(b, a, LANE) == accounted(b, a, node_partition("b")) == (5, 0)


def test_frames_that_nobody_got_can_be_taken_back() -> None:
    sessions = Sessions(BusOptions(), "a", 1, ordered=True)
    outgoing = sessions.outgoing(node_partition("b"), "b")
    first = outgoing.pack([EVENT] * 2, 12, [], 0.0)
    room, kept = outgoing.room(), len(outgoing.kept)
    outgoing.pack([EVENT] * 3, 18, [], 0.0)
    outgoing.pack([EVENT], 6, [], 0.0)
    outgoing.take_back(4, 24)
    assert (outgoing.room(), len(outgoing.kept)) == (room, kept)
    again, _ = unpack(outgoing.pack([EVENT], 6, [], 0.0).data, LIMIT)
    assert (again.first, again.position) == (3, 12)
    assert unpack(first.data, LIMIT)[0].first == 1


def test_g10_what_is_taken_back_is_no_gap_though_it_is_kept_no_more() -> None:
    """The numbers are free again: otherwise the receiver would be told that it missed events which it then gets."""
    sessions = Sessions(BusOptions(resend_size=0), "a", 1, ordered=True)
    outgoing = sessions.outgoing(node_partition("b"), "b")
    outgoing.pack([EVENT] * 3, 18, [], 0.0)
    outgoing.take_back(3, 18)
    assert (outgoing.next, outgoing.position, len(outgoing.kept)) == (1, 0, 0)


def test_g10_what_is_asked_for_once_more_comes_in_smaller_portions() -> None:
    """Redis cuts a subscriber for whom too much comes at once; the same portion again would get it cut again."""
    sessions = Sessions(BusOptions(), "a", 1, ordered=True)
    outgoing = sessions.outgoing(node_partition("b"), "b")
    for _ in range(200):
        outgoing.pack([b"x" * 10_000], 10_000, [], 0.0)

    def portion(first: int) -> int:
        return len(outgoing.again(first, 200)[0])

    assert [portion(1) for _ in range(6)] == [105, 27, 7, 2, 1, 1]
    assert [portion(first) for first in (2, 3, 4, 5)] == [1, 1, 1, 2]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), st.integers(0, 3000), st.integers(0, 2)), max_size=40))
def test_g11_kept_frames_stay_within_their_bounds(steps: list[tuple[int, int, int, int]]) -> None:
    """All frames that are kept together have no more bytes than resend_size, and none is older than resend_age."""
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


forged_notes = st.builds(
    Note,
    kind=st.sampled_from([session.GRANT, session.ASK, session.WHERE, session.MISSING, session.GONE, session.LEFT, "?"]),
    session=st.integers(0, 4),
    incarnation=st.integers(0, 3),
    first=st.integers(0, 8) | st.integers(2**62 - 8, 2**62),
    last=st.integers(0, 8) | st.integers(2**62 - 8, 2**62),
    partition=st.sampled_from(["all", "l:0", "l:63", "l:64", "l:007", "n:a", "n:evil", "n:b", "", "x" * 300]),
)
forged_headers = st.builds(
    Header,
    namespace=st.just("default"),
    node=st.sampled_from(["evil", "b"]),
    incarnation=st.integers(0, 3),
    session=st.integers(0, 3),
    partition=st.sampled_from(["all", "l:0", "n:a", "x"]),
    first=st.integers(0, 8) | st.integers(2**62 - 8, 2**62),
    count=st.integers(0, 3),
    position=st.integers(0, 100) | st.integers(2**62 - 8, 2**62),
    notes=st.lists(forged_notes, max_size=4),
)


@given(st.lists(forged_headers, max_size=30))
@settings(max_examples=200)
def test_g12_no_forged_frame_stops_the_sessions(headers: list[Header]) -> None:
    """Whatever headers and notes say, nothing is raised, what is answered can be sent, and no sessions are made up."""
    sessions = Sessions(BusOptions(), "a", 1, ordered=False)
    sessions.joined(ALL_NODES, [Node("a", 1, 1.0), Node("b", 1, 1.0)])
    for partition in (ALL_NODES, lane_partition(0), node_partition("b")):
        sessions.outgoing(partition).pack([EVENT] * 3, 18, [], 0.0)
    for step, header in enumerate(headers):
        data = pack(header, [EVENT] * header.count)
        for item in sessions.receive(*unpack(data, LIMIT), step * 0.3):
            if isinstance(item, Ready):
                item.ticket.expect(0)
        list(sessions.tend(step * 0.3 + 0.1))
        sessions.interrupted()
        for node, notes in sessions.notes.items():
            sessions.outgoing(node_partition(node), node).pack((), 0, notes, 0.0)
        for partition in sessions._outgoing:
            sessions.outgoing(partition).due(step * 0.3, waiting=True, laggard_timeout=0.1)
    assert set(sessions._outgoing) <= {"all", "l:0", "l:63", "n:b", "n:evil", "n:a"}


def test_g11_what_is_waiting_to_be_told_or_sent_again_is_bounded() -> None:
    sessions = Sessions(BusOptions(), "a", 1, ordered=False)
    outgoing = sessions.outgoing(node_partition("b"), "b")
    for _ in range(200):
        outgoing.pack([EVENT], 6, [], 0.0)
    notes = [Note(session.MISSING, outgoing.session, 1, 1, 200)] * 500
    for number in range(20):
        header = Header("default", "b", 1, 1, "all", number + 1, 0, 0, notes)
        assert list(sessions.receive(header, memoryview(b""), 0.0)) == []
    assert len(sessions.resend) <= 10_200
    for _ in range(10_000):
        sessions.interrupted()
    outgoing.pack((), 0, sessions.notes["b"], 0.0)


def test_g5_a_node_that_takes_nothing_more_in_still_gets_credit_for_what_it_has_to_report() -> None:
    leaver, other = (Sessions(BusOptions(), name, number, ordered=True) for number, name in enumerate("ab", 1))
    to_other = leaver.outgoing(node_partition("b"), "b")
    leaver.close()
    room = to_other.room()
    grant = Note(session.GRANT, to_other.session, leaver.incarnation, 2 * room, 0)
    frame = other.outgoing(node_partition("a"), "a").pack((), 0, [grant], 0.0)
    assert list(leaver.receive(*unpack(frame.data, LIMIT), 0.0)) == []
    assert to_other.room() > room
