"""Loggers whose rate is bounded, whatever fails how often."""

from __future__ import annotations

import logging
from typing import Final

PERIOD: Final = 1.0
MOST: Final = 5
"""Records of one message and node that are let through in each ``PERIOD``."""
MAX_KINDS: Final = 1000


class RateLimit(logging.Filter):
    """
    Lets through ``MOST`` records of a message and node in each ``PERIOD``.

    The first one after that says how many were left out, in its text and in the field ``left_out``.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kinds: dict[tuple[str, object], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether *record* is let through."""
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
            record.msg = f"{record.msg} (%d more like it were left out)"
            record.args = (*(record.args if isinstance(record.args, tuple) else ()), count - MOST)
        return True


def get_logger(name: str) -> logging.Logger:
    """Return the logger *name* of a package, the same each time, with its rate bounded; backends use it as we do."""
    logger = logging.getLogger(name)
    if not any(isinstance(found, RateLimit) for found in logger.filters):
        logger.addFilter(RateLimit())
    return logger
