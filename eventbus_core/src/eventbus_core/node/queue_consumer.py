"""A consumer of a queue: it takes events that nodes send, calls the function, and confirms each."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from contextvars import copy_context
from functools import partial
from typing import Final

from eventbus_core.concurrency.notifier import Notifier
from eventbus_core.errors import EventDataError
from eventbus_core.mailbox.handler import HandlerFunction
from eventbus_core.mailbox.handler_scheduler import HandlerScheduler
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
