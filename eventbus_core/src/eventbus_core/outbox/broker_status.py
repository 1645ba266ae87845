"""Whether the broker serves this node, as the application is told."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from time import monotonic

from eventbus_core.model.state import NodeState
from eventbus_core.observability.log import LogLimit, get_logger

logger = get_logger("eventbus")


class Ability(StrEnum):
    """What a node must be able to do; each may fail alone, since each may have a connection or a right of its own."""

    READ = "read"
    WRITE = "write"
    RENEW = "renew its lease"


class BrokerStatus:
    """
    The broker as this node sees it; up until proved otherwise.

    It is up while the node can do all of :class:`Ability`, at every server of the broker. The application is told when
    that ends, and when all of them work again, however often one of them comes and goes in between.

    Attributes:
        up: whether the broker serves this node.
        faults: why, for each ability that the node lacks, and each server of the broker at which it lacks it.
        outages: how often it went down.
    """

    def __init__(
        self, node: str, state: NodeState, on_disconnected: Callable[[str], None], on_reconnected: Callable[[], None]
    ) -> None:
        self.up = True
        self.faults: dict[tuple[Ability, str], str] = {}
        self.outages = 0
        self._node = node
        self._state = state
        self._down_since = 0.0
        self._down = 0.0
        self._log = LogLimit()
        self._on_disconnected = on_disconnected
        self._on_reconnected = on_reconnected

    def seconds_down(self) -> float:
        """Return for how long it has been down, all outages together."""
        return self._down + (0.0 if self.up else monotonic() - self._down_since)

    def failed(self, ability: Ability, reason: object, server: str = "") -> None:
        """
        Note that the node lacks *ability*, at one *server* of the broker if that is named.

        The first lack tells the application, and each new reason is logged.
        """
        place = f" at {server}" if server else ""
        self.faults[ability, server] = fault = f"cannot {ability}{place}: {reason}"
        if self._log.allows(fault):
            text = "node %s: broker unavailable, retrying: %s"
            logger.warning(text, self._node, fault, extra={"node": self._node, "error": fault})
        if self.up:
            self.up = False
            self.outages += 1
            self._down_since = monotonic()
            self._on_disconnected(fault)

    def succeeded(self, ability: Ability, server: str = "") -> None:
        """Note that the node has *ability* at *server*; if it was the last to come back, the application is told."""
        if self.up:
            return
        self.faults.pop((ability, server), None)
        if not self.faults and not self._state.alone:
            self.up = True
            self._log.reset()
            down = monotonic() - self._down_since
            self._down += down
            extra = {"node": self._node, "seconds": round(down, 3)}
            logger.info("node %s: broker available again after %.1f s", self._node, down, extra=extra)
            self._on_reconnected()
