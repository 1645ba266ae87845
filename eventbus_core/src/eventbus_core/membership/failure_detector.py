"""The failure detector: finds out which nodes are dead, from what the directory says of the live ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from time import monotonic
from typing import Final

import anyio

from eventbus_core.backend import Directory, Node
from eventbus_core.concurrency.backoff import retry_pause
from eventbus_core.concurrency.service_group import ServiceGroup
from eventbus_core.concurrency.signal import Signal
from eventbus_core.concurrency.worker import Worker
from eventbus_core.errors import EventBusError
from eventbus_core.membership.lease import Lease
from eventbus_core.observability.log import get_logger
from eventbus_core.observability.rejections import STALE, Rejections
from eventbus_core.outbox.broker_status import BrokerStatus
from eventbus_core.session.registry import Sessions
from eventbus_core.session.wire import Header

logger = get_logger("eventbus")

CHECK_INCARNATIONS_EVERY: Final = 0.5
MAX_SUSPECT_INCARNATIONS: Final = 1000


class Deaths:
    """
    Finds out which deaths of other nodes this node must announce.

    A node that is gone before its lease could have ended has left; one that is gone afterwards died. Every node finds
    that out, and the one of the smallest incarnation announces it. That one may have died too, so the others remember
    for the length of a *lease* what it should have announced. A node that left in order while the announcing one stood
    still counts as dead: that one did not see its last renewal.
    """

    def __init__(self, node: str, lease: float) -> None:
        self._node = node
        self._lease = lease
        self._ends: dict[str, float] = {}
        self._dead: dict[str, float] = {}
        self._held_back = False

    def look(self, nodes: Sequence[Node], asked: float, answered: float, *, incomplete: bool = False) -> list[str]:
        """
        Return the deaths that this node must announce, by the answer of the directory and the times of the call.

        While the directory's view is *incomplete* there are none; nodes that are still gone afterwards come then,
        however long it takes.
        """
        alive = {node.id for node in nodes}
        if self._node not in alive:
            return []
        if self._held_back:
            self._dead = dict.fromkeys(self._dead, answered)
        self._dead |= {id: answered for id, end in self._ends.items() if id not in alive and end <= answered}
        self._dead = {
            id: since for id, since in self._dead.items() if id not in alive and answered - since <= self._lease
        }
        self._ends = {node.id: asked + node.lease_left for node in nodes}
        announces = min(nodes, key=lambda node: node.incarnation).id == self._node
        self._held_back = announces and incomplete
        if incomplete or not announces:
            return []
        dead, self._dead = list(self._dead), {}
        return dead


class FailureDetector:
    """
    Asks the directory about nodes that stopped responding, and about all once a lease.

    Attributes:
        dead: called with a node that is gone: sessions and queues to it must end.
        announced: called with a node whose death this node must announce.
    """

    def __init__(
        self,
        node: str,
        lease_seconds: float,
        directory: Directory,
        sessions: Sessions,
        lease: Lease,
        status: BrokerStatus,
        rejections: Rejections,
        services: ServiceGroup,
    ) -> None:
        self.dead: Signal[[str]] = Signal()
        self.announced: Signal[[str]] = Signal()
        self._node = node
        self._seconds = lease_seconds
        self._directory = directory
        self._sessions = sessions
        self._lease = lease
        self._status = status
        self._rejections = rejections
        self._deaths = Deaths(node, lease_seconds)
        self._suspects: set[str] = set()
        self._roll_call_at = monotonic() + lease_seconds
        self._absent: set[str] = set()  # at the last roll call
        self._suspect_incarnations: set[str] = set()  # nodes that a frame, perhaps a forged one, said to have restarted
        self._check_incarnations_at = 0.0
        self._announcing = False
        self._worker = Worker(services, self._run)
        sessions.when_stale(self._on_stale)
        sessions.when_restart_heard(self._verify)

    def suspect(self, node: str) -> None:
        """Find out whether *node* is still alive, in the same incarnation: it does not take its events."""
        self._suspects.add(node)
        self._verify(node)

    def look_for_deaths(self) -> None:
        """Find out which nodes died since the last call, now that our own lease is confirmed."""
        self._announcing = True
        self.tend()

    def has_due(self) -> bool:
        """Return whether the directory is to be asked soon."""
        return bool(self._suspect_incarnations)

    def tend(self) -> None:
        """Ask the directory if something is due."""
        if self._is_due():
            self._worker.wake()

    async def _run(self) -> None:
        while self._is_due():
            try:
                await self._ask()
            except EventBusError as error:
                logger.debug("node %s: cannot ask which nodes are alive: %s", self._node, error)
                await anyio.sleep(retry_pause())

    def _is_due(self) -> bool:
        now = monotonic()
        return (
            bool(self._suspects)
            or self._announcing
            or now >= self._roll_call_at
            or (bool(self._suspect_incarnations) and now >= self._check_incarnations_at)
        )

    async def _ask(self) -> None:
        """Declare suspects dead that are gone, and every node that was gone at two roll calls, a lease apart."""
        asked = monotonic()
        suspects, self._suspects = self._suspects, set()
        try:
            nodes = await self._directory.nodes()
        except EventBusError:
            self._suspects |= suspects
            raise
        self._check_incarnations(nodes)
        if self._announcing:
            self._announcing = False
            self._announce(nodes, asked)
        alive = {node.id for node in nodes}
        if self._node not in alive or self._lease.view_incomplete():
            alive |= suspects | self._sessions.nodes()  # it lost its memory; nodes that are alive enter again
        if monotonic() >= self._roll_call_at:
            self._roll_call_at = monotonic() + self._seconds
            absent = self._sessions.nodes() - alive
            suspects |= absent & self._absent
            self._absent = absent
        for node in suspects - alive:
            self.dead(node)

    def _announce(self, nodes: Sequence[Node], asked: float) -> None:
        if self._status.up:  # else it may be this node that was cut off
            for node in self._deaths.look(nodes, asked, monotonic(), incomplete=self._lease.view_incomplete()):
                self.announced(node)

    def _check_incarnations(self, nodes: Iterable[Node]) -> None:
        """
        Tell the sessions which incarnation is alive of each node of which a frame of another one came.

        If the directory never issued that one, the sessions listen again to the node; else the node has restarted.
        """
        for node in nodes:
            if node.id in self._suspect_incarnations:
                self._sessions.correct_incarnation(node.id, node.incarnation)
        self._suspect_incarnations.clear()
        self._check_incarnations_at = monotonic() + CHECK_INCARNATIONS_EVERY

    def _on_stale(self, header: Header) -> None:
        self._rejections.note(STALE, f"a frame of {header.node} in its former incarnation {header.incarnation}")
        self._verify(header.node)

    def _verify(self, node: str) -> None:
        """Find out in which incarnation *node* is alive."""
        if len(self._suspect_incarnations) < MAX_SUSPECT_INCARNATIONS:
            self._suspect_incarnations.add(node)
        self.tend()
