"""The other nodes, as a node without a directory hears of them."""

from __future__ import annotations

from collections.abc import Container
from time import monotonic
from typing import Final

from eventbus_core.membership.peer_directory.messages import Heartbeat

MAX_NODES: Final = 100_000


class Peers:
    """The nodes whose heartbeats came, each until its lease ends by our clock."""

    def __init__(self) -> None:
        self._nodes: dict[str, tuple[Heartbeat, float]] = {}

    def alive(self) -> list[tuple[Heartbeat, float]]:
        """Return the nodes whose lease has not ended, and the seconds that it has left."""
        now = monotonic()
        return [(alive, ends - now) for alive, ends in self._nodes.values() if ends > now]

    def all_in(self, nodes: Container[str]) -> bool:
        """Return whether *nodes* contains every live one."""
        return all(alive.node in nodes for alive, _ in self.alive())

    def hear(self, alive: Heartbeat) -> bool | None:
        """Take in a heartbeat; return whether it says anything new, or ``None`` if there are too many nodes."""
        known = self._nodes.get(alive.node)
        if known is None and len(self._nodes) >= MAX_NODES:
            return None
        self._nodes[alive.node] = alive, monotonic() + alive.lease
        return known is None or known[0] != alive

    def forget(self, gone: Heartbeat) -> None:
        """Note that a node has left in the incarnation of *gone*, or a former one."""
        known = self._nodes.get(gone.node)
        if known is not None and known[0].incarnation <= gone.incarnation:
            del self._nodes[gone.node]

    def forget_dead(self) -> bool:
        """Forget nodes whose lease has ended, unless all of them have; return whether one is left or there was none."""
        alive = [alive.node for alive, _ in self.alive()]
        if self._nodes and not alive:
            return False
        self._nodes = {node: self._nodes[node] for node in alive}
        return True

    def clear(self) -> None:
        """Forget all nodes."""
        self._nodes.clear()
