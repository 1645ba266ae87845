"""Events that the fast decoder refuses are read one by one: one of them takes no other with it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus import EventDataError
from eventbus_core.model.event import Event, encode_data
from eventbus_core.model.salvage import MAX_VALUES, salvage_event, salvage_events

encode = msgspec.msgpack.encode
DEEP = 100_000

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(max_size=300),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=40), inner, max_size=20),
    max_leaves=30,
)


def event(number: int, data: bytes) -> bytes:
    """An encoded event whose data is *data* as it is."""
    return encode(("order", "a", "b", f"1-{number}", msgspec.Raw(data), {"n": str(number)}, number))


def nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\x01"


@given(st.lists(plain, max_size=8))
def test_events_are_cut_where_they_end(values: list[Any]) -> None:
    pieces = [event(number, encode(value)) for number, value in enumerate(values)]
    read = salvage_events(b"".join(pieces), len(pieces))
    assert read == [msgspec.msgpack.decode(piece, type=Event) for piece in pieces]


@given(st.lists(plain, min_size=1, max_size=6), st.integers(0, 5), st.integers(20_000, 60_000))
def test_data_that_is_nested_too_deeply_hurts_only_who_reads_it(values: list[Any], place: int, depth: int) -> None:
    place %= len(values)
    pieces = [event(n, nested(depth) if n == place else encode(value)) for n, value in enumerate(values)]
    read = salvage_events(b"".join(pieces), len(pieces))
    assert [found.id for found in read if found is not None] == [f"1-{n}" for n in range(len(values))]
    for number, found in enumerate(read):
        assert found is not None
        assert (found.headers, found.epoch) == ({"n": str(number)}, number)
        if number == place:
            with pytest.raises(EventDataError):
                _ = found.data
        else:
            assert encode(found.data) == encode(values[number])


def test_an_event_whose_other_fields_are_wrong_is_left_out_alone() -> None:
    wrong = encode(("order", 7, "b", "1-1", None))
    read = salvage_events(event(0, b"\xc0") + wrong + event(2, b"\xc0"), 3)
    assert [found and found.id for found in read] == ["1-0", None, "1-2"]


def test_what_comes_after_a_length_that_is_wrong_is_counted_as_unread() -> None:
    """A list of three with one element takes the next fields for its own; nothing after it can be found."""
    read = salvage_events(event(0, b"\xc0") + event(1, b"\xdd\xff\xff\xff\xff") + event(2, b"\xc0"), 3)
    assert [found and found.id for found in read] == ["1-0", None, None]


def test_an_event_within_the_data_of_another_is_not_taken_for_one() -> None:
    """The data ends the event that it is in, and begins another: as many as were announced, but not the same."""
    inserted = b"\x81\xa1p\x01" + b"\xc0\x00" + event(9, b"\xc0")
    assert salvage_events(event(0, b"\xc0") + event(1, inserted) + event(2, b"\xc0"), 3) == [None] * 3


@given(st.binary(max_size=200), st.integers(0, 5))
def test_any_bytes_give_as_many_places_as_were_announced(junk: bytes, count: int) -> None:
    assert len(salvage_events(junk, count)) == count


def test_a_frame_of_very_many_values_is_given_up() -> None:
    """Reading them one by one would stop the node."""
    many = event(1, b"\xdd" + (2 * MAX_VALUES).to_bytes(4) + b"\xc1" * (2 * MAX_VALUES))
    assert salvage_events(event(0, b"\xc0") + many, 2)[1] is None


def test_a_single_event_is_read_with_its_data_as_it_is() -> None:
    found = salvage_event(event(3, nested(DEEP)))
    assert found is not None
    assert len(memoryview(found.raw)) == DEEP + 1
    assert salvage_event(b"\x91\x01") is None


@pytest.mark.parametrize("raw", [b"", b"\x01\x02", b"\x93\x01", b"\xc1", nested(DEEP)], ids=range(5))
def test_raw_data_that_cannot_be_decoded_is_not_accepted(raw: bytes) -> None:
    with pytest.raises(EventDataError, match="data cannot be sent"):
        encode_data(msgspec.Raw(raw), 2**20)


def test_raw_data_that_can_be_decoded_is_sent_as_it_is() -> None:
    assert encode_data(msgspec.Raw(b"\x93\x01\x02\x03"), 2**20) == b"\x93\x01\x02\x03"
