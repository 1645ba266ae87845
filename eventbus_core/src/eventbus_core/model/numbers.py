"""The numbers that nodes send each other."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Final

import msgspec

MAX_NUMBER: Final = 2**62
"""Sums and differences of such numbers, forged ones included, still fit into a frame."""

Number = Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER)]


@lru_cache(4096)
def shared(number: int) -> int:
    """Return one object for equal numbers, as ``sys.intern`` does for text: each node of a process keeps the same."""
    return number
