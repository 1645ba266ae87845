"""Nodes that stopped responding, or left: what was sent to them, or waits for them, is forwarded or reported."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from eventbus_core.concurrency.signal import Signal
from eventbus_core.membership.failure_detector import FailureDetector
from eventbus_core.model.event import Event
from eventbus_core.model.reports import Reason
from eventbus_core.outbox.outbox import Outbox
from eventbus_core.outbox.partition_queue import PartitionQueue
from eventbus_core.routing.forwarding import Forwarder, Stray
from eventbus_core.routing.requests import Requests
from eventbus_core.routing.table import RoutingTable
from eventbus_core.routing.takeover import Takeover
from eventbus_core.routing.undeliverable import UndeliverableReports
from eventbus_core.session.outgoing import Outgoing
from eventbus_core.session.registry import Sessions

LOOK_EVERY: Final = 1.0
"""Seconds after which the node of a request without an answer is looked for, and again."""


class LostNodes:
    """
    Takes back events from nodes that do not respond, are dead, or leave.

    Attributes:
        unreached: called with a node that does not listen, as the transport counted no receiver: it may be dead.
    """

    def __init__(
        self,
        outbox: Outbox,
        sessions: Sessions,
        table: RoutingTable,
        takeover: Takeover,
        forwarder: Forwarder,
        reports: UndeliverableReports,
        requests: Requests,
        detector: FailureDetector,
    ) -> None:
        self.unreached: Signal[[str]] = Signal()
        self._node = reports.node
        self._outbox = outbox
        self._sessions = sessions
        self._table = table
        self._takeover = takeover
        self._forwarder = forwarder
        self._reports = reports
        self._requests = requests
        self._detector = detector
        self._look_at = 0.0
        outbox.silent.connect(self.suspect)
        outbox.unreached.connect(self._unreached)
        detector.dead.connect(self._give_up)
        sessions.when_left(self._on_left)
        sessions.when_restarted(self._on_restarted)

    def tend(self, now: float) -> None:
        """Find out whether nodes are still alive from which answers to requests are late."""
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY
            for node in self._requests.nodes(before=now - LOOK_EVERY):
                self._detector.suspect(node)

    def suspect(self, queue: PartitionQueue) -> None:
        """Find out whether the node of *queue* is still alive, as it does not take its events."""
        if queue.node is not None:
            self._table.resettle(queue)
            self._detector.suspect(queue.node)

    def _unreached(self, queue: PartitionQueue) -> None:
        self.suspect(queue)
        if queue.node is not None:
            self._takeover.unreached(queue.node)
            self.unreached(queue.node)

    def _give_up(self, node: str) -> None:
        """Forget *node*, which is dead, and report what it had not confirmed."""
        queue = self._outbox.known(node)
        if queue is not None and queue.after_write is not None:
            queue.after_write.append(lambda: self._give_up(node))  # events come back from the write if it was not there
            return
        self._table.forget_node(node)
        self._sessions.forget(node)
        waiting: list[Event] = []
        if queue is not None:
            session, first = queue.session, queue.session.handled
            sent, waiting = self._outbox.abandon(session, first)
            self._report_dead(sent, session.forgotten(first))
        self._requests.node_gone(node, f"node {node!r} died before it answered", {event.id for event in waiting})
        for event in waiting:
            self._forwarder.stray(Stray(event, event.accepted_by(self._node)))

    def _on_restarted(self, session: Outgoing) -> None:
        """Report what a node had not confirmed when it ended and started again; what waits goes to it as it is now."""
        node = session.node
        queue = None if node is None else self._outbox.known(node)
        if node is None or queue is None or queue.session is not session:
            return
        if queue.after_write is not None:
            queue.after_write.append(lambda: self._on_restarted(session))
            return
        first, end = session.restarted()
        self._table.forget_node(node)
        sent = session.kept_events(first, end)
        self._report_dead(sent, session.forgotten(first, end))
        later = {event.id for event in session.kept_events(end) + self._outbox.waiting(queue)}
        self._requests.node_gone(node, f"node {node!r} was started again before it answered", later)

    def _report_dead(self, sent: Iterable[Event], forgotten: int) -> None:
        """Report the events *sent* to a node that is dead, and count those *forgotten*."""
        if forgotten:
            self._reports.count_unknown(forgotten, Reason.NODE_DEAD)
        for event in sent:  # they may have been handled: sent elsewhere, they could be handled twice
            self._reports.report(event, event.accepted_by(self._node), Reason.NODE_DEAD)

    def _on_left(self, session: Outgoing, first: int) -> None:
        """Forward what a node that leaves has not taken in."""
        node = session.partition.partition(":")[2]
        self._table.forget_node(node)
        sent, waiting = self._outbox.abandon(session, first)
        left = sent + waiting
        self._requests.node_gone(node, f"node {node!r} left before it answered", {event.id for event in left})
        for event in left:
            self._forwarder.stray(Stray(event, event.accepted_by(self._node)))
