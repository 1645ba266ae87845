"""Loggers with a bounded rate, however often something fails."""

from __future__ import annotations

import logging
from math import inf
from time import monotonic
from typing import Final

PERIOD: Final = 1.0
MOST: Final = 5
"""How many records with the same message and node pass in each ``PERIOD``."""
MAX_KINDS: Final = 1000
MOST_TOLD: Final = 16


class RateLimit(logging.Filter):
    """
    Passes ``MOST`` records with the same message and node in each ``PERIOD``, and suppresses the rest.

    The next record of that kind says how many were suppressed, in its text and in the field ``left_out``.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kinds: dict[tuple[str, object], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether *record* passes."""
        kind = str(record.msg), getattr(record, "node", None)
        since, count = self._kinds.get(kind, (float("-inf"), 0))
        if record.created - since < PERIOD:
            self._kinds[kind] = since, count + 1
            return count < MOST
        if len(self._kinds) >= MAX_KINDS:
            self._kinds.clear()
        self._kinds[kind] = record.created, 1
        if count > MOST:
            record.left_out = count - MOST
            record.msg = f"{record.msg} (%d similar records were suppressed)"
            record.args = (*(record.args if isinstance(record.args, tuple) else ()), count - MOST)
        return True


class LogLimit:
    """
    Says when a record may be logged: one of each kind in *period* seconds, by default one until :meth:`reset`.

    At most ``MOST_TOLD`` kinds are told apart in a period; further ones may not be logged.
    """

    def __init__(self, period: float = inf) -> None:
        self._period = period
        self._next_at: dict[str, float] = {}

    def allows(self, kind: str = "") -> bool:
        """Return whether a record of *kind* may be logged now; it then counts as logged."""
        now = monotonic()
        if now < self._next_at.get(kind, 0.0):
            return False
        if len(self._next_at) >= MOST_TOLD:
            self._next_at = {known: until for known, until in self._next_at.items() if now < until}
            if len(self._next_at) >= MOST_TOLD:
                return False
        self._next_at[kind] = now + self._period
        return True

    def reset(self) -> None:
        """Allow a record of each kind again: what they were about is over."""
        self._next_at.clear()


def get_logger(name: str) -> logging.Logger:
    """Return the logger *name*, the same object each time, with a bounded rate; for the core and for backends."""
    logger = logging.getLogger(name)
    if not any(isinstance(found, RateLimit) for found in logger.filters):
        logger.addFilter(RateLimit())
    return logger
