"""The numbers that nodes send each other."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

MAX_NUMBER: Final = 2**62
"""Sums and differences of such numbers, forged ones included, still fit into a frame."""

Number = Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER)]
