"""Counts and logs the incoming frames that the node rejects."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final

from eventbus_core.observability.log import LogLimit, get_logger

logger = get_logger("eventbus")

LOG_EVERY: Final = 60.0

STALE: Final = "stale"
LEFT: Final = "left"
OWN: Final = "own event"
THROTTLED: Final = "throttled"
MAX_DETAIL: Final = 500
"""Characters of a detail that are logged."""

_ORDINARY: Final = frozenset((STALE, LEFT))  # a node restarted, or a subscriber left


class Rejections:
    """
    Counts rejections by kind, and logs at most one of each kind in ``LOG_EVERY`` seconds.

    Attributes:
        counts: the number of rejections so far, by kind.
    """

    def __init__(self, node: str) -> None:
        self._node = node
        self.counts: Counter[str] = Counter()
        self._log = LogLimit(LOG_EVERY)

    def add(self, kind: str, detail: object) -> None:
        """Count one rejection, and log it; *detail* says what was wrong."""
        self.counts[kind] += 1
        self.note(kind, detail)

    def note(self, kind: str, detail: object) -> None:
        """Log one rejection that is counted elsewhere."""
        if self._log.allows(kind):
            level = logging.INFO if kind in _ORDINARY else logging.WARNING
            detail = _printable(str(detail))
            extra = {"node": self._node, "kind": kind, "error": detail}
            # the kind is in the format, so that RateLimit counts each kind on its own
            message = f"rejected an incoming frame ({kind}): %s; similar messages are suppressed for %g s"
            logger.log(level, message, detail, LOG_EVERY, extra=extra)


def _printable(detail: str) -> str:
    """Return *detail* in one line of printable characters: what other nodes sent must not forge lines of the log."""
    text = detail if detail.isprintable() else ascii(detail)[1:-1]
    return text if len(text) <= MAX_DETAIL else f"{text[:MAX_DETAIL]}..."
