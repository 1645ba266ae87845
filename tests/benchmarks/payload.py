"""What events carry, so that each can be recognised: the number in its stream, and when it was sent."""

from __future__ import annotations

from struct import Struct
from typing import Any, Final, Protocol

from eventbus_core.cli.demo.check import BODIES, body_of
from tests.benchmarks.cases import MIXED

WARM: Final = -1  # the stream of events that open the ways and are not measured
_HEAD = Struct("<iiq")


class Payload(Protocol):
    """Makes the data of events, and reads it again."""

    def make(self, stream: int, number: int, sent_at: int) -> Any:
        """Return the data of an event."""

    def read(self, data: Any) -> tuple[int, int, int, str]:
        """Return what :meth:`make` was given, and the body that :class:`Checker` wants to see."""


class Dictionary:
    """A dict with a text of 84 characters; about 110 bytes on the wire."""

    def make(self, stream: int, number: int, sent_at: int) -> Any:
        return {"s": stream, "n": number, "t": sent_at, "body": BODIES[(stream + number) & 63]}

    def read(self, data: Any) -> tuple[int, int, int, str]:
        return data["s"], data["n"], data["t"], data["body"]


class Bytes:
    """So many bytes, 16 at least."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._rest = (bytes(range(256)) * (size // 256 + 1))[: size - _HEAD.size]

    def make(self, stream: int, number: int, sent_at: int) -> Any:
        return _HEAD.pack(stream, number, sent_at) + self._rest

    def read(self, data: Any) -> tuple[int, int, int, str]:
        stream, number, sent_at = _HEAD.unpack_from(data)
        intact = len(data) == self._size and data.endswith(self._rest)
        return stream, number, sent_at, body_of(stream, number) if intact else ""


class Mixed:
    """Of 20 successive events of a stream 16 have 100 bytes, 3 have 2 KiB, and one has 64 KiB."""

    def __init__(self) -> None:
        small, middle, large = Bytes(100), Bytes(2048), Bytes(65_536)
        self._parts = [*([small] * 16), *([middle] * 3), large]
        self._by_size = {100: small, 2048: middle, 65_536: large}

    def make(self, stream: int, number: int, sent_at: int) -> Any:
        return self._parts[(stream + number) % 20].make(stream, number, sent_at)

    def read(self, data: Any) -> tuple[int, int, int, str]:
        return self._by_size[len(data)].read(data)

    @staticmethod
    def is_small(stream: int, number: int) -> bool:
        """Return whether that event has 100 bytes."""
        return (stream + number) % 20 < 16


def payload(size: int) -> Payload:
    """Return what makes events of *size* bytes of data; 0: a dict, ``MIXED``: several sizes."""
    if size == MIXED:
        return Mixed()
    return Bytes(size) if size else Dictionary()
