"""What is dropped on arrival, and what is said of it."""

from __future__ import annotations

import logging
from collections import Counter
from time import monotonic
from typing import Final

from eventbus_core.log import get_logger

logger = get_logger("eventbus")

LOG_EVERY: Final = 60.0

STALE: Final = "stale"
LEFT: Final = "left"
OWN: Final = "own event"

_ORDINARY: Final = frozenset((STALE, LEFT))  # they come when nodes do, or subscribers go


class Refusals:
    """
    Counts by kind what was dropped, and logs one of each kind in ``LOG_EVERY`` seconds, however many there are.

    Attributes:
        counts: so far, by kind.
    """

    def __init__(self, node: str) -> None:
        self._node = node
        self.counts: Counter[str] = Counter()
        self._log_at: dict[str, float] = {}

    def add(self, kind: str, detail: object) -> None:
        """Count one; *detail* says what was wrong with it."""
        self.counts[kind] += 1
        self.note(kind, detail)

    def note(self, kind: str, detail: object) -> None:
        """Log one that is counted elsewhere."""
        now = monotonic()
        if now >= self._log_at.get(kind, 0.0):
            self._log_at[kind] = now + LOG_EVERY
            level = logging.INFO if kind in _ORDINARY else logging.WARNING
            extra = {"node": self._node, "kind": kind, "error": str(detail)}
            message = f"dropped what came, and of its kind ({kind}) says no more for %g s: %s"  # each kind counts alone
            logger.log(level, message, LOG_EVERY, detail, extra=extra)
