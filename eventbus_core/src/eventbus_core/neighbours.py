"""The nodes that say that they live, as one that has no directory hears of them."""

from __future__ import annotations

from collections.abc import Container
from time import monotonic
from typing import Final

from eventbus_core.inquiry import Alive

MAX_NODES: Final = 100_000


class Neighbours:
    """The other nodes that were heard of, each until its lease ends by our clock."""

    def __init__(self) -> None:
        self._nodes: dict[str, tuple[Alive, float]] = {}

    def alive(self) -> list[tuple[Alive, float]]:
        """Return those whose lease has not ended, and for how long it still lasts."""
        now = monotonic()
        return [(alive, ends - now) for alive, ends in self._nodes.values() if ends > now]

    def all_in(self, nodes: Container[str]) -> bool:
        """Return whether *nodes* has all that live."""
        return all(alive.node in nodes for alive, _ in self.alive())

    def hear(self, alive: Alive) -> bool | None:
        """Take note of *alive*; return whether it says anything new, or ``None`` if there are too many."""
        known = self._nodes.get(alive.node)
        if known is None and len(self._nodes) >= MAX_NODES:
            return None
        self._nodes[alive.node] = alive, monotonic() + alive.lease
        return known is None or known[0] != alive

    def see_off(self, gone: Alive) -> None:
        """Take note that a node has left in the incarnation of *gone*, or a former one."""
        known = self._nodes.get(gone.node)
        if known is not None and known[0].incarnation <= gone.incarnation:
            del self._nodes[gone.node]

    def forget_dead(self) -> bool:
        """Forget whose lease has ended, unless that is everybody; return whether it is not."""
        alive = [alive.node for alive, _ in self.alive()]
        if self._nodes and not alive:
            return False
        self._nodes = {node: self._nodes[node] for node in alive}
        return True

    def clear(self) -> None:
        """Forget them all."""
        self._nodes.clear()
