"""The consumers of queues on this node: they take events that nodes send, call the function, and confirm each."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from functools import partial
from time import time
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
            EventDataError: it holds none, or one that cannot be decoded, which its sender reports.
        """
        asker = request.asker
        if asker is None:
            raise EventDataError(f"client {self.client!r} takes no events: send to queue {self.queue!r} instead")
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
    """
    Takes events for calls of :meth:`receive`; once a call returns an event, it is handled.

    With a *concurrency* of 1 it takes an event only for a call that waits; with more, up to so many of each node before
    calls come for them, which other threads can take out too. If none comes for a tick, it gives them back.
    """

    def __init__(self, queues: Queues, requests: Requests, queue: str, client: str, concurrency: int) -> None:
        super().__init__(queues, requests, queue, client, concurrency)
        self._ahead = False  # whether it takes events that no call waits for
        self._called = False  # since the last tick
        self._calls = 0
        self._taken: deque[tuple[Event | None, Event]] = deque()  # requests, and their events; none: handled already

    @property
    def has_room(self) -> bool:
        """Whether it takes another event now; a node that sends keeps to the concurrency by itself."""
        return self._ahead or len(self._taken) < self._calls

    async def receive(self, check: Callable[[], None]) -> Event:
        """Return the next event; *check* raises once none can come."""
        while True:
            self._calls += 1
            self._ahead, self._called = self._concurrency > 1, True
            try:
                check()
                while (taken := self._take_out()) is None:
                    self.give_turn()
                    await self._progress.wait()
                    check()
            finally:
                self._calls -= 1
                self._give_back()
            if self._settle(*taken, _call):
                return taken[1]

    def take_now(self, soon: Callable[[Callable[[], None]], object]) -> Event | None:
        """Return an event that was taken ahead, if any; from any thread: *soon* calls a function in this one."""
        self._called = True
        while (taken := self._take_out()) is not None:
            if self._settle(*taken, soon):
                return taken[1]
        return None

    def take_back(self, event: Event) -> None:
        """Give *event*, which a call returned, to another call."""
        self._taken.appendleft((None, event))
        self._progress.notify()

    def close(self) -> None:
        """Take no more events, and give back those that no call has returned."""
        super().close()
        self._ahead = False
        self._give_back()

    def tend(self) -> None:
        """Give back what was taken ahead if no call came since the last tick."""
        if not (self._called or self._calls):
            self._ahead = False
            self._give_back()
        self._called = False

    def _begin(self, request: Event, event: Event) -> None:
        self._taken.append((request, event))
        self._progress.notify()

    def _take_out(self) -> tuple[Event | None, Event] | None:
        try:
            return self._taken.popleft()
        except IndexError:  # perhaps another thread took the last one
            return None

    def _settle(self, request: Event | None, event: Event, soon: Callable[[Callable[[], None]], object]) -> bool:
        """Have *event*, which was taken out, confirmed, or reported if it has expired; return whether it counts."""
        if request is None:
            return True
        expired = event.expires is not None and event.expires < time()
        soon(partial(self._expire if expired else self._done, request))
        return not expired

    def _expire(self, request: Event) -> None:
        self._end()
        self._requests.fail(request, Reason.EXPIRED)
        self.give_turn()

    def _give_back(self) -> None:
        """Leave to other consumers, in order, what no call is there for."""
        requests = deque[Event]()
        while not self._ahead and len(self._taken) > self._calls:
            try:
                request, event = self._taken.pop()
            except IndexError:  # another thread took the last one
                break
            if request is None:  # handled already: the next call returns it
                self._taken.append((request, event))
                break
            requests.appendleft(request)
        for request in requests:
            self._end()
            self._refuse(request)


def _call(function: Callable[[], None]) -> None:
    function()
