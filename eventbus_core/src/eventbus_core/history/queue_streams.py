"""What the node knows of retained queues: which there are, which nodes dispatch them, and what was missed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Final

import attrs

from eventbus_core.backend import History, NewEntry
from eventbus_core.concurrency.signal import Signal
from eventbus_core.history.history_reader import HistoryReader, fingerprint
from eventbus_core.history.retaining_sender import RetainingSender
from eventbus_core.history.stream_names import record_stream
from eventbus_core.membership.channel import ControlChannel
from eventbus_core.model.event import Event
from eventbus_core.model.names import is_identifier
from eventbus_core.model.reports import Gap, GapReason
from eventbus_core.model.retention import Retention, record_retention
from eventbus_core.observability.log import get_logger
from eventbus_core.options import BusOptions
from eventbus_core.routing.queues import Queues
from eventbus_core.routing.requests import Requests

logger = get_logger("eventbus")

MORE: Final = "$sys.queue.more"
DISPATCHER: Final = "$sys.queue.dispatcher"
MAX_DISPATCHERS: Final = 10_000
"""Queues of which a node remembers the dispatcher; for another it asks all nodes."""
ASK_EVERY: Final = 2.0
"""Seconds after which all nodes are asked again for the dispatcher of a queue."""


@attrs.frozen
class Dispatching:
    """*node* dispatches *queue* from now on; none does if it is empty."""

    queue: str
    node: str


class QueueStreams:
    """
    Tells dispatchers of retained queues that the history has more, and other nodes which queues this one dispatches.

    Attributes:
        reader, queues: of this node.
        sender: puts events into the streams of retained queues.
        gaps: how often a dispatcher of this node found that events are gone, by reason.
        missed: events that were trimmed before they were handled, as far as they could be counted.
        vacant: called when a queue may have no dispatcher any more.
    """

    def __init__(
        self,
        options: BusOptions,
        channel: ControlChannel,
        sender: RetainingSender,
        history: History,
        reader: HistoryReader,
        queues: Queues,
        requests: Requests,
        on_gap: Callable[[Gap], None],
    ) -> None:
        self.reader = reader
        self.queues = queues
        self.sender = sender
        self.gaps: Counter[str] = Counter()
        self.missed = 0
        self.vacant: Signal[[]] = Signal()
        self._options = options
        self._channel = channel
        self._history = history
        self._on_gap = on_gap
        self._dispatchers: dict[str, str] = {}  # the nodes, by their queues
        self._asked: dict[str, float] = {}  # when all nodes were asked for the dispatcher of a queue
        self._wakes: dict[str, Callable[[], None]] = {}  # of dispatchers on this node
        requests.lost.connect(self._node_gone)
        channel.on_query(MORE, self._take_more)
        channel.on(DISPATCHER, self._take_dispatcher)

    def retention(self, queue: str) -> Retention | None:
        """Return how much of *queue* is kept; ``None`` if it is not retained."""
        return self._options.retain_queues.of(queue)

    def appended(self, queue: str) -> None:
        """Tell the dispatcher of *queue* that the history has more events."""
        if (node := self._dispatchers.get(queue)) is not None:
            self._channel.deliver(node, self._channel.message(MORE, node, queue))
        elif self._asked.get(queue, -inf) <= (now := monotonic()) - ASK_EVERY:
            if len(self._asked) >= MAX_DISPATCHERS:
                self._asked.clear()
            self._asked[queue] = now
            self.queues.send_all(MORE, queue)

    def dispatch(self, queue: str, wake: Callable[[], None]) -> None:
        """Call *wake* when *queue*, which this node dispatches from now on, has more events."""
        self._wakes[queue] = wake
        self._know(Dispatching(queue, self._channel.node))
        self.queues.send_all(DISPATCHER, Dispatching(queue, self._channel.node))

    def end_dispatch(self, queue: str) -> None:
        """Undo :meth:`dispatch`; another node may dispatch *queue* now."""
        del self._wakes[queue]
        self._know(Dispatching(queue, ""))
        self.queues.send_all(DISPATCHER, Dispatching(queue, ""))

    async def record(self, queue: str, retention: Retention, body: bytes) -> None:
        """Keep *body*, which says what of *queue* is handled, in the history."""
        kept = record_retention(retention)
        await self._history.append([NewEntry(record_stream(queue), fingerprint(), 1, body, kept)])

    def tell(self, queue: str, reason: GapReason, missed: int) -> None:
        """Report that *missed* events of *queue* are gone that no consumer has handled; 0: their number is unknown."""
        self.gaps[reason] += 1
        self.missed += missed
        text = "node %s: %s events of queue %s are gone that no consumer has handled: %s"
        extra = {"node": self._channel.node, "queue": queue, "missed": missed, "reason": str(reason)}
        number = f"{missed:,}" if missed else "perhaps"
        logger.warning(text, self._channel.node, number, queue, reason, extra=extra)
        self._on_gap(Gap(queue, "", missed, reason))

    def _take_more(self, message: Event) -> None:
        queue, source = message.decode(str), message.source[1:]
        wake = self._wakes.get(queue)
        if wake is not None:
            wake()
        if not is_identifier(source):
            self._channel.reject(message, "comes from no node")
        elif wake is not None and source != self._channel.node and message.target == "*":
            self._channel.send(source, DISPATCHER, Dispatching(queue, self._channel.node))

    def _take_dispatcher(self, message: Event) -> None:
        dispatching = message.decode(Dispatching)
        if dispatching.node and not is_identifier(dispatching.node):
            self._channel.reject(message, "names no node")
            return
        self._know(dispatching)

    def _know(self, dispatching: Dispatching) -> None:
        self._dispatchers.pop(dispatching.queue, None)
        if not dispatching.node:
            self.vacant()
            return
        if len(self._dispatchers) >= MAX_DISPATCHERS:
            del self._dispatchers[next(iter(self._dispatchers))]
        self._dispatchers[dispatching.queue] = dispatching.node

    def _node_gone(self, node: str) -> None:
        gone = [queue for queue, dispatcher in self._dispatchers.items() if dispatcher == node]
        for queue in gone:
            del self._dispatchers[queue]
        if gone:
            self.vacant()
