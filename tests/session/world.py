"""Nodes that consist of their sessions alone, a clock, and a channel between them that loses and delays frames."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import strategies as st

from eventbus_core.backend import ALL_NODES, Frame, Node, Partition, lane_partition, node_partition
from eventbus_core.model.reports import Gap
from eventbus_core.options import BusOptions
from eventbus_core.session.incoming import Ready, Ticket
from eventbus_core.session.outgoing import Outgoing
from eventbus_core.session.registry import Sessions
from eventbus_core.session.wire import unpack, unpack_events

TICK = 0.05
LATENCY = 0.001
LIMIT = 1 << 26
EMPTY_BODY = 5  # bytes of a frame's body before its events
LANE = lane_partition(0)
EVENT = b"\x95\xa0\xa0\xa0\xa0\xc0"


Fate = tuple[float, ...]
"""The delay of each copy of a frame that arrives; none if it is lost."""

FINE: Fate = (0.0,)
DROPPED: Fate = ()


class Peer:
    """A node without its other layers: sessions, a queue per partition, and a slow or fast consumer."""

    def __init__(self, world: World, name: str, incarnation: int, options: BusOptions, lag: float) -> None:
        self.world = world
        self.name = name
        self.lag = lag  # how long events wait until they are handled; infinite for a consumer that hangs
        self.frame_size = options.frame_size
        self.slow_consumer_timeout = options.slow_consumer_timeout
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
        self.sessions.joined(partitions, self.world.alive())
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
        """Send as the outbox does: new events within the credit, then notes, then retransmissions."""
        now = self.world.now
        for partition, queue in self.queues.items():
            outgoing = self.sessions.outgoing(partition)
            while queue and (room := outgoing.available_bytes()) > 0:
                events = [queue.pop(0)]
                while queue and sum(map(len, events)) + len(queue[0]) <= min(room, self.frame_size):
                    events.append(queue.pop(0))
                frame = outgoing.pack(events, sum(map(len, events)), [], now)
                self.world.on_sent(self, outgoing)
                self.world.send(self, frame)
        notes = self.sessions.take_notes()
        for node, told in notes.items():
            self.world.send(self, self.sessions.letters.pack(node_partition(node), told))
        for (node, _), question in self.sessions.letters.take_asked().items():
            self.world.send(self, self.sessions.letters.pack_answer(node, question))
        for frame in self.sessions.take_frames():
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
            probe = outgoing.due_probe(now, waiting=bool(queue), slow_consumer_timeout=self.slow_consumer_timeout)
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

    All frames arrive, except those to a peer that is cut off and those with another fate (:meth:`faults`).
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
        self._in_flight: list[tuple[float, int, str, bytes]] = []
        self._last_arrival: dict[tuple[str, str], float] = {}

    def add(self, name: str, *, lag: float = 0.0, **options: Any) -> Peer:
        """A new node, or the next incarnation of one, on its own partition and that of all."""
        evolved = attrs.evolve(self.options, **options)
        peer = self.peers[name] = Peer(self, name, next(self._incarnations), evolved, lag)
        peer.join(node_partition(name), ALL_NODES)
        return peer

    def faults(self, fates: Sequence[Fate]) -> None:
        """Set the fates of the next frames, one after the other."""
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
                heapq.heappush(self._in_flight, (at, next(self.order), peer.name, frame.data))

    def on_sent(self, sender: Peer, outgoing: Outgoing) -> None:
        """Do nothing; called for every frame with events, before it is sent."""

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        next_tick = self.now + TICK
        while self.now < end:
            arrival = self._in_flight[0][0] if self._in_flight else next_tick
            self.now = min(max(arrival, self.now), next_tick)
            if self._in_flight and self._in_flight[0][0] <= self.now:
                _, _, name, data = heapq.heappop(self._in_flight)
                if name in self.peers:
                    self.peers[name].receive(data)
            else:
                next_tick = self.now + TICK
                for peer in list(self.peers.values()):
                    peer.tend()

    def end_faults(self) -> None:
        """End all faults, and tell each node that was cut off, as its transport would."""
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


# Fates of frames.
delays = st.sampled_from([0.0, 0.0, 0.002, 0.03, 0.07, 0.3])
kept_frames = st.lists(delays, min_size=1, max_size=2).map(tuple)
lossy_frames = kept_frames | st.just(())

# Actions of an application: publish so many events of such a size, or wait so many milliseconds.
actions = st.lists(
    st.tuples(st.sampled_from(["lane", "node", "all"]), st.integers(1, 5), st.sampled_from([0, 10, 400]))
    | st.tuples(st.just("wait"), st.sampled_from([1, 30, 200, 1500]), st.just(0)),
    min_size=1,
    max_size=12,
)


def with_drops(faults: list[Fate], places: list[int]) -> list[Fate]:
    for place in places:
        faults[place : place + 1] = [DROPPED]
    return faults


def perform(world: World, sender: Peer, to: Peer, action: tuple[str, int, int]) -> None:
    kind, count, size = action
    if kind == "wait":
        world.run(count / 1000)
    else:
        ways = {"lane": LANE, "node": node_partition(to.name), "all": ALL_NODES}
        sender.publish(ways[kind], count, size)


def settle(world: World) -> None:
    for _ in range(20):
        world.run(5.0)
        if not any(any(peer.queues.values()) for peer in world.peers.values()):
            break
    else:
        pytest.fail("a sender waits for credit for good")
    world.run(10.0)
