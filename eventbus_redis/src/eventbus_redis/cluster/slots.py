"""The hash slots of a cluster, and the slots of our channels. No I/O."""

from __future__ import annotations

import re
from binascii import crc_hqx
from functools import cache
from typing import Final

from eventbus_core.backend import Partition

SLOTS: Final = 16_384
SLOT_BITS: Final = 14
DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"

_NUMBERED: Final = re.compile(r"([nl]:(?:.*[^0-9])?)([0-9]{1,9})")


def key_slot(name: bytes) -> int:
    """Return the slot of a key or a channel: of the text in its first braces, if there is any, else of all of it."""
    start = name.find(b"{")
    end = name.find(b"}", start + 1)
    return crc_hqx(name[start + 1 : end] if start >= 0 and end > start + 1 else name, 0) % SLOTS


def spread(number: int) -> int:
    """
    Return the slot of the *number*-th of things that are to lie evenly over the slots, however many there are.

    Its bits are those of the number in reverse order: each further slot halves a largest gap.
    """
    return int(f"{number % SLOTS:0{SLOT_BITS}b}"[::-1], 2)


def partition_slot(partition: Partition, namespace: str) -> int:
    """
    Return the slot of the channel of *partition*.

    Lanes lie evenly over the slots, and so do nodes whose ids differ in a number at the end; other nodes lie where the
    hash of their ids falls. All nodes compute the same slot, so the cluster's state decides nothing.
    """
    numbered = _NUMBERED.fullmatch(partition)
    family, number = numbered.groups() if numbered else (partition, "0")
    return (key_slot(f"{namespace}:{family}".encode()) + spread(int(number))) % SLOTS


def slot_tag(slot: int) -> str:
    """Return a short text whose slot is *slot*, for the braces in a name."""
    return _tags()[slot]


@cache
def _tags() -> tuple[str, ...]:
    """Return the first tag of each slot; computed once, in about 0.1 s."""
    tags: dict[int, str] = {}
    number = 0
    while len(tags) < SLOTS:
        tag = _text(number)
        tags.setdefault(crc_hqx(tag.encode(), 0) % SLOTS, tag)
        number += 1
    return tuple(tags[slot] for slot in range(SLOTS))


def _text(number: int) -> str:
    text = ""
    while number or not text:
        number, digit = divmod(number, len(DIGITS))
        text = DIGITS[digit] + text
    return text
