"""The contract of :class:`Transport`, one clause a test."""

from __future__ import annotations

from typing import NamedTuple

import anyio
from hypothesis import strategies as st

from eventbus_core.testing.guarantees import capabilities_of, for_all, naming, scenario
from eventbus_core.testing.hosts import fresh_namespace
from eventbus_core.testing.parties import Party, numbered, parties
from eventbus_core.testing.under_test import UnderTest
from eventbus_core.testing.waiting import tasks, until
from eventbus_core.transport import ALL_NODES, Frame, Partition, lane_partition, node_partition

LANE = lane_partition(7)
OTHER = lane_partition(8)
BURST = 200
LARGEST = 64 * 1024 * 1024


class Place(NamedTuple):
    """A node in its namespace."""

    namespace: str
    node: str


def lookalikes() -> list[tuple[Place, Place]]:
    """Return pairs of places that are the same once their names are joined carelessly."""
    unique = fresh_namespace()
    pairs = [(Place(unique, f"b{dot}n{dot}c"), Place(f"{unique}{dot}n{dot}b", "c")) for dot in (".", "-", "_")]
    return [*pairs, (Place(unique, "a"), Place(unique.upper(), "a")), (Place(unique, "a"), Place(f"{unique}.a", "a"))]


class TransportSuite(UnderTest):
    """What the core relies on in a transport, whatever its capabilities."""

    @scenario()
    async def test_g10_what_is_published_after_join_arrives(self, uri: str) -> None:
        """``join`` returns only once every frame that is published from now on will arrive."""
        async with parties(uri) as (one, two):
            for number in range(30):
                await two.join(lane_partition(number))
                await one.publish(lane_partition(number), b"at once")
                await two.got(lane_partition(number), b"at once")

    @scenario()
    async def test_g10_what_comes_before_receive_is_kept(self, uri: str) -> None:
        """``join`` needs nobody who iterates ``receive``, and what arrives meanwhile is there for the one who does."""
        async with tasks() as group, parties(uri, receiving=False) as (one, two):
            await two.join(LANE)
            await one.publish(LANE, b"early")
            group.start_soon(two.run)
            await two.got(LANE, b"early")

    @scenario()
    async def test_g10_bursts_arrive_whole(self, uri: str) -> None:
        """Without faults no frame of a burst is lost, neither its first nor its last."""
        async with parties(uri) as (one, two):
            await two.join(LANE, OTHER)
            for number in range(10):
                burst = numbered(BURST, f"{number}-")
                await one.transport.publish([Frame(lane, data) for data in burst for lane in (LANE, OTHER)])
                await two.got(LANE, *burst)
                await two.got(OTHER, *burst)

    @scenario()
    async def test_g2_a_frame_arrives_once(self, uri: str) -> None:
        """Without faults no frame is doubled, not even for one who joined twice."""
        async with parties(uri) as (one, two):
            await two.join(LANE)
            await two.join(LANE, OTHER)
            await one.publish(LANE, *numbered(BURST))
            await one.publish(LANE, b"last")
            await two.got(LANE, *numbered(BURST), b"last")
            assert sorted(two.of(LANE)) == sorted([*numbered(BURST), b"last"]), "frames came more than once"

    @scenario(needs="ordered")
    async def test_g4_frames_arrive_in_order(self, uri: str) -> None:
        """A transport that says ``ordered`` keeps the order of one sender's frames to one partition."""
        async with parties(uri) as (one, two):
            await two.join(LANE)
            for number in range(10):
                await one.publish(LANE, *numbered(BURST, f"{number}-"))
            sent = [data for number in range(10) for data in numbered(BURST, f"{number}-")]
            await two.got(LANE, *sent)
            assert two.of(LANE) == sent, "frames came in another order"

    @scenario()
    async def test_g3_everyone_who_joined_gets_the_frame(self, uri: str) -> None:
        """A frame to a partition that many joined reaches each of the other nodes."""
        async with parties(uri, "n0", "n1", "n2", "n3") as (one, *others):
            for each in (one, *others):
                await each.join(ALL_NODES)
            await one.publish(ALL_NODES, b"to all")
            for each in others:
                await each.got(ALL_NODES, b"to all")

    @scenario()
    async def test_g1_frames_keep_to_their_partition(self, uri: str) -> None:
        """A frame reaches those who joined its partition, and comes under that partition's name."""
        async with parties(uri) as (one, two):
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
    async def test_g7_what_is_published_after_leave_does_not_arrive(self, uri: str) -> None:
        """Once ``leave`` has returned and what was under way has come, the partition is silent, till joined again."""
        async with parties(uri) as (one, two):
            await two.join(LANE, OTHER)
            await two.transport.leave([LANE])
            await one.publish(OTHER, b"fence")
            await two.got(OTHER, b"fence")
            for number in range(20):
                await one.publish(LANE, b"too late")
                await one.publish(OTHER, b"%d" % number)
            await two.got(OTHER, *numbered(20))
            assert two.of(LANE) == [], "frames of a partition that was left still arrive"
            await two.join(LANE)
            await one.publish(LANE, b"again")
            await two.got(LANE, b"again")

    @scenario(needs="counts_receivers")
    async def test_g5_zero_receivers_is_a_fact(self, uri: str) -> None:
        """A transport that says ``counts_receivers`` returns zero for just the frames that nobody is there to get."""
        async with parties(uri) as (one, two):
            assert await one.publish(LANE, b"a", b"b") == [0, 0]
            await two.join(LANE)
            frames = [Frame(OTHER, b"c"), Frame(LANE, b"d"), Frame(OTHER, b"e")]
            counts = await one.transport.publish(frames)
            assert counts is not None
            assert [count > 0 for count in counts] == [False, True, False], f"the counts are {counts}"
            await two.transport.leave([LANE])
            await until(lambda: nobody(one, LANE), "a partition that was left has no receivers")
            await two.join(LANE)
            await two.transport.aclose()
            await until(lambda: nobody(one, LANE), "a partition whose one receiver has closed has no receivers")

    @scenario()
    async def test_g6_the_largest_frame_arrives(self, uri: str) -> None:
        """A frame of ``max_frame_size`` bytes arrives whole, and the transport goes on after it."""
        data = bytes(range(256)) * (min(capabilities_of(uri).max_frame_size, LARGEST) // 256)
        async with parties(uri) as (one, two):
            await two.join(LANE)
            await one.publish(LANE, data)
            await two.got(LANE, data)
            await one.publish(LANE, b"next")
            await two.got(LANE, b"next")
            assert two.interruptions == 0, "the frame broke the connection"

    def test_g6_any_bytes_arrive_equal_and_unshared(self, uri: str, anyio_backend_name: str) -> None:
        """What arrives is equal to what was sent, and nobody can change it: it is ``bytes``."""

        def check(contents: list[bytes]) -> None:
            anyio.run(exchange, contents, backend=anyio_backend_name)

        async def exchange(contents: list[bytes]) -> None:
            async with parties(uri) as (one, two):
                await two.join(LANE)
                await one.publish(LANE, *contents, b"the last")
                await two.got(LANE, *contents, b"the last")
                assert all(type(frame.data) is bytes for frame in two.received), "others may change what was received"
                assert sorted(two.of(LANE)) == sorted([*contents, b"the last"])

        with naming(self.test_g6_any_bytes_arrive_equal_and_unshared):
            for_all(check, examples=self.examples, contents=st.lists(st.binary(min_size=1, max_size=300), max_size=5))

    @scenario()
    async def test_g12_no_name_crosses_a_namespace(self, uri: str) -> None:
        """However namespaces and nodes are named, no frame of one namespace comes to another."""
        for first, second in lookalikes():
            async with (
                parties(uri, first.node, "sender", namespace=first.namespace) as (one, sender),
                parties(uri, second.node, "sender", namespace=second.namespace) as (other, stranger),
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
                assert not strange, f"{first} received what was sent in {second}"


async def nobody(sender: Party, partition: Partition) -> bool:
    """Return whether the transport says that nobody gets what is sent to *partition*."""
    return await sender.publish(partition, b"?") == [0]
