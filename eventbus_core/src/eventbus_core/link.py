"""Whether the broker takes what this node has for it, as the application is told."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Final

from eventbus_core.log import get_logger

logger = get_logger("eventbus")

RETRY_PAUSE: Final = 0.2
"""Seconds until what the broker did not do is asked of it again."""


class Link:
    """
    The link to the broker; up until proved otherwise.

    Attributes:
        up: whether the last call to the broker succeeded.
        alone: whether this node started without the broker, and has not joined the others yet.
        losses: how often it went down.
    """

    def __init__(self, node: str, on_disconnected: Callable[[str], None], on_reconnected: Callable[[], None]) -> None:
        self.up = True
        self.alone = False
        self.losses = 0
        self._node = node
        self._down_since = 0.0
        self._down = 0.0
        self._on_disconnected = on_disconnected
        self._on_reconnected = on_reconnected

    def start_alone(self, reason: Exception) -> None:
        """Take note that the broker was not there at the start; up only once this node has :meth:`joined`."""
        self.alone = True
        self.failed(reason)

    def joined(self) -> None:
        """Take note that this node, which started alone, has joined the others."""
        self.alone = False
        self.succeeded()

    def seconds_down(self) -> float:
        """Return for how long it has been down, all losses together."""
        return self._down + (0.0 if self.up else monotonic() - self._down_since)

    def failed(self, reason: Exception) -> None:
        """Take note that a call failed; the first one tells the application."""
        if self.up:
            self.up = False
            self.losses += 1
            self._down_since = monotonic()
            fault = "this node starts alone, the broker is not there" if self.alone else "the broker takes nothing"
            logger.warning("%s, trying again: %s", fault, reason, extra={"node": self._node, "error": str(reason)})
            self._on_disconnected(str(reason))

    def succeeded(self) -> None:
        """Take note that a call succeeded; the first one after a failure tells the application."""
        if not self.up and not self.alone:
            self.up = True
            down = monotonic() - self._down_since
            self._down += down
            logger.info("the broker is back", extra={"node": self._node, "seconds": round(down, 3)})
            self._on_reconnected()
