"""The consumers of queues on this node."""

from __future__ import annotations

from eventbus_core.concurrency.signal import Signal
from eventbus_core.errors import EventBusError
from eventbus_core.mailbox.handler import HandlerFunction
from eventbus_core.mailbox.handler_scheduler import HandlerScheduler
from eventbus_core.membership.held_client import HeldClient
from eventbus_core.node.queue_consumer import FunctionConsumer, QueueConsumer
from eventbus_core.node.queue_receiver import QueueReceiver
from eventbus_core.routing.queues import Queues
from eventbus_core.routing.requests import Requests


class QueueConsumers:
    """
    The consumers of this node, by the names of their clients.

    Attributes:
        opened: called with the queue of each consumer that opens.
        dispatchers: names of the clients by which this node dispatches retained queues.
    """

    def __init__(self, queues: Queues, requests: Requests, scheduler: HandlerScheduler) -> None:
        self.opened: Signal[[str]] = Signal()
        self.dispatchers: set[str] = set()
        self._queues = queues
        self._requests = requests
        self._scheduler = scheduler
        self._consumers: dict[str, QueueConsumer] = {}
        queues.passed.connect(self._passed)
        requests.lost.connect(self.turn_lost)

    def make(self, queue: str, client: str, function: HandlerFunction, concurrency: int) -> QueueConsumer:
        """Return a consumer that is not open yet."""
        return FunctionConsumer(self._queues, self._requests, self._scheduler, queue, client, function, concurrency)

    def make_receiver(self, queue: str, client: str, concurrency: int) -> QueueReceiver:
        """Return a consumer without a function that is not open yet."""
        return QueueReceiver(self._queues, self._requests, queue, client, concurrency)

    def open(self, consumer: QueueConsumer) -> None:
        """Have *consumer*, whose client was claimed, take events from now on."""
        self._consumers[consumer.client] = consumer
        consumer.open()
        self.opened(consumer.queue)

    def consume(self, queue: str) -> bool:
        """Return whether one of them takes events of *queue*."""
        return any(consumer.queue == queue for consumer in self._consumers.values())

    def stays(self, client: str) -> bool:
        """Return whether *client* stays on a node that drains: a consumer, which ends itself, or a dispatcher."""
        return client in self._consumers or client in self.dispatchers

    def ended(self, held: HeldClient, _reason: EventBusError) -> None:
        """Take no more events for *held*, whose handle ends, if it is a consumer."""
        if (consumer := self._consumers.pop(held.name, None)) is not None:
            consumer.close()

    def turn_lost(self, _node: str) -> None:
        """Give the turns of a node that is gone, or does not listen, to other nodes; it may have had none."""
        for consumer in self._consumers.values():
            consumer.give_turn()

    def _passed(self, client: str) -> None:
        if (consumer := self._consumers.get(client)) is not None:
            consumer.give_turn()

    def tend(self) -> None:
        """Leave to other consumers what was taken for calls that do not come."""
        for consumer in self._consumers.values():
            if isinstance(consumer, QueueReceiver):
                consumer.tend()

    def withdraw(self) -> None:
        """Take no more events of other nodes."""
        self._queues.withdraw()
        for consumer in self._consumers.values():
            consumer.withdraw()

    async def drain(self) -> None:
        """Take no more events, and return once those that were taken are handled."""
        consumers = list(self._consumers.values())
        for consumer in consumers:
            consumer.close()
        for consumer in consumers:
            await consumer.finished()
