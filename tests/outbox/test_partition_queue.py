"""How the events of a partition are cut into frames."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eventbus_core.backend import ALL_NODES
from eventbus_core.options import BusOptions
from eventbus_core.outbox.partition_queue import PartitionQueue
from eventbus_core.session.registry import Sessions
from eventbus_core.session.wire import MAX_FRAME_EVENTS


def filled(events: list[bytes]) -> PartitionQueue:
    """Return a queue in which *events* wait."""
    session = Sessions(BusOptions(), "n1", 1, ordered=True).outgoing(ALL_NODES)
    queue = PartitionQueue(session, None, BusOptions().outbox_size)
    queue.events, queue.size = list(events), sum(map(len, events))
    return queue


@given(st.lists(st.integers(1, 40)), st.integers(1, 100))
def test_a_frame_keeps_its_limits_and_the_order(sizes: list[int], limit: int) -> None:
    events = [bytes([size]) * size for size in sizes]
    queue = filled(events)
    cut: list[bytes] = []
    while queue.events:
        part, size = queue.cut(limit)
        assert part
        assert size == sum(map(len, part))
        assert size <= limit or len(part) == 1
        cut += part
        assert queue.size == sum(map(len, events[len(cut) :]))
    assert cut == events


def test_a_frame_has_no_more_events_than_a_receiver_takes() -> None:
    queue = filled([b"x"] * (2 * MAX_FRAME_EVENTS + 1))
    assert [len(queue.cut(limit)[0]) for limit in (10**9, 10**9, 10**9)] == [MAX_FRAME_EVENTS, MAX_FRAME_EVENTS, 1]
