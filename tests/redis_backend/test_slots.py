"""Slots and tags of channels, and whom to believe about the owners of slots."""

from __future__ import annotations

from bisect import bisect

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot as other_key_slot
from redis.exceptions import ResponseError

from eventbus_core.backend import Address, lane_partition, node_partition
from eventbus_redis.cluster.slot_map import (
    Redirection,
    SlotMap,
    SlotRange,
    View,
    most_credible,
    redirection,
)
from eventbus_redis.cluster.slots import SLOTS, key_slot, partition_slot, slot_tag, spread

A, B, C = (Address("127.0.0.9", port) for port in (1, 2, 3))
NAMESPACES = st.from_regex(r"[a-z0-9.-]{1,20}", fullmatch=True)
VIEWS = st.builds(
    View,
    healthy=st.booleans(),
    epoch=st.integers(0, 5),
    ranges=st.lists(st.sampled_from((A, B, C)), min_size=1, max_size=8).map(
        lambda owners: tuple(
            SlotRange(i * SLOTS // len(owners), (i + 1) * SLOTS // len(owners) - 1, owner, ())
            for i, owner in enumerate(owners)
        )
    ),
)


@given(st.text(alphabet="ab{}:é", max_size=12).map(str.encode))
def test_slots_are_those_of_another_client(name: bytes) -> None:
    assert key_slot(name) == other_key_slot(name)


def test_each_slot_has_a_short_tag_that_lies_in_it() -> None:
    tags = [slot_tag(slot) for slot in range(SLOTS)]
    assert [key_slot(f"{{{tag}}}:x".encode()) for tag in tags] == list(range(SLOTS))
    assert max(map(len, tags)) <= 4


@given(st.integers(1, 300), st.integers(0, 1000), st.integers(0, SLOTS - 1))
def test_numbers_in_a_row_lie_evenly(count: int, first: int, turn: int) -> None:
    places = sorted((spread(number) + turn) % SLOTS for number in range(first, first + count))
    for primaries in (1, 3, 6, 12):
        bounds = [(i + 1) * SLOTS // primaries - 1 for i in range(primaries)]
        shares = [0] * primaries
        for place in places:
            shares[bisect(bounds, place - 1)] += 1
        assert max(shares) <= count / primaries + count.bit_length() + 1


@pytest.mark.parametrize("lanes", [1, 8, 64, 100])
@given(NAMESPACES)
def test_lanes_lie_in_slots_of_their_own(lanes: int, namespace: str) -> None:
    places = sorted(partition_slot(lane_partition(lane), namespace) for lane in range(lanes))
    gaps = [(after - before) % SLOTS or SLOTS for before, after in zip(places, places[1:] + places[:1], strict=True)]
    assert max(gaps) <= 2 * SLOTS // lanes


def test_numbered_nodes_share_the_primaries_evenly() -> None:
    for primaries in (3, 12):
        shares = [0] * primaries
        for number in range(1, 4 * primaries + 1):
            shares[partition_slot(node_partition(f"server-{number}"), "default") * primaries // SLOTS] += 1
        assert max(shares) <= 6


@given(st.lists(VIEWS, max_size=6))
def test_the_view_to_believe_is_of_a_healthy_server_with_the_largest_epoch(views: list[View]) -> None:
    found = most_credible(views)
    healthy = [view for view in views if view.healthy]
    if found is None:
        assert not healthy
    else:
        assert found in healthy
        assert all(view.epoch <= found.epoch for view in healthy)


@given(VIEWS, st.dictionaries(st.integers(0, SLOTS - 1), st.sampled_from((A, B, C)), max_size=5), VIEWS)
def test_a_redirection_holds_until_the_next_view(view: View, moved: dict[int, Address], later: View) -> None:
    owners = SlotMap()
    owners.replace(view)
    for slot, owner in moved.items():
        owners.learn(slot, owner)
    for part in view.ranges:
        for slot in (part.start, part.end):
            assert owners.owner(slot) == moved.get(slot, part.primary)
    owners.replace(later)
    assert {owners.owner(slot) for slot in range(SLOTS)} == {part.primary for part in later.ranges}
    assert set(owners.primaries) == {part.primary for part in later.ranges}


def test_a_view_is_parsed() -> None:
    info = b"cluster_enabled:1\r\ncluster_state:ok\r\ncluster_current_epoch:7\r\n"
    slots = [
        [0, 99, [b"127.0.0.9", 1, b"id", []], [b"127.0.0.9", 2, b"id"]],
        [100, 16383, [b"", 3, b"id"], [None, 4, b"id"], [b"?", 5, b"id"]],
    ]
    seeds = [Address("seed", port) for port in (3, 4, 5)]
    view = View.parse(Address("seed", 9), info, slots)
    assert view == View(True, 7, (SlotRange(0, 99, A, (B,)), SlotRange(100, 16383, seeds[0], (seeds[1], seeds[2]))))
    assert view.servers == {A, B, *seeds}


@pytest.mark.parametrize(("info", "slots"), [(b"", []), (None, []), (b"cluster_state:ok", []), (b"x", [[1]])])
def test_other_answers_are_no_view(info: object, slots: object) -> None:
    with pytest.raises(ResponseError, match="CLUSTER SLOTS"):
        View.parse(A, info, slots)


def test_redirections_name_the_server_to_ask() -> None:
    def led(text: str) -> Redirection | None:
        return redirection(Address("seed", 9), ResponseError(text))

    assert led("MOVED 5 127.0.0.9:2") == (False, 5, B)
    assert led("ASK 5 127.0.0.9:2") == (True, 5, B)
    assert led("MOVED 5 :2") == (False, 5, ("seed", 2))
    assert led("MOVED 5 [::1]:2") == led("MOVED 5 ::1:2") == (False, 5, ("::1", 2))
    assert [led(text) for text in ("ERR x", "MOVED 5", "MOVED x :1", "MOVED 99999 :1", "ASK 5 a:b")] == [None] * 5
