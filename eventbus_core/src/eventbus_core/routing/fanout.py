"""Events for many receivers: topics and broadcasts, and those for the handlers of this node."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, TypeAlias

from eventbus_core.backend import ALL_NODES, lane_partition
from eventbus_core.concurrency.deadlines import Deadlines
from eventbus_core.mailbox.mailbox import Mailbox
from eventbus_core.model.event import Event, copy_event, encode_unread
from eventbus_core.model.reports import Reason
from eventbus_core.model.topics import PatternIndex, lane_of
from eventbus_core.options import BusOptions
from eventbus_core.outbox.outbox import Outbox
from eventbus_core.outbox.partition_queue import PartitionQueue
from eventbus_core.routing.subscriptions import Subscriptions
from eventbus_core.routing.undeliverable import UndeliverableReports
from eventbus_core.session.registry import Sessions

Wait: TypeAlias = Coroutine[Any, Any, None] | None
"""The coroutine that a sender awaits until its event is accepted; ``None`` if it already is."""
Indexes: TypeAlias = Sequence[PatternIndex[Mailbox]]
Spread: TypeAlias = tuple[Event, PartitionQueue | None, Indexes]
"""An event, the queue for other nodes, and where its receivers here are found."""


class FanOut:
    """
    Hands an event to the queue of a lane or of all nodes, and to every matching mailbox of this node.

    Attributes:
        accepted, local: events taken from the application, and deliveries within this node.
    """

    def __init__(
        self,
        options: BusOptions,
        outbox: Outbox,
        sessions: Sessions,
        subscriptions: Subscriptions,
        deadlines: Deadlines,
        reports: UndeliverableReports,
    ) -> None:
        self.accepted = self.local = 0
        self._options = options
        self._outbox = outbox
        self._sessions = sessions
        self._subscriptions = subscriptions
        self._deadlines = deadlines
        self._reports = reports
        self._topics: Indexes = (subscriptions.topics, subscriptions.locals)
        self._handlers: Indexes = (subscriptions.handlers, subscriptions.locals)
        self._lanes: dict[str, PartitionQueue] = {}

    def begin(self) -> None:
        """Look up the queues of lanes again: they may be others now."""
        self._lanes.clear()

    def publish(self, topic: str, event: Event, size: int, timeout: float | None = None) -> Wait:
        """
        Send to every subscriber of *topic*; what is returned raises.

        Before this node has joined the others the event is for its own subscribers alone.

        Raises:
            TransportUnavailable: there was no room within *timeout* (``send_timeout``); no receiver gets the event.
        """
        queue = (self._lanes.get(topic) or self._lane(topic)) if self._sessions.incarnation else None
        return self._spread(event, size, queue, self._topics, timeout)

    def announce(self, topic: str, event: Event, size: int) -> None:
        """Publish without waiting for room: for the few events that the bus itself publishes."""
        if self._sessions.incarnation:
            self._outbox.add(self._lanes.get(topic) or self._lane(topic), encode_unread(event))
        for index in self._topics:
            for mailbox in index.match(topic):
                mailbox.put([copy_event(event)], size, None)

    async def relay(self, topic: str, event: Event, size: int) -> None:
        """Do what :meth:`announce` does, once there is room."""
        if self._sessions.incarnation:
            queue = self._lanes.get(topic) or self._lane(topic)
            while not queue.has_room():
                await self._outbox.wait_for_room(queue)
        self.announce(topic, event, size)

    def broadcast(self, event: Event, size: int, timeout: float | None = None, *, include_self: bool) -> Wait:
        """
        Send to every node; what is returned raises.

        Raises:
            TransportUnavailable: there was no room within *timeout* (``send_timeout``); no receiver gets the event.
        """
        here = self._handlers if include_self else ()
        queue = self._outbox.queue(ALL_NODES) if self._sessions.incarnation else None
        return self._spread(event, size, queue, here, timeout)

    def emit(self, event: Event, size: int, timeout: float | None = None) -> Wait:
        """Hand to this node's own handlers alone."""
        return self._spread(event, size, None, self._handlers, timeout)

    def to_handlers(self, event: Event, size: int, timeout: float | None) -> Wait:
        """Hand an event that is addressed to this node to its handlers, or report that there is none."""
        if not self._subscriptions.handlers.match(event.type):
            self.accepted += 1
            self._reports.report(event, self._reports.node, Reason.NO_HANDLER)
            return None
        return self._spread(event, size, None, (self._subscriptions.handlers,), timeout)

    def _lane(self, topic: str) -> PartitionQueue:
        if len(self._lanes) >= self._options.owner_cache:
            self._lanes.clear()
        queue = self._outbox.queue(lane_partition(lane_of(topic, self._options.lanes)))
        self._lanes[topic] = queue
        return queue

    def publish_each(self, events: Sequence[Event], size: int, timeout: float | None) -> Wait:
        """
        Publish *events*, one for each topic, of which each receiver gets the first that it is subscribed to.

        Raises:
            TransportUnavailable: there was no room within *timeout* (``send_timeout``); no receiver gets any.
        """
        spreads = [self._published(event) for event in events]
        if self._first_obstacle(spreads) is not None:
            return self._spread_later(spreads, size, timeout)
        for event, queue, indexes in spreads:
            self._hand_out(event, size, queue, _receivers(event, indexes))
        return None

    def _published(self, event: Event) -> Spread:
        topic = event.type
        queue = (self._lanes.get(topic) or self._lane(topic)) if self._sessions.incarnation else None
        return event, queue, self._topics

    def _spread(
        self, event: Event, size: int, queue: PartitionQueue | None, indexes: Indexes, timeout: float | None
    ) -> Wait:
        """Hand *event* to a queue and to all receivers here, a copy to each, once all of them have room."""
        receivers = _matching(event.type, indexes)
        full = queue is not None and queue.size >= queue.limit and not queue.has_room()
        for mailbox in receivers:
            full = full or not mailbox.has_room()
        if full:
            return self._spread_later([(event, queue, indexes)], size, timeout)
        self._hand_out(event, size, queue, receivers)
        return None

    def _hand_out(self, event: Event, size: int, queue: PartitionQueue | None, receivers: Sequence[Mailbox]) -> None:
        if queue is not None:
            self._outbox.add(queue, encode_unread(event))
        self.accepted += 1
        self.local += len(receivers)
        for place, mailbox in enumerate(receivers):
            mailbox.add(copy_event(event) if place else event, size)

    def _obstacle(self, receivers: Sequence[Mailbox], queue: PartitionQueue | None) -> Mailbox | PartitionQueue | None:
        for mailbox in receivers:
            if not mailbox.has_room():
                return mailbox
        return queue if queue is not None and not queue.has_room() else None

    def _first_obstacle(self, spreads: Sequence[Spread]) -> Mailbox | PartitionQueue | None:
        obstacles = (self._obstacle(_receivers(event, indexes), queue) for event, queue, indexes in spreads)
        return next((obstacle for obstacle in obstacles if obstacle is not None), None)

    async def _spread_later(self, spreads: Sequence[Spread], size: int, timeout: float | None) -> None:
        with self._deadlines.until_accepted(spreads[0][0].target, timeout):
            while (obstacle := self._first_obstacle(spreads)) is not None:
                await (
                    obstacle.wait_for_room() if isinstance(obstacle, Mailbox) else self._outbox.wait_for_room(obstacle)
                )
        for event, queue, indexes in spreads:
            self._hand_out(event, size, queue, _receivers(event, indexes))


def _receivers(event: Event, indexes: Indexes) -> tuple[Mailbox, ...]:
    return _matching(event.type if event.topic is None else event.target[1:], indexes)


def _matching(key: str, indexes: Indexes) -> tuple[Mailbox, ...]:
    found: tuple[Mailbox, ...] = ()
    for index in indexes:
        found += index.match(key)
    return found
