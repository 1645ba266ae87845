"""Whether the broker takes what this node has for it, as the application is told."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic

logger = logging.getLogger("eventbus")


class Link:
    """
    The link to the broker; up until proved otherwise.

    Attributes:
        up: whether the last call to the broker succeeded.
        losses: how often it went down.
    """

    def __init__(self, on_disconnected: Callable[[str], None], on_reconnected: Callable[[], None]) -> None:
        self.up = True
        self.losses = 0
        self._down_since = 0.0
        self._down = 0.0
        self._on_disconnected = on_disconnected
        self._on_reconnected = on_reconnected

    def seconds_down(self) -> float:
        """Return for how long it has been down, all losses together."""
        return self._down + (0.0 if self.up else monotonic() - self._down_since)

    def failed(self, reason: Exception) -> None:
        """Take note that a call failed; the first one tells the application."""
        if self.up:
            self.up = False
            self.losses += 1
            self._down_since = monotonic()
            logger.warning("the broker takes nothing, trying again: %s", reason)
            self._on_disconnected(str(reason))

    def succeeded(self) -> None:
        """Take note that a call succeeded; the first one after a failure tells the application."""
        if not self.up:
            self.up = True
            self._down += monotonic() - self._down_since
            logger.info("the broker is back")
            self._on_reconnected()
