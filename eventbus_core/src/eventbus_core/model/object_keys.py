"""Decodes data with objects as the keys of dicts: a decoder without a type refuses those, since a dict is no key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

REFUSED: Final = (msgspec.DecodeError, TypeError)
"""What a decoder without a type raises for an object as a key: ``TypeError`` in older versions of msgspec."""
_COUNTS: Final = {0xDC: (1, 2), 0xDD: (1, 4), 0xDE: (2, 2), 0xDF: (2, 4)}
"""How many values an entry of a list or a map has, by its first byte, and how many bytes hold the number of entries."""
MAX_WORK: Final = 16 * 1024 * 1024
"""Bytes that are read for one event, level by level, for some tenths of a second: forged data may have many levels."""
MAX_DEPTH: Final = 32
"""Levels that are read one by one: the bytes of each are in memory at the same time."""
MEMBER_WORK: Final = 64
"""To how many bytes the work for one member of a container comes."""

_decode = msgspec.msgpack.Decoder().decode
_parts = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode


def decode_object_keys(encoded: bytes) -> Any:
    """
    Return the decoded data; an object or a dict within a key is a tuple of its items, as a list in a key is a tuple.

    Raises:
        DecodeError, UnicodeDecodeError, RecursionError: the bytes cannot be read, or only with too much work.
    """
    return _Reading().value(encoded)


class _Members(NamedTuple):
    """The members of a list, or the keys and values of a map in turn."""

    are_pairs: bool
    encoded: Sequence[bytes]


class _Reading:
    """The reading of one event's data."""

    def __init__(self) -> None:
        self._work = 0

    def value(self, encoded: bytes, depth: int = 0) -> Any:
        """Return a value that is no key and in none; only what the fast decoder refuses is looked into."""
        try:
            return _decode(encoded)
        except REFUSED:
            members = self._members(encoded, depth)
            if members is None:
                raise
        parts, depth = iter(members.encoded), depth + 1
        if members.are_pairs:
            return {self._key(key, depth): self.value(value, depth) for key, value in zip(parts, parts, strict=True)}
        return [self.value(part, depth) for part in parts]

    def _key(self, encoded: bytes, depth: int) -> Any:
        members = self._members(encoded, depth)
        if members is None:
            return _decode(encoded)
        parts = [self._key(part, depth + 1) for part in members.encoded]
        return tuple(zip(parts[::2], parts[1::2], strict=True)) if members.are_pairs else tuple(parts)

    def _members(self, encoded: bytes, depth: int) -> _Members | None:
        """Return the members of a container; ``None`` of any other value."""
        view = memoryview(encoded)
        first = view[0] if view else 0
        if first >> 4 in (0x8, 0x9):
            each, count, start = 2 if first >> 4 == 0x8 else 1, first & 0x0F, 1
        elif first in _COUNTS:
            each, width = _COUNTS[first]
            count, start = int.from_bytes(view[1 : 1 + width]), 1 + width
        else:
            return None
        self._work += len(view) + MEMBER_WORK * count * each
        if self._work > MAX_WORK or depth > MAX_DEPTH:
            raise msgspec.DecodeError("too large or too deep for data with objects as keys; decode into a type")
        return _Members(each == 2, _parts(b"\xdd" + (count * each).to_bytes(4) + view[start:]))
