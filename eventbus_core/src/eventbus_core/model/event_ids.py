"""Ids of events, unique in the namespace."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from itertools import chain, count
from typing import Final

_LAST_DIGITS: Final = [f"{number:03x}" for number in range(4096)]


class EventIds:
    """
    The ids of the events of one node.

    Attributes:
        next: returns an id that no other event of the namespace has.
    """

    __slots__ = ("next",)

    def __init__(self) -> None:
        self.next = _ids(secrets.token_hex(8))

    def begin(self, incarnation: int) -> None:
        """Begin again with ids that carry *incarnation*, which the directory issued to this node alone."""
        self.next = _ids(f"{incarnation:x}")


def _ids(prefix: str) -> Callable[[], str]:
    """Return a function that returns another id with each call: one addition of two texts, no Python frame."""
    return chain.from_iterable(map(f"{prefix}-{block:x}".__add__, _LAST_DIGITS) for block in count()).__next__
