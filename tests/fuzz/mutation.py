"""Frames that are in order, and what becomes of them in the hands of someone who knows the format."""

from __future__ import annotations

import random
from collections.abc import Iterator
from struct import Struct
from typing import Any, Final
from zlib import crc32

import msgspec

from eventbus_core.mailbox.loss_markers import LOSS
from eventbus_core.membership.peer_directory.messages import HEARTBEAT, LEAVING_NODE, QUERY, REPLY, SUPERSEDED
from eventbus_core.node.snapshot import STATS
from eventbus_core.routing.requests import FAILURE
from eventbus_core.routing.takeover import HANDED_OVER, MOVED, TAKEN_OVER
from eventbus_core.routing.undeliverable import UNDELIVERABLE
from eventbus_core.session.protocol import ASK, AT, GRANT, MISSING, NOT_KEPT, RECEIVER_LEFT, WHERE

encode = msgspec.msgpack.encode
PREFIX: Final = Struct(">2sBBHI")

NODES: Final = ("n1", "n2", "n3", "n.4", "n0", "", "*", "a b", "x" * 65)
PARTITIONS: Final = ("n:n0", "all", "l:0", "l:1", "l:99", "n:n1", "", "x" * 100)
NAMES: Final = ("alice", "acme/bob", "node", "owner", "epoch", "me", "")
NOTES: Final = (ASK, AT, GRANT, MISSING, NOT_KEPT, RECEIVER_LEFT, WHERE, "from-the-future", "")
TYPES: Final = (
    *("order", "a.b.c", "", "*", ">", "a..b", "." * 300, "a." * 2000, LOSS, "$sys", "$sys.unknown"),
    *(HEARTBEAT, REPLY, LEAVING_NODE, QUERY, SUPERSEDED, FAILURE, HANDED_OVER, STATS, TAKEN_OVER, MOVED, UNDELIVERABLE),
)
TARGETS: Final = ("alice", "acme/bob", "@n0", "@n1", "#order", "#a.b.c", "*", "", "@", "#", "/", "x" * 3000)
ALIVE_NODE: Final = {"node": "n1", "incarnation": 7, "lease": 10.0, "wire_version": 1, "lanes": 64}
PAYLOADS: Final[dict[str, Any]] = {
    HEARTBEAT: ALIVE_NODE,
    LEAVING_NODE: ALIVE_NODE,
    QUERY: {"me": ALIVE_NODE, "number": 5, "clients": ["alice"], "epochs": [9], "takeover": True},
    REPLY: {"me": ALIVE_NODE, "number": 5, "held": {"alice": 3}, "claiming": {"acme/bob": 4}},
    SUPERSEDED: {"client": "acme/bob", "epoch": 3, "node": "n1"},
    TAKEN_OVER: {"client": "acme/bob", "epoch": 3, "node": "n1"},
    HANDED_OVER: "1-1",
    FAILURE: "it failed",
    STATS: None,
    MOVED: {"client": "acme/bob", "owner": {"node": "n1", "incarnation": 7, "epoch": 3}},
    UNDELIVERABLE: {"id": "1-1", "type": "order", "source": "alice", "target": "acme/bob", "reason": "client gone"},
}


class Mutator:
    """Draws frames, the same ones from the same *seed*."""

    def __init__(self, seed: int) -> None:
        self._luck = random.Random(seed)
        self._next = 1
        self._last = forged(encode(self._header(0)), b"\xdd\0\0\0\0")

    def frames(self, count: int) -> Iterator[bytes]:
        """Yield the next *count* frames."""
        for _ in range(count):
            yield self.frame()

    def frame(self) -> bytes:
        """Return the next frame; most are out of order in some way, and some in none."""
        luck = self._luck
        draw = luck.random()
        if draw < 0.5:
            frame = self._built()
        elif draw < 0.75:
            frame = self._reforged(self._last)
        else:
            frame = self._scrambled(self._last)
        if len(frame) > 4096 and luck.random() < 0.9:
            self._last = self._built()
        else:
            self._last = frame
        return frame

    def _built(self) -> bytes:
        """Build one field by field; now and then a field is of another type."""
        events = [self._event() for _ in range(self._luck.choice((0, 0, 1, 1, 1, 2, 5)))]
        body = b"".join(map(encode, events))
        return forged(encode(self._header(len(events))), b"\xdd" + len(events).to_bytes(4, "big") + body)

    def _header(self, count: int) -> list[Any]:
        luck = self._luck
        notes = [self._note() for _ in range(luck.choice((0, 0, 0, 1, 3, 50 if luck.random() < 0.02 else 0)))]
        self._next += count
        first = self._next + luck.choice((0, 0, 0, 0, 1, -1)) if luck.random() < 0.95 else self._number()
        namespace = "ns" if luck.random() < 0.98 else luck.choice(("other", "", "n" * 300))
        node = luck.choice(NODES[:4] if luck.random() < 0.95 else NODES)
        # Of a node that ever had a large incarnation, all frames of smaller ones are dropped: two nodes have none.
        incarnation = luck.choice((0, 0, 1, 1, 1)) if node in NODES[:2] else self._number()
        fields = [
            namespace,
            node,
            incarnation,
            luck.randrange(1, 6),
            self._partition(),
            first,
            count,
            self._position(),
            notes,
        ]
        return self._odd(fields)

    def _event(self) -> list[Any]:
        luck = self._luck
        target = luck.choice(TARGETS)
        kind = target[1:] if target[:1] == "#" and luck.random() < 0.8 else luck.choice(TYPES)
        source = luck.choice(("@n1", "acme/bob", "", self._text()))
        event: list[Any] = [kind, source, target, luck.choice(("1-1", "1-2", "")), self._payload(kind)]
        more: list[Any] = [None, 0, 0, None, None, None, None, None]
        if luck.random() < 0.5:
            more = [
                luck.choice((None, None, {}, {self._text(): self._text()})),
                luck.choice((0, 0, 1, self._number(), -1)),
                luck.choice((0, 1, 2, 3, self._number(), -(2**63))),
                luck.choice((None, "n1", "n2", "a b", self._text())),
                luck.choice((None, "@n1", "@n0", "@", "alice", self._text())),
                luck.choice((None, None, "1-1", self._text())),
                luck.choice((None, None, 0.0, 1e300, float("nan"), float("-inf"))),
                None,
            ]
        return self._odd(event + more[: luck.randrange(9)])

    def _note(self) -> list[Any]:
        luck = self._luck
        positions = [
            self._odd([self._partition(), luck.randrange(1, 6), self._number(), self._position()])
            for _ in range(luck.choice((0, 1, 2)))
        ]
        return self._odd([luck.choice(NOTES), luck.randrange(1, 6), 1, self._number(), self._number(), positions])

    def _payload(self, kind: str) -> Any:
        """Return data such as an event of that *kind* has, or any other."""
        luck = self._luck
        draw = luck.random()
        if draw < 0.7:
            return self._spoilt(PAYLOADS.get(kind, {"a": 1}))
        if draw < 0.95:
            return self._value(3)
        return msgspec.Raw(luck.choice((b"\x91", b"\x81\xa0", b"\x81\x90")) * luck.choice((3, 600, 2000)) + b"\xc0")

    def _spoilt(self, value: Any) -> Any:
        """Return *value*, or something else in its place, or in the place of a part of it."""
        if self._luck.random() < 0.08:
            return self._value(2)
        if isinstance(value, dict):
            return {name: self._spoilt(part) for name, part in value.items()}
        return [self._spoilt(part) for part in value] if isinstance(value, list) else value

    def _value(self, depth: int) -> Any:
        luck = self._luck
        draw = luck.randrange(12 if depth else 9)
        if draw < 2:
            return self._number()
        if draw < 5:
            return luck.choice(("n1", "n2", "alice", "acme/bob", "1-1", "", "$sys.taken-over"))
        if draw < 9:
            return luck.choice(
                (None, True, -1, 0.5, float("nan"), float("inf"), 1e300, -(2**63), b"\0\xff", self._text())
            )
        if draw == 9:
            return [self._value(depth - 1) for _ in range(luck.randrange(4))]
        return {luck.choice(NAMES): self._value(depth - 1) for _ in range(luck.randrange(6))}

    def _odd(self, fields: list[Any]) -> list[Any]:
        """Return *fields*; seldom with one that does not belong there, or too few, or too many."""
        luck = self._luck
        draw = luck.random()
        if draw < 0.03:
            fields[luck.randrange(len(fields))] = self._value(2)
        elif draw < 0.04:
            del fields[luck.randrange(len(fields)) :]
        elif draw < 0.05:
            fields += [self._value(1), self._value(1)]
        return fields

    def _number(self) -> int:
        luck = self._luck
        return luck.choice(
            (0, 1, 2, 3, luck.randrange(100), 2**31, 2**53, 2**61, 2**62 - 1, 2**62, 2**62 + 1, 2**64 - 1)
        )

    def _position(self) -> int:
        return self._luck.choice((0, 100, 1000, self._number()))

    def _partition(self) -> str:
        return self._luck.choice(PARTITIONS[:3] if self._luck.random() < 0.9 else PARTITIONS)

    def _text(self) -> str:
        return self._luck.choice(("a", "\0", "\n", "\u202e", "é" * 50, "x" * 300, "\U0001f600"))

    def _scrambled(self, frame: bytes) -> bytes:
        """Change bytes here and there, and leave the checksum as it was."""
        luck = self._luck
        changed = bytearray(frame)
        for _ in range(luck.choice((1, 1, 2, 4))):
            place = luck.randrange(len(changed) + 1)
            match luck.randrange(5):
                case 0:
                    del changed[place:]
                case 1:
                    changed[place:place] = luck.randbytes(luck.randrange(1, 9))
                case 2:
                    del changed[place : place + luck.randrange(1, 9)]
                case 3:
                    changed[place : place + 4] = luck.choice(
                        (b"\xff\xff\xff\xff", b"\xdd\xff\xff\xff", b"\xc6\x7f\xff\xff")
                    )
                case _ if changed:
                    changed[place % len(changed)] ^= 1 << luck.randrange(8)
        return bytes(changed)

    def _reforged(self, frame: bytes) -> bytes:
        """Change bytes behind the prefix, and make the checksum fit again."""
        changed = self._scrambled(frame[PREFIX.size :])
        size = int.from_bytes(frame[4:6], "big") if len(frame) >= 6 else 0
        return forged(changed[:size], changed[size:])


def forged(header: bytes, body: bytes) -> bytes:
    """Return a frame whose checksum and lengths are right, whatever it holds."""
    header, body = header[:0xFFFF], header[0xFFFF:] + body
    return PREFIX.pack(b"EB", 1, 0, len(header), crc32(header + body)) + header + body
