"""A consumer of a queue that returns the events, and may take some before calls come for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from time import time

from eventbus_core.model.event import Event
from eventbus_core.model.reports import Reason
from eventbus_core.node.queue_consumer import QueueConsumer
from eventbus_core.routing.queues import Queues
from eventbus_core.routing.requests import Requests


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
