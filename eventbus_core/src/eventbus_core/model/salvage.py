"""
Reads encoded events that the fast decoder refuses, one by one.

The decoder takes the events of a frame in one go, so one of them that it cannot decode would take all others with it:
data that is nested deeper than the stack allows, or bytes that the sender passed on as they were. Here the frame is
cut into events without a stack, by the lengths that MessagePack states.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec.structs import replace

from eventbus_core.model.event import UNREADABLE, Event

_NIL: Final = b"\xc0"
_DATA: Final = 4
"""The place of the data among the fields of an event."""
_FIXED: Final = {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8} | {
    0xD4 + power: 1 + 2**power for power in range(5)
}
"""How many bytes follow a first byte of a fixed length."""
_SIZED: Final = {0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0), 0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1)} | {
    0xD9: (1, 0),
    0xDA: (2, 0),
    0xDB: (4, 0),
}
"""How many bytes hold the length, and how many come beside it."""
_COUNTED: Final = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}
"""How many bytes hold the number of entries, and how many values an entry has."""

_decode = msgspec.msgpack.Decoder(Event).decode
MAX_VALUES: Final = 200_000
"""Values that are read one by one in one frame, for a tenth of a second: a forged frame may have millions."""


def salvage_events(encoded: bytes, count: int) -> list[Event | None]:
    """
    Return the *count* events in *encoded*, which come one after the other; ``None`` for each that cannot be read.

    If more follows, bytes within the data of one were taken for events, and it is unknown which are events: then none
    is returned. The ``data`` of an event that is read here may raise :class:`EventDataError`; the other events are not
    affected.
    """
    events: list[Event | None] = []
    position, budget = 0, MAX_VALUES
    try:
        while len(events) < count:
            end, values = _end(encoded, position, budget)
            events.append(salvage_event(encoded[position:end]))
            position, budget = end, budget - values
    except IndexError:  # from here on it is unknown where an event begins
        return events + [None] * (count - len(events))
    return events if position == len(encoded) else [None] * count


def readable_events(encoded: Iterable[bytes]) -> list[Event]:
    """Return those events of *encoded*, one event each, that can be read."""
    return [event for event in map(salvage_event, encoded) if event is not None]


def salvage_event(encoded: bytes) -> Event | None:
    """Return the one event in *encoded*, with its data undecoded, or ``None`` if its other fields cannot be read."""
    try:
        return _decode(encoded)
    except UNREADABLE:
        pass
    try:
        start = 1 if encoded[0] >> 4 == 0x9 else 1 + _COUNTED[encoded[0]][0]
        for _ in range(_DATA):
            start, _ = _end(encoded, start)
        end, _ = _end(encoded, start)
        event = _decode(encoded[:start] + _NIL + encoded[end:])
    except (IndexError, KeyError, *UNREADABLE):
        return None
    return replace(event, raw=msgspec.Raw(encoded[start:end]))


def _end(encoded: bytes, position: int, budget: int = MAX_VALUES) -> tuple[int, int]:
    """
    Return where the value that begins at *position* ends, and how many values it consists of.

    Raises:
        IndexError: it goes beyond the end, or consists of more than *budget* values.
    """
    values = 1
    read = 0
    while values:
        read += 1
        first = encoded[position]
        position += 1
        values -= 1
        if first >> 4 == 0x8:
            values += 2 * (first & 0x0F)
        elif first >> 4 == 0x9:
            values += first & 0x0F
        elif first >> 5 == 0b101:
            position += first & 0x1F
        elif first in _FIXED:
            position += _FIXED[first]
        elif first in _SIZED:
            width, beside = _SIZED[first]
            position += width + beside + int.from_bytes(encoded[position : position + width])
        elif first in _COUNTED:
            width, each = _COUNTED[first]
            values += each * int.from_bytes(encoded[position : position + width])
            position += width
        if position > len(encoded) or read > budget:
            raise IndexError(position)
    return position, read
