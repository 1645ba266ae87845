from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus_core.errors import EventDataError, EventTooLarge
from eventbus_core.model.event import (
    MAX_HEADERS,
    Event,
    check_encoded,
    check_headers,
    encode_data,
    encode_event,
    encode_unread,
)
from eventbus_core.model.salvage import salvage_events
from tests import strategies

LIMIT = 1024 * 1024


decode_event = msgspec.msgpack.Decoder(Event).decode


def _event(data: object) -> Event:
    return Event("type", "@node", "target", "1", msgspec.Raw(encode_data(data, LIMIT)))


def _sent(event: Event) -> Event:
    """The event as another node gets it."""
    return decode_event(encode_event(event))


@given(strategies.data)
def test_g6_data_arrives_equal_and_unshared(data: Any) -> None:
    """What a receiver reads equals what was sent, and is an object of its own, for every receiver."""
    event = _event(data)
    first, second = _sent(event), copy(event)
    for received in (first, second):
        assert received.data == data
        assert encode_data(received.data, LIMIT) == encode_data(data, LIMIT)
    if isinstance(data, list | dict):
        assert first.data is not data
        assert second.data is not data
        assert first.data is not second.data


def test_g6_later_changes_by_the_sender_do_not_reach_the_event() -> None:
    data = {"numbers": [1, 2]}
    event = _event(data)
    data["numbers"].append(3)
    assert event.data == {"numbers": [1, 2]}


@given(strategies.events)
def test_an_event_is_read_from_the_wire_as_it_was_sent(event: Event) -> None:
    """All that an event says reaches the other node."""
    received = _sent(event)
    assert received == event
    for name in Event.__struct_fields__:
        assert getattr(received, name) == getattr(event, name) or name == "raw"
    assert bytes(received.raw) == bytes(event.raw)
    assert (repr(received), received.topic) == (repr(event), event.topic)


@given(strategies.events, strategies.data)
def test_an_event_encoded_with_its_data_in_one_step_reads_the_same(event: Event, data: Any) -> None:
    new = (event.type, event.source, event.target, event.id)
    raw = msgspec.Raw(encode_data(data, LIMIT))
    assert decode_event(encode_unread((*new, data, None, event.epoch))) == Event(*new, raw, epoch=event.epoch)


_raws = st.binary(max_size=6).map(msgspec.Raw)
_around_raws = st.recursive(
    strategies.scalars | _raws,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=5,
)


@given(st.lists(_around_raws, min_size=1, max_size=3))
def test_what_data_holds_of_encoded_bytes_changes_no_other_field_and_no_other_event(values: list[Any]) -> None:
    """Data is refused, or its event stands in a frame as any other."""
    accepted = []
    for data in values:
        try:
            accepted.append(bytes(encode_data(data, LIMIT)))
        except EventDataError:
            continue
        encoded = encode_unread(("type", "@node", "target", "1", data, None, 7))
        assert decode_event(check_encoded(encoded)) == Event(
            "type", "@node", "target", "1", msgspec.Raw(accepted[-1]), epoch=7
        )
    frame = b"".join(encode_event(Event("t", "@n", "x", "1", msgspec.Raw(raw))) for raw in accepted)
    assert [event and bytes(event.raw) for event in salvage_events(frame, len(accepted))] == accepted


@given(strategies.events)
def test_reading_the_data_changes_nothing_that_others_see(event: Event) -> None:
    """An event whose data was read is still equal to one whose was not, has its hash, and is encoded alike."""
    other = _sent(event)
    encoded, shown, hashed = encode_event(event), repr(event), hash(event)
    _ = event.data
    assert (encode_event(event), repr(event), hash(event)) == (encoded, shown, hashed)
    assert event == other
    assert hash(event) == hash(other)
    assert _sent(event) == other


@given(strategies.events, strategies.events)
def test_events_are_equal_if_all_that_travels_is(one: Event, other: Event) -> None:
    """Two events are equal exactly if their bytes on the wire are."""
    assert (one == other) == (encode_event(one) == encode_event(other))
    assert one != msgspec.structs.replace(one, id=one.id + "x")
    assert one != "an event"


@pytest.mark.parametrize("name", [*Event.__struct_fields__, "data", "topic", "unknown"])
def test_an_event_is_immutable(name: str) -> None:
    event = _event({"a": 1})
    with pytest.raises(AttributeError):
        setattr(event, name, None)
    with pytest.raises(AttributeError):
        delattr(event, name)


class Counted(msgspec.Struct):
    made = 0
    a: int = 0

    def __post_init__(self) -> None:
        Counted.made += 1


def test_data_is_decoded_when_it_is_read_and_only_once() -> None:
    broken = Event("type", "@node", "target", "1", msgspec.Raw(b"\xc1"))  # is not even looked at until then
    with pytest.raises(EventDataError, match="'type'"):
        _ = broken.data
    event = _event([{"a": 1}])
    assert event.data is event.data

    Counted.made = 0
    event = _event({"a": 1})
    assert Counted.made == 0
    value = event.read(msgspec.msgpack.Decoder(Counted))
    assert Counted.made == 1
    assert event.data is value
    assert Counted.made == 1


@pytest.mark.parametrize("data", [None, False, 0, "", [], {}], ids=repr)
def test_empty_data_is_data(data: object) -> None:
    event = _event(data)
    assert event.data == data
    assert event.data is event.data


def test_data_that_was_read_stays_the_same_object_when_it_is_decoded_to_a_type() -> None:
    event = _event({"a": 1})
    read = event.data
    assert event.decode(Counted) == Counted(1)
    assert event.data is read


def test_typed_data_leaves_no_trace_on_the_wire() -> None:
    event = _event({"a": 1})
    event.decode(Counted)
    assert _sent(event).data == {"a": 1}


@attrs.frozen
class Point:
    x: int
    y: float = 0.5


@dataclass(frozen=True)
class PlainPoint:
    x: int
    y: float = 0.5


class StructPoint(msgspec.Struct, frozen=True):
    x: int
    y: float = 0.5


@pytest.mark.parametrize("kind", [Point, PlainPoint, StructPoint], ids=["attrs", "dataclass", "struct"])
def test_data_is_decoded_to_types(kind: Any) -> None:
    assert _event(kind(3)).data == {"x": 3, "y": 0.5}
    assert _sent(_event(kind(3))).decode(kind) == kind(3)
    assert _event({"x": 3}).decode(kind) == kind(3)
    assert _event([{"x": 1}, {"x": 2, "y": 1}]).decode(list[kind]) == [kind(1), kind(2, 1.0)]


def test_dates_arrive_as_dates() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert _sent(_event({"at": moment})).data == {"at": moment}


@pytest.mark.parametrize("kind", [Point, PlainPoint, StructPoint], ids=["attrs", "dataclass", "struct"])
def test_an_object_as_a_key_arrives_as_a_tuple_of_its_fields(kind: Any) -> None:
    key = kind(3)
    assert _event({key: 1}).data == {(("x", 3), ("y", 0.5)): 1}
    assert _event([{"a": [{(key, 4): kind(5)}]}, [6]]).data == [
        {"a": [{((("x", 3), ("y", 0.5)), 4): {"x": 5, "y": 0.5}}]},
        [6],
    ]
    assert _event({key: 1}).decode(dict[kind, int]) == {key: 1}
    raw = msgspec.Raw(msgspec.msgpack.encode({key: 1}))
    assert encode_data(raw, LIMIT) == bytes(raw)


class Key(msgspec.Struct, frozen=True):
    name: Any
    inner: Any = None


_keys = st.recursive(
    strategies.scalars,
    lambda inner: (
        st.builds(Key, inner, inner) | st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=2)
    ),
    max_leaves=4,
)


def _as_key(key: Any) -> Any:
    """How a key arrives."""
    if isinstance(key, Key):
        return ("name", _as_key(key.name)), ("inner", _as_key(key.inner))
    return tuple(map(_as_key, key)) if isinstance(key, tuple | frozenset) else key


def _arrived(data: Any) -> Any:
    """How data arrives, as far as it differs from what was sent."""
    if isinstance(data, dict):
        return {_as_key(key): _arrived(value) for key, value in data.items()}
    return list(map(_arrived, data)) if isinstance(data, list) else data


@given(
    st.recursive(
        strategies.scalars,
        lambda inner: st.dictionaries(_keys, inner, max_size=3) | st.lists(inner, max_size=3),
        max_leaves=8,
    )
)
def test_data_with_any_keys_that_are_accepted_can_be_read(data: Any) -> None:
    assert _event(data).data == _arrived(data)


@pytest.mark.parametrize(
    ("data", "kind", "where"),
    [
        ({"x": "three"}, Point, r"Expected `int`, got `str` - at `\$\.x`"),
        ({"y": 1.0}, StructPoint, "missing required field `x`"),
        ([{"x": 1}, {"x": None}], list[PlainPoint], r"\$\[1\]\.x"),
        (7, str, "Expected `str`, got `int`"),
    ],
)
def test_data_of_another_type_is_refused_with_the_place_of_the_fault(data: Any, kind: Any, where: str) -> None:
    event = _event(data)
    with pytest.raises(EventDataError, match=where):
        event.decode(kind)
    assert event.data == data


@given(st.binary(max_size=30))
def test_g12_data_of_any_bytes_raises_nothing_but_event_data_error(raw: bytes) -> None:
    """Bytes that are no data are an EventDataError when they are read, and are no error before."""
    event = Event("type", "@node", "target", "1", msgspec.Raw(raw))
    for kind in (Any, str, Point, dict[str, int], datetime):
        with suppress(EventDataError):
            event.decode(kind)
    with suppress(EventDataError):
        _ = event.data


_LARGE = b"\xc6" + LIMIT.to_bytes(4) + bytes(LIMIT)
_FORGED = {
    "huge": b"\xdd\xff\xff\xff\xff",
    "deep": b"\x91" * 100_000,
    "utf-8": b"\xa2\xff\xff",
    "huge map": b"\xdf\xff\xff\xff\xff\x80",
    "map in key, cut off": b"\x81\x81",
    "deep keys": b"\x81" * 100_000,
    "deep and large": b"\x81" * 300 + _LARGE + b"\xc0" * 300,
    "many keys": b"\xdf" + LIMIT.to_bytes(4) + b"\x80\xc0" * LIMIT,
}


@pytest.mark.parametrize("raw", _FORGED.values(), ids=_FORGED)
def test_g12_forged_data_is_an_event_data_error(raw: bytes) -> None:
    with pytest.raises(EventDataError):
        _ = Event("type", "@node", "target", "1", msgspec.Raw(raw)).data


class Opaque:
    def __repr__(self) -> str:
        return "<opaque>"


@attrs.frozen
class AttrsBox:
    before: int
    inside: Any


@dataclass
class DataclassBox:
    before: int
    inside: Any


class StructBox(msgspec.Struct):
    before: int
    inside: Any


BOXES: dict[str, Callable[[int, Any], Any]] = {"attrs": AttrsBox, "dataclass": DataclassBox, "struct": StructBox}


@st.composite
def unencodable(draw: st.DrawFn) -> tuple[Any, str]:
    """Data with one part that MessagePack cannot hold, and the path to that part."""
    value = draw(st.sampled_from([Opaque(), 2**64, -(2**63) - 1, "\ud800", len, 1j, {1, 2j}]))
    path = "[1]" if isinstance(value, set) and list(value)[1] == 2j else "[0]" if isinstance(value, set) else ""
    for wrap in draw(st.lists(st.sampled_from(["list", "tuple", "dict", "attrs", "dataclass", "struct"]), max_size=6)):
        fine = draw(st.lists(strategies.scalars, max_size=3))
        if wrap == "list":
            value, path = [*fine, value, *fine], f"[{len(fine)}]{path}"
        elif wrap == "tuple":
            value, path = (*fine, value), f"[{len(fine)}]{path}"
        elif wrap == "dict":
            key = draw(st.text("ab'\n", max_size=3) | st.integers(0, 9))
            value, path = {"x" * 4: fine, key: value, "y" * 4: fine}, f"[{key!r}]{path}"
        else:
            value, path = BOXES[wrap](1, value), f".inside{path}"
    return value, path


@given(unencodable())
def test_data_that_cannot_be_sent_is_refused_with_the_path_to_it(drawn: tuple[Any, str]) -> None:
    """However deep the part is that MessagePack cannot hold, the error names the way to it."""
    data, path = drawn
    with pytest.raises(EventDataError) as caught:
        encode_data(data, LIMIT)
    assert str(caught.value).startswith(f"data{path} cannot be sent: ")
    assert len(str(caught.value)) < 600


def test_the_error_for_data_names_the_fault_and_the_types_that_can_be_sent() -> None:
    with pytest.raises(EventDataError) as caught:
        encode_data({"user": {"avatar": Opaque()}}, LIMIT)
    assert str(caught.value) == (
        "data['user']['avatar'] cannot be sent: Encoding objects of type Opaque is unsupported (Opaque <opaque>); "
        "send text, numbers, bytes, None, dates, lists, dicts, attrs classes, dataclasses, msgspec structs or "
        "models of pydantic"
    )


def test_data_that_contains_itself_is_refused() -> None:
    data: dict[str, Any] = {"a": [1]}
    data["a"].append(data)
    with pytest.raises(EventDataError, match=r"data\['a'\]\[1\].* cannot be sent"):
        encode_data(data, LIMIT)


@given(st.binary(max_size=300), st.integers(0, 300))
def test_g11_data_over_the_limit_is_refused(data: bytes, limit: int) -> None:
    """Data is accepted exactly if its encoding takes no more than the limit; the error says both sizes."""
    size = len(msgspec.msgpack.encode(data))
    if size <= limit:
        assert len(encode_data(data, limit)) == size
    else:
        with pytest.raises(EventTooLarge, match=f"has {size:,} bytes, the limit is {limit:,}") as caught:
            encode_data(data, limit)
        assert (caught.value.size, caught.value.limit) == (size, limit)


def test_headers_are_text() -> None:
    given_headers = {"trace": "1"}
    checked, size = check_headers(given_headers)
    assert checked == given_headers
    assert checked is not given_headers
    assert size == len(msgspec.msgpack.encode(given_headers))
    with pytest.raises(EventDataError, match="header 'trace' is int 1; headers are text"):
        check_headers({"trace": 1})
    with pytest.raises(EventDataError, match="header 1 is str 'trace'"):
        check_headers({1: "trace"})
    with pytest.raises(EventDataError, match="headers are a dict of text to text, not str 'trace'"):
        check_headers("trace")  # type: ignore[arg-type]
    with pytest.raises(EventDataError, match="cannot be sent"):
        check_headers({"trace": "\ud800"})


def test_topic_is_that_of_published_events_alone() -> None:
    event = _event(None)
    assert event.topic is None
    assert msgspec.structs.replace(event, target="#order.created").topic == "order.created"
    assert msgspec.structs.replace(event, target="*").topic is None


def test_an_event_has_a_bounded_number_of_headers() -> None:
    headers = {str(number): "" for number in range(MAX_HEADERS)}
    assert check_headers(headers)[0] == headers
    with pytest.raises(EventDataError, match="at most 64 headers, not 65"):
        check_headers(headers | {"one more": ""})
