"""One queue, as a node that sends to it sees it: the events that wait, and the consumers that take them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import takewhile
from math import inf
from time import time
from typing import Final, NamedTuple

from eventbus_core.concurrency.notifier import Notifier
from eventbus_core.errors import RequestFailed
from eventbus_core.model.event import Event
from eventbus_core.model.event_ids import EventIds
from eventbus_core.model.reports import Reason
from eventbus_core.options import BusOptions
from eventbus_core.routing.requests import Pending, Requests

BUSY: Final = "$sys.queue.busy"
"""The answer of a consumer that handles as many events as it may."""
FIND_EVERY: Final = 2.0
"""Seconds after which a node whose events wait asks again for consumers."""
FAULTS_OF_EVENTS: Final = (Reason.EXPIRED, Reason.REFUSED)
"""Reasons for which a request fails although its consumer is still there."""
MAX_CONSUMERS: Final = 10_000
"""Consumers of one queue that a node sends to."""


class Job(NamedTuple):
    """
    An event that a queue accepted, and the size of its data.

    Attributes:
        number: of the event, in the order in which the queue accepted them.
        ended: called once it was handled or reported, if the history keeps it until then.
    """

    number: int
    event: Event
    size: int
    ended: Callable[[], None] | None = None


class KnownConsumer:
    """A consumer, on any node, that takes *concurrency* of our events at a time."""

    __slots__ = ("_working", "client", "concurrency", "node")

    def __init__(self, client: str, node: str, concurrency: int) -> None:
        self.client = client
        self.node = node
        self.concurrency = concurrency
        self._working = 0

    @property
    def free(self) -> bool:
        """Whether it may get another event, as far as its concurrency goes."""
        return self._working < self.concurrency

    def begin(self) -> None:
        """Count one event more that is with it."""
        self._working += 1

    def end(self) -> None:
        """Count one event less."""
        self._working -= 1


class Assignment(Pending):
    """
    The wait until *consumer* has handled the event of *job*; *ended* is called once, with the outcome.

    Attributes:
        id: of the request, one for each attempt: what is said of an earlier one cannot pass for the outcome.
    """

    __slots__ = ("_ended", "consumer", "id", "job")

    def __init__(
        self, id: str, job: Job, consumer: KnownConsumer, ended: Callable[[Assignment, Event | Exception], None]
    ) -> None:
        super().__init__(consumer.client, consumer.node)
        self.id = id
        self.job = job
        self.consumer = consumer
        self._ended = ended

    def settle(self, outcome: Event | Exception) -> None:
        """End the wait; the first outcome counts."""
        if self._outcome is None:
            self._outcome = outcome
            self._ended(self, outcome)


class WorkQueue:
    """
    Keeps each event until a consumer has handled it, and hands it out to one consumer at a time.

    Consumers take turns. An event whose consumer is gone goes to another one, before those that wait.

    Attributes:
        redelivered: how often an event went to another consumer.
    """

    def __init__(
        self,
        name: str,
        options: BusOptions,
        ids: EventIds,
        requests: Requests,
        hand_out: Callable[[Assignment], None],
        report: Callable[[Event, Reason], None],
    ) -> None:
        self.name = name
        self.redelivered = 0
        self._frozen: Callable[[], bool] = lambda: False
        self._find_at = 0.0
        self._expires_at = inf  # no event that waits expires before
        self._options = options
        self._ids = ids
        self._requests = requests
        self._hand_out = hand_out
        self._report = report
        self._waiting: deque[Job] = deque()
        self._working: dict[Assignment, None] = {}
        self._withdrawn = False
        self._accepted = 0
        self._size = 0  # of the data of all of them
        self._consumers: dict[str, KnownConsumer] = {}
        self._free: dict[str, KnownConsumer] = {}  # that take an event now; the first is the next
        self._progress = Notifier()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._working)

    def tend(self, now: float) -> bool:
        """Hand out what has come back; return whether to ask for consumers, as events wait and none takes them."""
        self.dispatch()
        if self._expires_at < time():
            self._report_expired()
        if not self._waiting or self._free or now < self._find_at:
            return False
        self._find_at = now + FIND_EVERY
        return True

    def has_room(self) -> bool:
        """Return whether another event may wait."""
        return len(self) < self._options.mailbox_events and self._size < self._options.mailbox_size

    async def wait_for_progress(self) -> None:
        """Return once an event was handled or reported, or the consumers changed."""
        await self._progress.wait()

    async def found(self) -> None:
        """Return once a consumer is known, or there is nothing for one."""
        while len(self) and not self._consumers:
            await self._progress.wait()

    async def drained(self) -> None:
        """Return once every event is handled, or no consumer is known."""
        while len(self) and self._consumers:
            await self._progress.wait()

    def add(self, event: Event, size: int, ended: Callable[[], None] | None = None) -> None:
        """Accept *event*, whose data takes *size* bytes; *ended* is called once it was handled or reported."""
        self._size += size
        self._accepted += 1
        job = Job(self._accepted, event, size, ended)
        self._waiting.append(job)
        self._note_expiry(job)
        self.dispatch()

    def hold_while(self, frozen: Callable[[], bool]) -> None:
        """Hand out nothing while *frozen* returns true."""
        self._frozen = frozen

    def dispatch(self) -> None:
        """Hand out what waits to the consumers that take something now."""
        while self._waiting and self._free and not self._requests.full and not self._frozen():
            job = self._waiting.popleft()
            consumer = self._free.pop(next(iter(self._free)))
            consumer.begin()
            self._make_free(consumer)
            assignment = Assignment(self._ids.next(), job, consumer, self._on_outcome)
            self._working[assignment] = None
            self._requests.add(assignment.id, assignment)
            self._hand_out(assignment)

    def offer(self, client: str, node: str, concurrency: int) -> bool:
        """
        Note that the consumer *client* on *node* takes events, *concurrency* at a time; none if that is 0.

        Return whether an event waited for it.
        """
        if not concurrency:
            self._forget(self._consumers.get(client))
            return False
        consumer = self._consumers.get(client)
        if consumer is None or (consumer.node, consumer.concurrency) != (node, concurrency):
            if len(self._consumers) >= MAX_CONSUMERS:
                return False
            consumer = self._consumers[client] = KnownConsumer(client, node, concurrency)
            self._progress.notify()
        waited = bool(self._waiting)
        self._make_free(consumer)
        self.dispatch()
        return waited

    def node_gone(self, node: str) -> None:
        """Send nothing more to the consumers on *node*."""
        for consumer in [one for one in self._consumers.values() if one.node == node]:
            self._forget(consumer)

    def withdraw(self) -> None:
        """Forget the events that wait, and those that come back from consumers: the history keeps them."""
        self._withdrawn = True
        self._size -= sum(job.size for job in self._waiting)
        self._waiting.clear()
        self._progress.notify()

    def give_up(self) -> int:
        """
        Forget every event that is not known to be handled, as the bus closes.

        Report those that no history keeps; return how many those were.
        """
        jobs = [assignment.job for assignment in self._working] + list(self._waiting)
        for assignment in self._working:
            self._requests.close(assignment.id)
        self._working.clear()
        self._waiting.clear()
        lost = [job for job in jobs if job.ended is None]
        for job in lost:
            self._end(job, Reason.BUS_CLOSED)
        self._progress.notify()
        return len(lost)

    def _make_free(self, consumer: KnownConsumer) -> None:
        """Put *consumer* behind the others that are free, if it may take another event."""
        self._free.pop(consumer.client, None)
        if consumer.free and self._consumers.get(consumer.client) is consumer:
            self._free[consumer.client] = consumer

    def _forget(self, consumer: KnownConsumer | None) -> None:
        if consumer is not None and self._consumers.get(consumer.client) is consumer:
            del self._consumers[consumer.client]
            self._free.pop(consumer.client, None)
            self._progress.notify()

    def _on_outcome(self, assignment: Assignment, outcome: Event | Exception) -> None:
        job, consumer = assignment.job, assignment.consumer
        del self._working[assignment]
        self._requests.close(assignment.id)
        consumer.end()
        if isinstance(outcome, Exception):
            self._on_failure(job, consumer, outcome)
            return
        takes_more = outcome.type != BUSY and outcome.data is True
        if outcome.type == BUSY:
            self._take_back(job)
        else:
            self._end(job, None)
        if takes_more:
            if consumer.client not in self._free:
                self._make_free(consumer)
        elif self._free.get(consumer.client) is consumer:
            del self._free[consumer.client]
        self.dispatch()

    def _on_failure(self, job: Job, consumer: KnownConsumer, error: Exception) -> None:
        """Have the event wait for another consumer; the next tick hands it out, when its former node is forgotten."""
        if isinstance(error, RequestFailed) and error.reason in FAULTS_OF_EVENTS:
            self._end(job, Reason(error.reason))
            self._make_free(consumer)
            return
        self._forget(consumer)
        self.redelivered += 1
        self._take_back(job)

    def _take_back(self, job: Job) -> None:
        if self._withdrawn:
            self._end(job._replace(ended=None), None)
            return
        before = sum(1 for _ in takewhile(lambda other: other.number < job.number, self._waiting))
        self._waiting.insert(before, job)
        self._note_expiry(job)

    def _note_expiry(self, job: Job) -> None:
        if job.event.expires is not None:
            self._expires_at = min(self._expires_at, job.event.expires)

    def _report_expired(self) -> None:
        now, jobs = time(), list(self._waiting)
        self._expires_at = inf
        self._waiting.clear()
        for job in jobs:
            if job.event.expires is not None and job.event.expires < now:
                self._end(job, Reason.EXPIRED)
            else:
                self._waiting.append(job)
                self._note_expiry(job)

    def _end(self, job: Job, reason: Reason | None) -> None:
        self._size -= job.size
        if reason is not None:
            self._report(job.event, reason)
        if job.ended is not None:
            job.ended()
        self._progress.notify()
