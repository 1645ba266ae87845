"""The consumers of queues on this node: they take events that nodes send, call the function, and confirm each."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from functools import partial
from typing import Final

from eventbus_core.concurrency.notifier import Notifier
from eventbus_core.concurrency.signal import Signal
from eventbus_core.errors import EventBusError, EventDataError
from eventbus_core.mailbox.handlers import HandlerFunction, HandlerScheduler
from eventbus_core.membership.held_client import HeldClient
from eventbus_core.model.event import Event
from eventbus_core.model.functions import check_function
from eventbus_core.model.reports import Reason
from eventbus_core.routing.queues import Queues
from eventbus_core.routing.requests import Requests
from eventbus_core.routing.work_queue import BUSY

DONE: Final = "$sys.queue.done"
"""The answer of a consumer that has handled the event; its data says whether the same node may send another now."""
MAX_REFUSED: Final = 10_000
"""Nodes that are told when the consumer is free again; any other asks by itself."""


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

    def make_receiver(self, queue: str, client: str) -> QueueReceiver:
        """Return a consumer without a function that is not open yet."""
        return QueueReceiver(self._queues, self._requests, queue, client)

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


class QueueConsumer(ABC):
    """
    Takes each event of *queue* that comes to *client*, up to *concurrency* events at a time.

    It refuses what comes beyond that: then the event waits at its sender, where another consumer can take it. Nodes
    whose events were refused take turns.
    """

    def __init__(self, queues: Queues, requests: Requests, queue: str, client: str, concurrency: int) -> None:
        self._queues = queues
        self._requests = requests
        self.queue = queue
        self.client = client
        self._concurrency = concurrency
        self._working = 0
        self._open = False
        self._refused: dict[str, None] = {}  # nodes, in the order in which they were refused
        self._progress = Notifier()

    def open(self) -> None:
        """Take events from now on."""
        self._open = True
        self._queues.offer(self.queue, self.client, self._concurrency)

    @property
    def is_open(self) -> bool:
        """Whether :meth:`open` was called, and :meth:`close` was not."""
        return self._open

    @property
    def has_room(self) -> bool:
        """Whether it takes another event now."""
        return self._working < self._concurrency

    def close(self) -> None:
        """Take no more events; does nothing on successive calls."""
        self._progress.notify()
        if self._open:
            self._open = False
            self._queues.offer(self.queue, self.client, 0)

    def withdraw(self) -> None:
        """Give no turn to the nodes whose events are not taken any more."""
        self._refused = {node: None for node in self._refused if self._queues.serves(node)}

    async def finished(self) -> None:
        """Return once the events that were taken are handled."""
        while self._working:
            await self._progress.wait()

    def take(self, request: Event) -> None:
        """
        Handle the event that *request* holds, or refuse it.

        Raises:
            EventDataError: it cannot be decoded; its sender reports it.
        """
        asker = request.asker
        if asker is None:
            return
        if not (self._serves(asker) and self.has_room):
            self._refuse(request)
            return
        try:
            event = request.decode(Event)
        except EventDataError:
            self._requests.fail(request, Reason.REFUSED)
            self.give_turn()
            raise
        self._working += 1
        self._begin(request, event)

    def _serves(self, node: str) -> bool:
        return self._open and self._queues.serves(node)

    def _refuse(self, request: Event) -> None:
        asker = str(request.asker)
        if self._serves(asker) and len(self._refused) < MAX_REFUSED:
            self._refused[asker] = None
        self._requests.answer(request, BUSY, None)

    def give_turn(self) -> None:
        """Have the node that has waited for longest send an event, as the one before made no use of its turn."""
        if self._refused and self.has_room:
            node = next(iter(self._refused))
            del self._refused[node]
            self._queues.give_turn(node, self.client)

    @abstractmethod
    def _begin(self, request: Event, event: Event) -> None:
        """Have *event* handled, and call :meth:`_done` with its *request* then."""

    def _done(self, request: Event) -> None:
        """Confirm the event, and give the next turn to the node that has waited for longest."""
        self._end()
        asker = str(request.asker)
        again = self.has_room and next(iter(self._refused), asker) == asker
        self._requests.answer(request, DONE, again)
        if again:
            self._refused.pop(asker, None)
            return
        if self._queues.serves(asker):
            self._refused[asker] = None  # perhaps it has more
        self.give_turn()

    def _end(self) -> None:
        self._working -= 1
        self._progress.notify()


class FunctionConsumer(QueueConsumer):
    """Calls *function* for each event."""

    def __init__(
        self,
        queues: Queues,
        requests: Requests,
        scheduler: HandlerScheduler,
        queue: str,
        client: str,
        function: HandlerFunction,
        concurrency: int,
    ) -> None:
        super().__init__(queues, requests, queue, client, concurrency)
        self._scheduler = scheduler
        self._function = check_function(function)
        self._context = copy_context()

    def _begin(self, request: Event, event: Event) -> None:
        context = self._context.copy()
        try:
            result = context.run(self._function, event)
            if inspect.isawaitable(result):
                self._scheduler.start(partial(self._wait, request, event, result), context)
                return
        except BaseException as error:
            self._fail(event, error)
        self._done(request)

    async def _wait(self, request: Event, event: Event, result: Awaitable[object]) -> None:
        try:
            await result
        except BaseException as error:
            self._fail(event, error)
        self._done(request)

    def _fail(self, event: Event, error: BaseException) -> None:
        """Report *error*; raises it if the bus closes: then another consumer gets the event."""
        name = f"of queue {self.queue}"
        try:
            failure = self._scheduler.contain(f"handler {name}", error)
        except BaseException:
            self._end()
            raise
        self._scheduler.failed(name, event, failure)


class QueueReceiver(QueueConsumer):
    """Takes an event only for a call of :meth:`receive` that waits; once the call returns it, it is handled."""

    def __init__(self, queues: Queues, requests: Requests, queue: str, client: str) -> None:
        super().__init__(queues, requests, queue, client, 1)
        self._calls = 0
        self._taken: deque[tuple[Event, Event]] = deque()
        self._returned: deque[Event] = deque()  # handled already, but what called for them was cancelled

    @property
    def has_room(self) -> bool:
        """Whether a call waits for which no event has come yet."""
        return self._calls > len(self._taken) + len(self._returned)

    async def receive(self, check: Callable[[], None]) -> Event:
        """Return the next event; *check* raises once none can come."""
        self._calls += 1
        try:
            check()
            while not (self._taken or self._returned):
                self.give_turn()
                await self._progress.wait()
                check()
            if self._returned:
                return self._returned.popleft()
            request, event = self._taken.popleft()
        finally:
            self._calls -= 1
            self._give_back()
        self._done(request)
        return event

    def take_back(self, event: Event) -> None:
        """Give *event*, which a call returned, to another call."""
        self._returned.append(event)
        self._progress.notify()

    def _begin(self, request: Event, event: Event) -> None:
        self._taken.append((request, event))
        self._progress.notify()

    def _give_back(self) -> None:
        """Leave to other consumers what came for calls that were cancelled."""
        while len(self._taken) > self._calls:
            request, _ = self._taken.pop()
            self._end()
            self._refuse(request)
