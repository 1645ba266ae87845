"""
Tokens: the text of a position in a retained stream, which the end client keeps.

The form is ``<stream><epoch>:<offset>-<fingerprint>``, and perhaps ``:<offset>-<fingerprint>`` of an earlier event, its
*anchor*. Numbers are to the base 36; *stream* is four characters of a digest, so that a token of another stream is
noticed. A token holds no secret, and gives no right: a reader names the stream that it reads.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple

MAX_TOKEN: Final = 63
DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
TAG_SIZE: Final = 4

_PLACE: Final = "([0-9a-z]{1,11})-([0-9a-z]{1,10})"
_FORM: Final = re.compile(f"([0-9a-z]{{{TAG_SIZE}}})([0-9a-z]{{1,12}}):{_PLACE}(?::{_PLACE})?")


class Mark(NamedTuple):
    """An event by its offset, and the fingerprint of its entry."""

    offset: int
    fingerprint: int


class Token(NamedTuple):
    """
    A place in a stream: behind the event *mark*.

    Attributes:
        tag: of the stream.
        epoch: of the stream's life.
        mark: the last event that the reader has.
        anchor: an event from some seconds before, if known.
    """

    tag: str
    epoch: str
    mark: Mark
    anchor: Mark | None = None

    @classmethod
    def parse(cls, text: str, stream: str) -> Token | None:
        """Return the token in *text*, or ``None`` if that is none, or one of another stream than *stream*."""
        match = _FORM.fullmatch(text) if len(text) <= MAX_TOKEN else None
        if match is None or match[1] != tag_of(stream):
            return None
        anchor = None if match[5] is None else Mark(int(match[5], 36), int(match[6], 36))
        return cls(match[1], match[2], Mark(int(match[3], 36), int(match[4], 36)), anchor)

    def __str__(self) -> str:
        marks = (self.mark,) if self.anchor is None else (self.mark, self.anchor)
        places = (f"{_text(mark.offset)}-{_text(mark.fingerprint)}" for mark in marks)
        return f"{self.tag}{self.epoch}:{':'.join(places)}"


@lru_cache(maxsize=4096)
def tag_of(stream: str) -> str:
    """Return the part of a token that is common to all tokens of *stream*."""
    number = int.from_bytes(blake2b(stream.encode(), digest_size=8).digest(), "big")
    return _text(number % 36**TAG_SIZE).rjust(TAG_SIZE, "0")


def _text(number: int) -> str:
    text = DIGITS[number % 36]
    while number := number // 36:
        text = DIGITS[number % 36] + text
    return text
