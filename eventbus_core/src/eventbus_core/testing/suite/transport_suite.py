"""The contract of :class:`Transport`, one clause for each test."""

from __future__ import annotations

from typing import NamedTuple

import anyio
import pytest
from hypothesis import strategies as st

from eventbus_core.backend import ALL_NODES, Frame, Partition, lane_partition, node_partition
from eventbus_core.testing.hosts import fresh_namespace
from eventbus_core.testing.simulation.bare_nodes import LANE, OTHER, BareNode, bare_nodes, numbered
from eventbus_core.testing.suite.fixtures import UnderTest
from eventbus_core.testing.suite.guarantees import capabilities_of, for_all, naming, scenario
from eventbus_core.testing.waiting import tasks, until

BURST = 200
LARGEST = 64 * 1024 * 1024
LONGEST_NAME = 64
"""Characters of a namespace or a node at most."""
WAITING_FRAMES = 1000
WAITING_SIZE = 4 * 1024
"""Together four times the default ``receive_budget``."""


class Place(NamedTuple):
    """A node in its namespace."""

    namespace: str
    node: str


def lookalikes() -> list[tuple[Place, Place]]:
    """Return pairs of places whose names become equal if they are joined without care."""
    unique = fresh_namespace()
    pairs = [(Place(unique, f"b{dot}n{dot}c"), Place(f"{unique}{dot}n{dot}b", "c")) for dot in (".", "-", "_")]
    return [*pairs, (Place(unique, "a"), Place(unique.upper(), "a")), (Place(unique, "a"), Place(f"{unique}.a", "a"))]


class TransportSuite(UnderTest):
    """The contract that every transport keeps, whatever its capabilities."""

    @scenario()
    async def test_g10_frames_published_after_join_arrive(self, uri: str) -> None:
        """Once ``join`` has returned, every frame that is published from then on arrives."""
        async with bare_nodes(uri) as (one, two):
            for number in range(30):
                await two.join(lane_partition(number))
                await one.publish(lane_partition(number), b"at once")
                await two.got(lane_partition(number), b"at once")

    @scenario()
    async def test_g10_frames_that_arrive_before_receive_are_kept(self, uri: str) -> None:
        """``join`` works before ``receive`` is iterated, and frames that arrive meanwhile are kept."""
        async with tasks() as group, bare_nodes(uri, receiving=False) as (one, two):
            await two.join(LANE)
            await one.publish(LANE, b"early")
            group.start_soon(two.run)
            await two.got(LANE, b"early")

    @scenario()
    async def test_g10_frames_that_arrive_while_the_reader_is_busy_are_kept(self, uri: str) -> None:
        """As many bytes as a node grants to its senders may wait for its reader; less only with ``Interrupted``."""
        async with tasks() as group, bare_nodes(uri, receiving=False) as (one, two):
            busy, frames = anyio.Event(), numbered(WAITING_FRAMES, "." * WAITING_SIZE)
            await two.join(LANE)
            group.start_soon(two.run, busy)
            await one.publish(LANE, b"first")
            await two.got(LANE, b"first")  # from here on it reads no more until it is told
            for index in range(0, len(frames), BURST):
                await one.publish(LANE, *frames[index : index + BURST])
            busy.set()  # the reader goes on, until its transport is closed
            if not two.interruptions:
                await two.got(LANE, *frames)

    @scenario()
    async def test_g10_bursts_arrive_whole(self, uri: str) -> None:
        """Without faults no frame of a burst is lost, neither the first nor the last."""
        async with bare_nodes(uri) as (one, two):
            await two.join(LANE, OTHER)
            for number in range(10):
                burst = numbered(BURST, f"{number}-")
                await one.write(*[Frame(lane, data) for data in burst for lane in (LANE, OTHER)])
                await two.got(LANE, *burst)
                await two.got(OTHER, *burst)

    @scenario()
    async def test_g2_a_frame_arrives_once(self, uri: str) -> None:
        """Without faults no frame is doubled, not even at a node that joined twice."""
        async with bare_nodes(uri) as (one, two):
            await two.join(LANE)
            await two.join(LANE, OTHER)
            await one.publish(LANE, *numbered(BURST))
            await one.publish(LANE, b"last")
            await two.got(LANE, *numbered(BURST), b"last")
            assert sorted(two.of(LANE)) == sorted([*numbered(BURST), b"last"]), "frames arrived more than once"

    @scenario(needs="ordered")
    async def test_g4_frames_arrive_in_order(self, uri: str) -> None:
        """A transport that declares ``ordered`` keeps the order of one sender's frames to one partition."""
        async with bare_nodes(uri) as (one, two):
            await two.join(LANE)
            for number in range(10):
                await one.publish(LANE, *numbered(BURST, f"{number}-"))
            sent = [data for number in range(10) for data in numbered(BURST, f"{number}-")]
            await two.got(LANE, *sent)
            assert two.of(LANE) == sent, f"frames arrived in another order: {two.of(LANE)}"

    @scenario()
    async def test_g4_a_write_that_begins_at_once_is_a_write(self, uri: str) -> None:
        """What ``begin_publish`` writes arrives once, is counted, and is behind what was published before."""
        async with bare_nodes(uri) as (one, two):
            await two.join(LANE)
            sent = numbered(BURST)
            for number, data in enumerate(sent):
                begun = one.transport.begin_publish([Frame(LANE, data)]) if number % 2 else None
                counts = await one.publish(LANE, data) if begun is None else await begun()
                if counts is not None and one.transport.capabilities.counts_receivers:
                    assert list(counts) == [1], f"the counts of frame {number} are {counts}"
            await two.got(LANE, *sent)
            assert sorted(two.of(LANE)) == sorted(sent), "frames arrived more than once"
            assert two.of(LANE) == sent or not one.transport.capabilities.ordered, "frames arrived in another order"

    @scenario()
    async def test_g10_writes_of_different_routes_run_at_the_same_time(self, uri: str) -> None:
        """``publish`` may run once for each route at a time: every frame arrives, in order if that is declared."""
        async with bare_nodes(uri) as (one, two):
            lanes = one_lane_of_each_route(one)
            await two.join(*lanes)

            async def publish(lane: Partition) -> None:
                for number in range(10):
                    await one.publish(lane, *numbered(BURST, f"{lane}-{number}-"))

            async with anyio.create_task_group() as group:
                for lane in lanes:
                    group.start_soon(publish, lane)
            for lane in lanes:
                sent = [data for number in range(10) for data in numbered(BURST, f"{lane}-{number}-")]
                await two.got(lane, *sent)
                assert len(two.of(lane)) == len(sent), "frames arrived more than once"
                assert two.of(lane) == sent or not one.transport.capabilities.ordered, f"{lane} was put out of order"

    @scenario()
    async def test_g3_every_node_that_joined_gets_the_frame(self, uri: str) -> None:
        """A frame to a partition that many nodes joined reaches each of them."""
        async with bare_nodes(uri, "n0", "n1", "n2", "n3") as (one, *others):
            for each in (one, *others):
                await each.join(ALL_NODES)
            await one.publish(ALL_NODES, b"to all")
            for each in others:
                await each.got(ALL_NODES, b"to all")

    @scenario()
    async def test_g1_frames_keep_to_their_partition(self, uri: str) -> None:
        """A frame reaches only nodes that joined its partition, and arrives under the name of that partition."""
        async with bare_nodes(uri) as (one, two):
            mine, other = node_partition("n1"), node_partition("n0")
            await one.join(other)
            await two.join(mine, LANE)
            for partition in (mine, other, LANE, OTHER, mine, LANE):
                await one.publish(partition, partition.encode())
            await two.got(mine, mine.encode())
            await two.got(LANE, LANE.encode())
            assert all(data == partition.encode() for partition, data in two.received), two.received
            assert {frame.partition for frame in two.received} == {mine, LANE}

    @scenario()
    async def test_g7_frames_published_after_leave_do_not_arrive(self, uri: str) -> None:
        """After ``leave``, once frames in flight have arrived, the partition is silent until it is joined again."""
        async with bare_nodes(uri) as (one, two):
            await two.join(LANE, OTHER)
            await two.transport.leave([LANE])
            await one.publish(OTHER, b"fence")
            await two.got(OTHER, b"fence")
            for number in range(20):
                await one.publish(LANE, b"too late")
                await one.publish(OTHER, b"%d" % number)
            await two.got(OTHER, *numbered(20))
            assert two.of(LANE) == [], f"frames of a partition that was left still arrive: {two.of(LANE)[:3]}"
            await two.join(LANE)
            await one.publish(LANE, b"again")
            await two.got(LANE, b"again")

    @scenario(needs="counts_receivers")
    async def test_g5_zero_receivers_is_a_fact(self, uri: str) -> None:
        """A transport that declares ``counts_receivers`` returns zero for exactly the frames without a receiver."""
        async with bare_nodes(uri) as (one, two):
            assert await one.publish(LANE, b"a", b"b") == [0, 0]
            await two.join(LANE)
            counts = await one.write(Frame(OTHER, b"c"), Frame(LANE, b"d"), Frame(OTHER, b"e"))
            assert counts is not None
            assert [count > 0 for count in counts] == [False, True, False], f"the counts are {counts}"
            await two.transport.leave([LANE])
            await until(lambda: has_no_receiver(one, LANE), "a partition that was left has no receivers")
            await two.join(LANE)
            await two.transport.aclose()
            await until(lambda: has_no_receiver(one, LANE), "a partition has no receivers once they closed")

    @scenario()
    async def test_g6_the_largest_frame_arrives(self, uri: str) -> None:
        """A frame of ``max_frame_size`` bytes arrives whole, and the transport goes on after it."""
        data = bytes(range(256)) * (min(capabilities_of(uri).max_frame_size, LARGEST) // 256)
        async with bare_nodes(uri) as (one, two):
            await two.join(LANE)
            await one.publish(LANE, data)
            await two.got(LANE, data)
            await one.publish(LANE, b"next")
            await two.got(LANE, b"next")
            assert two.interruptions == 0, "the frame broke the connection"

    def test_g6_any_bytes_arrive_equal_and_unshared(self, uri: str, anyio_backend_name: str) -> None:
        """Data arrives equal and immutable: as ``bytes``."""

        def check(contents: list[bytes]) -> None:
            anyio.run(send_and_receive, contents, backend=anyio_backend_name)

        async def send_and_receive(contents: list[bytes]) -> None:
            async with bare_nodes(uri) as (one, two):
                await two.join(LANE)
                await one.publish(LANE, *contents, b"the last")
                await two.got(LANE, *contents, b"the last")
                assert all(type(frame.data) is bytes for frame in two.received), "received data is not bytes"
                assert sorted(two.of(LANE)) == sorted([*contents, b"the last"])

        with naming(self.test_g6_any_bytes_arrive_equal_and_unshared):
            for_all(check, examples=self.examples, contents=st.lists(st.binary(min_size=1, max_size=300), max_size=5))

    @scenario()
    async def test_g12_names_of_full_length_are_kept_apart(self, uri: str) -> None:
        """Namespaces and nodes of 64 characters work, and their last character counts."""
        space = fresh_namespace().ljust(LONGEST_NAME - 1, "x")
        first, second = ("n" * (LONGEST_NAME - 1) + end for end in "12")
        async with (
            bare_nodes(uri, first, second, namespace=f"{space}1") as (one, two),
            bare_nodes(uri, first, second, namespace=f"{space}2") as (stranger, other),
        ):
            for each in (one, two, stranger, other):
                await each.join(node_partition(each.transport.node), ALL_NODES)
            await one.publish(node_partition(second), b"to the second node")
            await two.publish(node_partition(first), b"to the first node")
            await one.publish(ALL_NODES, b"to all")
            await stranger.publish(ALL_NODES, b"elsewhere")
            await one.got(node_partition(first), b"to the first node")
            await two.got(node_partition(second), b"to the second node")
            await two.got(ALL_NODES, b"to all")
            await other.got(ALL_NODES, b"elsewhere")
            for each, wanted in ((one, b"to the first node"), (two, b"to the second node")):
                addressed = [frame.data for frame in each.received if frame.partition != ALL_NODES]
                assert addressed == [wanted], f"{each.transport.node} received {addressed}"
                assert b"elsewhere" not in each.of(ALL_NODES), "a frame crossed from another namespace"

    @scenario()
    async def test_g12_no_name_crosses_a_namespace(self, uri: str) -> None:
        """However namespaces and nodes are named, no frame crosses from one namespace to another."""
        for first, second in lookalikes():
            async with (
                bare_nodes(uri, first.node, "sender", namespace=first.namespace) as (one, sender),
                bare_nodes(uri, second.node, "sender", namespace=second.namespace) as (other, stranger),
            ):
                await one.join(node_partition(first.node), ALL_NODES)
                await other.join(node_partition(second.node), ALL_NODES)
                for partition in (node_partition(first.node), node_partition(second.node), ALL_NODES):
                    await stranger.publish(partition, b"from a stranger")
                    await sender.publish(partition, b"from a friend")
                await one.got(node_partition(first.node), b"from a friend")
                await one.got(ALL_NODES, b"from a friend")
                await other.got(node_partition(second.node), b"from a stranger")
                strange = [frame for frame in one.received if frame.data != b"from a friend"]
                assert not strange, f"{first} received frames sent in {second}"


def one_lane_of_each_route(node: BareNode) -> list[Partition]:
    """Return a lane of each server; skip the test if there is only one."""
    lanes = {node.transport.route(lane): lane for lane in map(lane_partition, range(64))}
    if len(lanes) < 2:
        pytest.skip("the backend has one route for all partitions")
    return list(lanes.values())


async def has_no_receiver(sender: BareNode, partition: Partition) -> bool:
    """Return whether the transport counts no receiver for a frame to *partition*."""
    return await sender.publish(partition, b"?") == [0]
