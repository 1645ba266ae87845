"""The result of a check of a broker, for ``eventbus doctor``."""

from __future__ import annotations

from typing import Literal, TypeAlias

import attrs

Level: TypeAlias = Literal["ok", "warning", "error", "unknown"]


@attrs.frozen
class Finding:
    """
    The result of one check.

    Attributes:
        check: what was checked, in a word or two.
        level: ``ok``; ``warning`` if the bus works, but may fail later; ``error`` if it cannot work; ``unknown`` if the
            check could not run.
        detail: what was found.
        hint: what to do about it; empty if there is nothing to do.
    """

    check: str
    level: Level
    detail: str
    hint: str = ""
