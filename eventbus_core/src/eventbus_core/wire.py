"""
Frame <-> events: the bytes that travel, version 1.

::

    "EB"  version  0   header length  checksum    header    events
    2 B   u8       u8  u16            crc32 u32   msgpack   msgpack array

All numbers are big-endian and no larger than 2**62. The checksum covers header and events. A frame is read in two
steps, so that a node can drop its own, a duplicate or a stranger's by the header alone.
A reader ignores fields that a later version of the same format adds at the end of a header,
an event or a list of notes, and notes of a kind that it does not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Annotated, Final
from zlib import crc32

import msgspec

from eventbus_core.errors import FrameError
from eventbus_core.event import Event

WIRE_VERSION: Final = 1
MAGIC: Final = b"EB"
MAX_HEADER: Final = 0xFFFF
LARGEST_ENVELOPE: Final = MAX_HEADER + 4096
"""Bytes that a frame of one event takes at the most, beside the event's data and headers."""

_PREFIX = Struct(">2sBBHI")
_ARRAY = Struct(">BI")
_ARRAY32: Final = 0xDD
_SMALLEST_EVENT: Final = 6

LARGEST: Final = 2**62
Number = Annotated[int, msgspec.Meta(ge=0, le=LARGEST)]
"""What is reckoned with such numbers, forged ones too, still fits into a frame."""


class Note(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """
    What the session layer of one node tells another's, beside or without events.

    Attributes:
        kind: see :mod:`eventbus_core.session`.
        session: the session that it is about.
        incarnation: of the node whose session it is; a later one uses the same numbers again.
        first: a number whose meaning depends on the kind.
        last: another.
        partition: where the session goes, for a kind that asks for its number.
    """

    kind: str
    session: Number = 0
    incarnation: Number = 0
    first: Number = 0
    last: Number = 0
    partition: str = ""


class Header(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """
    Who sends, and where the frame stands in its session.

    Attributes:
        namespace: frames of another one are refused.
        node: the sender.
        incarnation: the sender's.
        session: the sender's number for the sequence of frames that this one belongs to.
        partition: where that session goes; a frame that is sent again takes another way.
        first: the number of the first event; without events, the number that comes next.
        count: how many events follow.
        position: bytes of events that the session carried before this frame.
        notes: to the receiving node's session layer.
    """

    namespace: str
    node: str
    incarnation: Number
    session: Number
    partition: str
    first: Number
    count: Number
    position: Number
    notes: list[Note] = []


_encode = msgspec.msgpack.Encoder().encode
_decode_header = msgspec.msgpack.Decoder(Header).decode
_decode_events = msgspec.msgpack.Decoder(list[Event]).decode
_FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def pack(header: Header, events: Sequence[bytes]) -> bytes:
    """Return the frame of *header* and as many encoded *events* as it says."""
    head = _encode(header)
    start = head + _ARRAY.pack(_ARRAY32, len(events))
    body = b"".join(events)  # of a single event, no copy
    return b"".join((_PREFIX.pack(MAGIC, WIRE_VERSION, 0, len(head), crc32(body, crc32(start))), start, body))


def unpack(frame: bytes, limit: int) -> tuple[Header, memoryview]:
    """
    Return the header of *frame* and the bytes of its events, for :func:`unpack_events`.

    Nothing larger than the header is allocated.

    Raises:
        FrameError: it is over *limit* bytes, or no frame of this version.
    """
    if len(frame) > limit:
        raise FrameError("oversized", f"{len(frame):,} bytes, the limit is {limit:,}")
    if len(frame) < _PREFIX.size:
        raise FrameError("truncated", f"{len(frame)} bytes")
    magic, version, reserved, header_size, checksum = _PREFIX.unpack_from(frame)
    if magic != MAGIC:
        raise FrameError("malformed", f"it begins with {magic!r}")
    if version != WIRE_VERSION:
        raise FrameError("version", f"version {version}, this node speaks {WIRE_VERSION}")
    if reserved:
        raise FrameError("malformed", f"{reserved} in a reserved place")
    rest = memoryview(frame)[_PREFIX.size :]
    if len(rest) < header_size + _ARRAY.size:
        raise FrameError("truncated", f"{len(rest)} bytes after the prefix, {header_size} of header announced")
    if crc32(rest) != checksum:
        raise FrameError("checksum", "the content is not what was sent")
    try:
        header = _decode_header(rest[:header_size])
    except _FAULTS as error:
        raise FrameError("malformed", f"header: {error}") from error
    body = rest[header_size:]
    if _ARRAY.unpack_from(body) != (_ARRAY32, header.count) or header.count * _SMALLEST_EVENT > len(body):
        raise FrameError("malformed", f"{header.count} events announced in {len(body)} bytes")
    return header, body


def unpack_events(body: memoryview) -> list[Event]:
    """
    Return the events in *body*; their data stays undecoded.

    Raises:
        FrameError: it does not hold just the events announced.
    """
    try:
        return _decode_events(body)
    except _FAULTS as error:
        raise FrameError("malformed", f"events: {error}") from error
