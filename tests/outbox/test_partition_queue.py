"""How the events of a partition are cut into frames, and how those that moved are taken out."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus_core.backend import ALL_NODES
from eventbus_core.model.event import Event, encode_event
from eventbus_core.model.salvage import salvage_event
from eventbus_core.options import BusOptions
from eventbus_core.outbox import partition_queue
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


@pytest.mark.parametrize(("size", "events"), [(128, 1024), (64 * 1024, 8), (300 * 1024, 2), (1024 * 1024, 1)])
def test_several_large_events_may_wait(size: int, events: int) -> None:
    """They go in one write; a sender that had to wait for each write would spend more time on that than on events."""
    queue = filled([])
    while queue.has_room():
        queue.events.append(bytes(size))
        queue.size += size
    assert len(queue.events) == events


def event(target: str, number: int) -> bytes:
    return encode_event(Event("n", "@n1", target, str(number), msgspec.Raw(b"\x01")))


_steps = st.one_of(
    st.tuples(st.just("add"), st.sampled_from("abc")),
    st.tuples(st.just("cut"), st.integers(1, 4)),
    st.tuples(st.just("put back"), st.none()),
    st.tuples(st.just("take out"), st.sampled_from("abc")),
    st.tuples(st.just("drain"), st.none()),
)


@given(st.lists(_steps, max_size=40))
def test_what_moved_is_taken_out_whatever_was_cut_off_and_put_back_before(steps: list[tuple[str, object]]) -> None:
    """A plain list of targets and numbers is the model."""
    queue = filled([])
    model: list[tuple[str, int]] = []
    cut: list[bytes] = []
    for number, (step, value) in enumerate(steps):
        if step == "add":
            queue.events.append(event(str(value), number))
            queue.size += len(queue.events[-1])
            model.append((str(value), number))
        elif step == "cut" and queue.events and isinstance(value, int):
            cut, _ = queue.cut(value * len(event("a", 10)))
            del model[: len(cut)]
        elif step == "put back":
            queue.put_back(cut)
            model[:0] = [(read.target, int(read.id)) for read in map(decoded, cut)]
            cut = []
        elif step == "take out":
            taken = queue.take_out(lambda waiting, value=value: waiting.target == value)  # type: ignore[misc]
            assert [(read.target, int(read.id)) for read in taken] == [pair for pair in model if pair[0] == value]
            model = [pair for pair in model if pair[0] != value]
        elif step == "drain":
            queue.drain()
            model = []
        assert [(read.target, int(read.id)) for read in map(decoded, queue.events)] == model
        assert queue.size == sum(map(len, queue.events))


def test_an_event_that_waits_is_read_once_however_often_others_move(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each write to a node that is gone, and each client that moved, looks for what moved."""
    queue = filled([event(f"c{number}", number) for number in range(100)])
    read: list[bytes] = []

    def counted(encoded: bytes) -> Event | None:
        read.append(encoded)
        return salvage_event(encoded)

    monkeypatch.setattr(partition_queue, "salvage_event", counted)
    for number in range(50):
        assert len(queue.take_out(lambda waiting, number=number: waiting.target == f"c{number}")) == 1  # type: ignore[misc]
        queue.put_back(queue.cut(1)[0])
    assert len(read) == 100 + 50


decoded = msgspec.msgpack.Decoder(Event).decode
