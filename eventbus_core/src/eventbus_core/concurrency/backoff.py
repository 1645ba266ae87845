"""Growing pauses between attempts."""

from __future__ import annotations

import random
from typing import Final

import anyio

FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 2.0
RETRY_PAUSE: Final = 0.2
"""The longest time in seconds until a call that the broker failed is made again."""


def retry_pause() -> float:
    """Return the seconds until the next attempt, for attempts that come one after the other without growing pauses."""
    return _shortened(RETRY_PAUSE)


class Backoff:
    """
    The pauses of one series of attempts, in seconds: each twice as long as the one before, up to a limit.

    Each is shortened by up to a half at random, so that many nodes do not retry at the same moment.
    """

    def __init__(self, first: float = FIRST_PAUSE, longest: float = LONGEST_PAUSE) -> None:
        self._first = self._next = first
        self._longest = longest

    @property
    def failed(self) -> bool:
        """Whether there was a pause since the last :meth:`reset`."""
        return self._next != self._first

    def reset(self) -> None:
        """Begin again with the shortest pause: an attempt succeeded."""
        self._next = self._first

    async def pause(self) -> None:
        """Sleep until it is time for the next attempt."""
        await anyio.sleep(self.next())

    def next(self) -> float:
        """Return the seconds until it is time for the next attempt."""
        pause, self._next = self._next, min(2 * self._next, self._longest)
        return _shortened(pause)


def _shortened(pause: float) -> float:
    return pause * random.uniform(0.5, 1.0)
