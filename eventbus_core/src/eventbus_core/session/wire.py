"""
The format of a frame: how events become the bytes that travel, and back; version 1.

::

    "EB"  version  form  header length  checksum    header    events
    2 B   u8       u8    u16            crc32 u32   msgpack   msgpack array

All numbers are big-endian and at most 2**62. The checksum covers header and events; it is 0 in frames of form 1, which
a seal covers. All others have form 0. A frame is read in two steps, so
that a node can drop its own frames, duplicates and frames of other namespaces by the header alone. A reader ignores
fields that a later version of the same format adds at the end of a header, an event or a note, and notes of a kind
that it does not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final
from zlib import crc32

import msgspec

from eventbus_core.errors import FrameError
from eventbus_core.model.event import UNREADABLE, Event
from eventbus_core.model.numbers import Number
from eventbus_core.model.salvage import salvage_events
from eventbus_core.wrappers.seal import SEAL_MAGIC

WIRE_VERSION: Final = 1
MAGIC: Final = b"EB"
MAX_HEADER: Final = 0xFFFF
FRAME_OVERHEAD: Final = 512
"""Bytes that are enough for a frame without its notes and events, with the longest names."""
MAX_ENVELOPE: Final = FRAME_OVERHEAD + 1536
"""Bytes that are enough for a frame of one event without notes, beside the event's data and headers."""
MAX_NOTE_SIZE: Final = 128
"""Bytes that are enough for a note."""

MAX_FRAME_EVENTS: Final = 10_000
"""Events of a frame: what a node decodes and delivers in one go, so that no frame stops it for long."""

_CHECKED: Final = 0
_SEALED: Final = 1
_PREFIX = Struct(">2sBBHI")
_ARRAY = Struct(">BI")
_ARRAY32: Final = 0xDD
_SMALLEST_EVENT: Final = 6


class SessionPosition(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """
    Where a session to a partition is, or a partition of which that is asked.

    Attributes:
        partition: where the session goes.
        session: its number.
        first: the number of the event that comes next.
        position: bytes of events that it carried so far.
    """

    partition: str
    session: Number = 0
    first: Number = 0
    position: Number = 0


class Note(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """
    A message from the session layer of one node to that of another; frames carry it, with events or without.

    Attributes:
        kind: see :mod:`eventbus_core.session.protocol`.
        session: the number of the session that it concerns, or of the question and its answer.
        incarnation: that of the node whose session it is; a later incarnation uses the same session numbers again.
        first, last: numbers whose meaning depends on the kind.
        positions: of the sender's sessions; only for a question for them, and the answer.
    """

    kind: str
    session: Number = 0
    incarnation: Number = 0
    first: Number = 0
    last: Number = 0
    positions: tuple[SessionPosition, ...] = ()


class Header(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """
    The sender of a frame, and the frame's place in its session.

    Attributes:
        namespace: the sender's; frames of other namespaces are rejected.
        node: the sender.
        incarnation: the sender's.
        session: the sender's number for the sequence of frames that this one belongs to; 0 in a frame of notes alone,
            which belongs to none.
        partition: where that session goes; a retransmitted frame itself goes to the partition of the node that asked.
        first: the number of the first event; without events, the number that comes next.
        count: how many events follow.
        position: bytes of events that the session carried before this frame.
        notes: for the receiving node's session layer.
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


def pack(header: Header, events: Sequence[bytes]) -> bytes:
    """Return the frame of *header* and the encoded *events*, which are as many as it says."""
    head = _encode(header)
    start = head + _ARRAY.pack(_ARRAY32, len(events))
    body = b"".join(events)  # a single event is not copied
    checksum = crc32(body, crc32(start))
    return b"".join((_PREFIX.pack(MAGIC, WIRE_VERSION, _CHECKED, len(head), checksum), start, body))


def pack_sealed(header: Header, events: Sequence[bytes]) -> bytes:
    """Return what :func:`pack` does, without a checksum: the frame is sealed before it leaves the node."""
    head = _encode(header)
    prefix = _PREFIX.pack(MAGIC, WIRE_VERSION, _SEALED, len(head), 0)
    return b"".join((prefix, head, _ARRAY.pack(_ARRAY32, len(events)), *events))


def unpack(frame: bytes, limit: int, *, sealed: bool = False) -> tuple[Header, memoryview]:
    """
    Return the header of *frame* and the bytes of its events, for :func:`unpack_events`.

    Nothing larger than the header is allocated. If the frame was *sealed*, it need have no checksum.

    Raises:
        FrameError: it is longer than *limit* bytes, has more than ``MAX_FRAME_EVENTS``, or is no frame of this version.
    """
    if len(frame) > limit:
        raise FrameError("oversized", f"{len(frame):,} bytes, the limit is {limit:,}")
    if len(frame) < _PREFIX.size:
        raise FrameError("truncated", f"{len(frame)} bytes")
    magic, version, form, header_size, checksum = _PREFIX.unpack_from(frame)
    if magic == SEAL_MAGIC:
        raise FrameError("sealed", "its sender has a secret; give this node the same one (secret=)")
    if magic != MAGIC:
        raise FrameError("malformed", f"it begins with {magic!r}, not {MAGIC!r}")
    if version != WIRE_VERSION:
        raise FrameError("version", f"version {version}, this node speaks {WIRE_VERSION}")
    if form != _CHECKED and not (sealed and form == _SEALED):
        raise FrameError("malformed", f"its form is {form}, not {_CHECKED}")
    content = memoryview(frame)
    start = _PREFIX.size + header_size
    if len(frame) < start + _ARRAY.size:
        rest = len(frame) - _PREFIX.size
        raise FrameError("truncated", f"{rest} bytes after the prefix, {header_size} of header announced")
    if form == _CHECKED and crc32(content[_PREFIX.size :]) != checksum:
        raise FrameError("checksum", "the content is not the same as was sent")
    try:
        header = _decode_header(content[_PREFIX.size : start])
    except UNREADABLE as error:
        raise FrameError("malformed", f"header: {error}") from error
    body = content[start:]
    if _ARRAY.unpack_from(body) != (_ARRAY32, header.count) or header.count * _SMALLEST_EVENT > len(body):
        raise FrameError("malformed", f"{header.count} events announced in {len(body)} bytes")
    if header.count > MAX_FRAME_EVENTS:
        raise FrameError("oversized", f"{header.count:,} events, the limit is {MAX_FRAME_EVENTS:,}")
    return header, body


def unpack_events(body: memoryview) -> list[Event]:
    """
    Return the events in *body*; their data stays undecoded.

    Raises:
        FrameError: *body* is not an array of events.
    """
    try:
        return _decode_events(body)
    except UNREADABLE as error:
        raise FrameError("malformed", f"events: {error}") from error


def unpack_readable(body: memoryview, count: int) -> list[Event | None]:
    """Return the *count* events in *body*, with ``None`` in the place of each that cannot be read."""
    try:
        return list(_decode_events(body))
    except UNREADABLE:
        return salvage_events(bytes(body[_ARRAY.size :]), count)
