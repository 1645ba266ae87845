from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from struct import Struct
from zlib import crc32

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventbus_core.backend.transport import MIN_FRAME_SIZE
from eventbus_core.errors import FrameError
from eventbus_core.model.event import Event, encode_event
from eventbus_core.session.protocol import AT, MAX_ASKED
from eventbus_core.session.wire import (
    MAX_FRAME_EVENTS,
    MAX_HEADER,
    WIRE_VERSION,
    Header,
    Note,
    SessionPosition,
    pack,
    unpack,
    unpack_events,
)
from tests import strategies

LIMIT = 64 * 1024 * 1024
KINDS = {"malformed", "truncated", "oversized", "checksum", "version", "sealed"}

# Of the frame's size. The smallest events take 6 bytes on the wire and some 180 as objects.
MEMORY_FACTOR = 40
MEMORY_FLOOR = 32 * 1024

PREFIX = Struct(">2sBBHI")  # the format once more, on purpose: it is fixed
HEADER = ["ns", "node", 1, 1, "all", 1, 0, 0, []]
EVENT = ["type", "source", "target", "id", None]

encode = msgspec.msgpack.encode


def _read(frame: bytes) -> tuple[Header, list[Event]]:
    header, body = unpack(frame, LIMIT)
    return header, unpack_events(body)


def _forged(header: bytes, body: bytes) -> bytes:
    """A frame whose checksum is right, whatever it holds."""
    return PREFIX.pack(b"EB", WIRE_VERSION, 0, len(header), crc32(header + body)) + header + body


def _forged_events(count: int, events: bytes) -> bytes:
    header = [*HEADER[:6], count, *HEADER[7:]]
    return _forged(encode(header), b"\xdd" + count.to_bytes(4, "big") + events)


def _is_refused(frame: bytes) -> str:
    """Assert that *frame* is refused with FrameError and nothing else; return the kind of its fault."""
    with pytest.raises(FrameError) as caught:
        _read(frame)
    assert caught.value.kind in KINDS
    assert str(caught.value).startswith(f"{caught.value.kind} frame: ")
    return caught.value.kind


def _peak(read: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        with suppress(FrameError):
            read()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@given(strategies.batches())
def test_a_frame_is_read_as_it_was_packed(batch: tuple[Header, list[Event]]) -> None:
    """What was packed is what is unpacked: the header, the events, and their order."""
    header, events = batch
    assert _read(pack(header, [encode_event(event) for event in events])) == (header, events)


@given(strategies.frames(), st.data())
@settings(max_examples=200)
def test_g12_a_frame_with_changed_bytes_is_refused(frame: bytes, data: st.DataObject) -> None:
    """Wherever one to four neighbouring bytes of a frame are changed, it is refused."""
    start = data.draw(st.integers(0, len(frame) - 1), label="start")
    change = data.draw(st.binary(min_size=1, max_size=min(4, len(frame) - start)).filter(any), label="change")
    mutated = bytearray(frame)
    for offset, bits in enumerate(change):
        mutated[start + offset] ^= bits
    _is_refused(bytes(mutated))


@given(strategies.frames(), st.integers(1, 255))
@settings(max_examples=20)
def test_g12_a_frame_with_one_changed_byte_is_refused(frame: bytes, change: int) -> None:
    """Each byte of a frame matters, those of the prefix too."""
    for place in range(len(frame)):
        _is_refused(frame[:place] + bytes([frame[place] ^ change]) + frame[place + 1 :])


@given(strategies.frames())
@settings(max_examples=20)
def test_g12_a_frame_that_was_cut_off_is_refused(frame: bytes) -> None:
    """No beginning of a frame, of whatever length, is a frame."""
    for length in range(len(frame)):
        _is_refused(frame[:length])


@given(strategies.frames(), st.binary(min_size=1, max_size=20))
def test_g12_a_frame_with_something_after_it_is_refused(frame: bytes, more: bytes) -> None:
    """A frame ends where its bytes end."""
    _is_refused(frame + more)
    _is_refused(frame + frame)


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_g12_random_bytes_are_refused(junk: bytes) -> None:
    """Bytes of any kind raise FrameError and nothing else, whatever they begin with."""
    _is_refused(junk)
    _is_refused(b"EB" + junk)
    _is_refused(b"EB\x01\x00" + junk)


@given(st.binary(max_size=60), st.binary(max_size=60))
@settings(max_examples=300)
def test_g12_forged_frames_raise_nothing_but_frame_error(header: bytes, body: bytes) -> None:
    """A frame with the right checksum over any bytes is read, or refused with FrameError."""
    with suppress(FrameError):
        _read(_forged(header, body))
    with suppress(FrameError):
        _read(_forged(encode(HEADER), b"\xdd\x00\x00\x00\x00" + body))
    with suppress(FrameError):
        _read(_forged_events(1, body))
    with suppress(FrameError):
        _read(_forged_events(1, b"\x95\xa0\xa0\xa0\xa0" + body))


@given(st.integers(0, 8), strategies.data)
@settings(max_examples=200)
def test_g12_a_header_with_a_field_of_another_type_raises_nothing_but_frame_error(place: int, value: object) -> None:
    """Whatever stands in one of a header's fields, the frame is read or refused with FrameError."""
    header = [*HEADER[:place], value, *HEADER[place + 1 :]]
    with suppress(FrameError):
        _read(_forged(encode(header), b"\xdd\x00\x00\x00\x00"))


@given(st.sampled_from([2, 3, 5, 6, 7]), st.integers(2**62 + 1, 2**64 - 1) | st.integers(-(2**63), -1))
def test_g12_numbers_that_no_sender_reaches_are_refused(place: int, number: int) -> None:
    """Numbers stay in a range in which what is reckoned with them can be sent back."""
    header = [*HEADER[:place], number, *HEADER[place + 1 :]]
    assert _is_refused(_forged(encode(header), b"\xdd\x00\x00\x00\x00")) == "malformed"


@given(strategies.batches(), strategies.data, strategies.data)
def test_fields_and_notes_of_later_versions_are_ignored(
    batch: tuple[Header, list[Event]], more: object, kind: object
) -> None:
    """Fields that were added at the end of a header, a note or an event change nothing that this version reads."""
    header, events = batch
    raw_header = [*msgspec.to_builtins(header), more]
    raw_header[8] = [[*note, more] for note in raw_header[8]]
    raw_events = [[*msgspec.msgpack.decode(encode_event(event)), more, kind] for event in events]
    body = b"\xdd" + len(events).to_bytes(4, "big") + b"".join(map(encode, raw_events))
    assert _read(_forged(encode(raw_header), body)) == (header, events)


def test_a_note_of_an_unknown_kind_is_read() -> None:
    header = Header("ns", "node", 1, 1, "all", 1, 0, 0, [Note("from-the-future", 7)])
    assert _read(pack(header, [])) == (header, [])


@pytest.mark.parametrize("fields", [5, 6, 8, 11])
def test_fields_that_a_sender_left_out_have_their_defaults(fields: int) -> None:
    event = [*EVENT, None, 0, 0, None, None, None][:fields]
    [read] = _read(_forged_events(1, encode(event)))[1]
    assert (read.type, read.headers, read.epoch, read.answers, read.data) == ("type", None, 0, None, None)


def test_an_event_cannot_bring_its_decoded_data_along() -> None:
    event = [*EVENT, None, 0, 0, None, None, None, ["forged"]]
    assert _is_refused(_forged_events(1, encode(event))) == "malformed"


@pytest.mark.parametrize("version", [0, WIRE_VERSION + 1, 255])
def test_g12_another_version_is_refused_as_such(version: int) -> None:
    frame = bytearray(pack(Header("ns", "node", 1, 1, "all", 1, 0, 0), []))
    frame[2] = version
    assert _is_refused(bytes(frame)) == "version"
    assert _is_refused(bytes(frame[:12])) == "version"


def test_g12_a_frame_over_the_limit_is_refused_unread() -> None:
    frame = pack(Header("ns", "node", 1, 1, "all", 1, 0, 0), [])
    unpack(frame, len(frame))
    with pytest.raises(FrameError, match="oversized") as caught:
        unpack(frame, len(frame) - 1)
    assert caught.value.kind == "oversized"


def test_g12_a_frame_of_too_many_events_is_refused_unread() -> None:
    event = b"\x96" + b"\xc0" * 6
    unpack(pack(Header("ns", "node", 1, 1, "all", 1, MAX_FRAME_EVENTS, 0), [event] * MAX_FRAME_EVENTS), LIMIT)
    frame = pack(Header("ns", "node", 1, 1, "all", 1, MAX_FRAME_EVENTS + 1, 0), [event] * (MAX_FRAME_EVENTS + 1))
    with pytest.raises(FrameError, match=r"oversized.* 10,001 events, the limit is 10,000") as caught:
        unpack(frame, LIMIT)
    assert caught.value.kind == "oversized"


def test_g11_the_longest_header_there_is_can_be_packed() -> None:
    note = Note("x" * 8, 2**62, 2**62, 2**62, 2**62)
    notes = [note] * 500
    header = Header("n" * 64, "n" * 64, 2**62, 2**62, "n:" + "x" * 64, 2**62, 0, 2**62, notes)
    assert len(encode(header)) <= MAX_HEADER
    assert _read(pack(header, [])) == (header, [])


def test_g11_the_longest_answer_to_a_question_for_positions_fits_into_the_smallest_frame() -> None:
    partitions = ["n:" + "x" * 64, *(f"l:{65_535 - lane}" for lane in range(MAX_ASKED - 1))]
    answer = Note(AT, 2**62, 2**62, positions=tuple(SessionPosition(name, 2**62, 2**62, 2**62) for name in partitions))
    header = Header("n" * 64, "n" * 64, 2**62, 0, "n:" + "x" * 64, 0, 0, 0, [answer])
    assert len(pack(header, [])) <= MIN_FRAME_SIZE


@pytest.mark.parametrize(
    ("kind", "frame"),
    [
        ("truncated", b""),
        ("truncated", b"EB\x01"),
        ("malformed", b"<html>404 Not Found</html>"),
        ("truncated", PREFIX.pack(b"EB", 1, 0, 500, 0) + b"short"),
        ("checksum", PREFIX.pack(b"EB", 1, 0, 0, 1) + b"12345"),
        ("malformed", _forged(b"", b"\xdd\x00\x00\x00\x00")),
        ("malformed", _forged(encode(HEADER[:7]), b"\xdd\x00\x00\x00\x00")),
        ("malformed", _forged(encode(HEADER), b"\xdc\x00\x00\x00\x00")),
        ("malformed", _forged(encode(HEADER), b"\xdd\x00\x00\x00\x01" + encode(EVENT))),
        ("malformed", _forged(encode(["\udcff".encode(errors="surrogatepass"), *HEADER[1:]]), b"\xdd\x00\x00\x00\x00")),
        ("malformed", _forged(encode(HEADER).replace(b"\xa2ns", b"\xa2\xff\xff"), b"\xdd\x00\x00\x00\x00")),
        ("malformed", _forged_events(1, encode(EVENT).replace(b"\xa2id", b"\xa2\xff\xff"))),
        ("malformed", _forged_events(1, encode({"type": "x"}))),
        ("malformed", _forged_events(2, encode(EVENT))),
        ("malformed", _forged_events(1, encode(EVENT) * 2)),
    ],
)
def test_g12_the_fault_of_a_frame_is_named(kind: str, frame: bytes) -> None:
    assert _is_refused(frame) == kind


HUGE = b"\xff\xff\xff\xff"


@pytest.mark.parametrize(
    "frame",
    [
        _forged_events(2**32 - 1, b""),
        _forged_events(2**32 - 1, encode(EVENT) * 1000),
        _forged_events(10_000, encode(EVENT)),
        _forged(encode(HEADER), b"\xdd" + HUGE),
        _forged(b"\xdd" + HUGE, b"\xdd\x00\x00\x00\x00"),
        _forged(b"\xdb" + HUGE, b"\xdd\x00\x00\x00\x00"),
        _forged(encode(HEADER)[:-1] + b"\xdd" + HUGE, b"\xdd\x00\x00\x00\x00"),
        _forged(b"\x99\xdb" + HUGE + encode(HEADER)[2:], b"\xdd\x00\x00\x00\x00"),
        _forged_events(1, b"\xdd" + HUGE + b"......"),
        _forged_events(1, b"\x95\xdb" + HUGE + b"......"),
        _forged_events(1, b"\x95\xa0\xa0\xa0\xa0\xdd" + HUGE),
        _forged_events(1, b"\x95\xa0\xa0\xa0\xa0\xdf" + HUGE),
        _forged_events(1, b"\x95\xa0\xa0\xa0\xa0\xc6" + HUGE),
        _forged_events(1, b"\x96\xa0\xa0\xa0\xa0\xc0\xdf" + HUGE),
    ],
    ids=range(14),
)
def test_g11_lengths_are_checked_before_anything_is_allocated(frame: bytes) -> None:
    assert _peak(lambda: _read(frame)) <= MEMORY_FACTOR * len(frame) + MEMORY_FLOOR
    _is_refused(frame)


@pytest.mark.parametrize(
    "frame",
    [
        _forged_events(MAX_FRAME_EVENTS, b"\x95\xa0\xa0\xa0\xa0\xc0" * MAX_FRAME_EVENTS),
        _forged(encode(HEADER)[:-1] + b"\xdc\x4e\x20" + b"\x92\xa0\x00" * 20_000, b"\xdd\x00\x00\x00\x00"),
        _forged_events(
            1000, (b"\x96\xa0\xa0\xa0\xa0\xc0\xde\x00\x40" + b"".join(encode(f"{n:x}") * 2 for n in range(64))) * 1000
        ),
    ],
    ids=["events", "notes", "headers"],
)
def test_g11_a_frame_of_many_tiny_parts_takes_memory_in_proportion(frame: bytes) -> None:
    _read(frame)
    assert _peak(lambda: _read(frame)) <= MEMORY_FACTOR * len(frame) + MEMORY_FLOOR


@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa0", b"\xdd\x00\x00\x00\x01"], ids=["array", "map", "array32"])
@pytest.mark.parametrize("depth", [20_000, 100_000])
def test_g12_deep_nesting_is_refused(opening: bytes, depth: int) -> None:
    nested = opening * depth + b"\xc0"
    for frame in (
        _forged(nested[: MAX_HEADER // 2], b"\xdd\x00\x00\x00\x00"),
        _forged(b"\x99" + nested[: MAX_HEADER // 2], b"\xdd\x00\x00\x00\x00"),
        _forged_events(1, nested),
        _forged_events(1, b"\x95\xa0\xa0\xa0\xa0" + nested),
        _forged_events(1, encode(EVENT)[:1].replace(b"\x95", b"\x9d") + encode([*EVENT, *[None] * 6])[1:] + nested),
    ):
        assert _peak(lambda frame=frame: _read(frame)) <= MEMORY_FACTOR * len(frame) + MEMORY_FLOOR  # type: ignore[misc]
        _is_refused(frame)


@given(strategies.batches())
def test_the_events_of_a_frame_need_not_be_decoded_to_know_where_it_stands(batch: tuple[Header, list[Event]]) -> None:
    """The header is read without the events, whose bytes are then handed over uncopied."""
    header, events = batch
    encoded = [encode_event(event) for event in events]
    frame = pack(header, encoded)
    read, body = unpack(frame, LIMIT)
    assert read == header
    assert body.obj is frame
    assert len(body) == sum(map(len, encoded)) + 5
