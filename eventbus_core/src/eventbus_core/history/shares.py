"""Shares: the events of one topic that were appended to its stream together, and their form on the wire."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from struct import Struct
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import astuple

from eventbus_core.backend import Entry, Position
from eventbus_core.errors import FrameError
from eventbus_core.model.event import UNREADABLE, Event
from eventbus_core.model.numbers import Number
from eventbus_core.model.retained_event import Origin, RetainedEvent, place
from eventbus_core.model.salvage import salvage_events
from eventbus_core.model.tokens import Mark, tag_of
from eventbus_core.wrappers.sealed_history import REJECTED_BODY

_ARRAY: Final = Struct(">BI")
_ARRAY32: Final = 0xDD


class Share(NamedTuple):
    """
    Events of one stream, in order.

    Attributes:
        epoch: of the stream.
        last: the offset of the last of them.
        fingerprint: of their entry.
        events: how many they are.
        body: all of them, encoded; empty if they must be read from the history.
    """

    epoch: str
    last: int
    fingerprint: int
    events: int
    body: bytes

    @property
    def first(self) -> int:
        """The offset of the first event."""
        return self.last - self.events + 1

    @property
    def end(self) -> Position:
        """The position behind the last event."""
        return Position(self.epoch, self.last, self.fingerprint)

    def unpack(self, stream: str, after: int, anchor: Mark | None) -> tuple[list[RetainedEvent], int]:
        """
        Return those events whose offset is above *after*, with their positions, and how many others there are.

        The others cannot be read, or were forged.
        """
        origin = Origin(tag_of(stream), self.epoch, self.fingerprint, anchor)
        events = [
            place(event, origin, offset)
            for offset, event in enumerate(_unpack(self.body, self.events), self.first)
            if event is not None and offset > after and event.target == stream
        ]
        return events, self.last - max(after, self.first - 1) - len(events)


class ShareMessage(msgspec.Struct, array_like=True, frozen=True):
    """A share on its way to other nodes; the fields are those of :class:`Share`."""

    epoch: str
    last: Number
    fingerprint: Number
    events: Number
    body: bytes


_decode = msgspec.msgpack.Decoder(list[RetainedEvent]).decode
_decode_plain = msgspec.msgpack.Decoder(list[Event]).decode
_decode_message = msgspec.msgpack.Decoder(ShareMessage).decode
encode_share = msgspec.msgpack.Encoder().encode
"""Return a :class:`Share` as the data of an event."""


def pack_events(events: Sequence[bytes]) -> bytes:
    """Return the body of a share of encoded *events*."""
    return _ARRAY.pack(_ARRAY32, len(events)) + b"".join(events)


def unpack_salvaged(body: bytes, count: int) -> Sequence[Event | None]:
    """Return the *count* events of a share's *body*; ``None`` for each that cannot be read, or was forged."""
    return _salvaged(body, count, _decode_plain) or [None] * count


def _unpack(body: bytes, count: int) -> Iterator[RetainedEvent | None]:
    for event in _salvaged(body, count, _decode):
        yield event if event is None or isinstance(event, RetainedEvent) else RetainedEvent(*astuple(event))


def _salvaged(body: bytes, count: int, decode: Callable[[bytes], Sequence[Event]]) -> Sequence[Event | None]:
    """Return the *count* events of *body*, ``None`` for each that cannot be read; nothing if they are not so many."""
    if body == REJECTED_BODY or count > len(body):
        return []
    try:
        events: Sequence[Event | None] = decode(body)
    except UNREADABLE:
        events = salvage_events(body[_ARRAY.size :], count)
    return events if len(events) == count else []


def decode_share(raw: bytes) -> Share:
    """
    Return what :func:`encode_share` encoded.

    Raises:
        FrameError: *raw* is no share.
    """
    try:
        message = _decode_message(raw)
    except UNREADABLE as error:
        raise FrameError("malformed", f"a share of retained events: {error}") from error
    if not 0 < message.events <= message.last or 0 < len(message.body) < message.events:
        raise FrameError("malformed", f"a share of {message.events} events up to number {message.last}")
    return Share(message.epoch, message.last, message.fingerprint, message.events, message.body)


def share_of(epoch: str, entry: Entry) -> Share:
    """Return an *entry* that was read in *epoch* as a share."""
    return Share(epoch, entry.last, entry.fingerprint, entry.events, entry.body)
