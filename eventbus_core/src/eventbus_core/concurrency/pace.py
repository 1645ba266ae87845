"""The pauses between the ticks of a node: short ones while there is anything to look after."""

from __future__ import annotations

from typing import Final

import anyio

TICK: Final = 0.05
LONGEST_REST: Final = 0.5
RESTS_PER_LEASE: Final = 20
"""A node that rests for half a lease takes itself for stopped."""


def longest_rest(lease: float) -> float:
    """Return for how many seconds a node with this *lease* may rest."""
    return max(TICK, min(LONGEST_REST, lease / RESTS_PER_LEASE))


class Pace:
    """
    The pauses between the ticks of a node: ``TICK`` seconds, or *rest* seconds while there is nothing to look after.

    A component that adds something to look after calls :meth:`hurry`: then the next tick comes within ``TICK``.
    """

    def __init__(self, rest: float) -> None:
        self._rest = rest
        self._scope: anyio.CancelScope | None = None  # of the rest

    @property
    def resting(self) -> bool:
        """Whether the current pause is a long one."""
        return self._scope is not None

    def hurry(self) -> None:
        """End a rest: the next tick comes within ``TICK``."""
        if self._scope is not None:
            self._scope.cancel()
            self._scope = None

    async def pause(self, *, rest: bool) -> None:
        """Return when it is time for the next tick; *rest* says that there is nothing to look after."""
        if rest:
            with anyio.CancelScope() as self._scope:  # costs half of the CPU time of a wait with a timeout
                await anyio.sleep(self._rest)
            if self._scope is not None:
                self._scope = None
                return
        await anyio.sleep(TICK)
