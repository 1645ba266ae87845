"""How much may be done for one peer in a second."""

from __future__ import annotations

from collections import Counter
from typing import Final

MAX_KEYS: Final = 10_000
KEYS_AT_LIMIT: Final = 10
"""As many keys may use up their budgets in one second."""


class Budget:
    """
    *limit* units in each second for each key, usually the node that asks; for all keys together, ``KEYS_AT_LIMIT``
    times that.

    It bounds all that the bus does on request of another node: a process that can write to the broker can send requests
    under any name, and under as many as it likes. Keys beyond ``MAX_KEYS`` share one budget.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._until = 0.0
        self._used: Counter[str] = Counter()
        self._spent = 0

    def expire(self, now: float) -> None:
        """Forget what was used if the second has passed."""
        if now >= self._until:
            self._until = now + 1.0
            self._used.clear()
            self._spent = 0

    def allows(self, key: str, now: float, units: int = 1) -> bool:
        """Return whether *key* has not used up its budget of this second, and take *units* from it if so."""
        self.expire(now)
        if key not in self._used and len(self._used) >= MAX_KEYS:
            key = ""
        if self._used[key] >= self._limit or self._spent >= KEYS_AT_LIMIT * self._limit:
            return False
        self._used[key] += units
        self._spent += units
        return True
