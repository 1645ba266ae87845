"""The appender: retained events that were accepted, on their way into the history and from there to the receivers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Final, NamedTuple

import anyio
from anyio.lowlevel import checkpoint

from eventbus_core.backend import History, NewEntry, Position
from eventbus_core.concurrency.backoff import Backoff
from eventbus_core.concurrency.notifier import Notifier
from eventbus_core.concurrency.signal import Signal
from eventbus_core.errors import EventBusError, LimitExceeded, TransportUnavailable
from eventbus_core.history.history_reader import fingerprint
from eventbus_core.history.shares import Share, pack_events
from eventbus_core.history.stream_names import queue_of, shown_name, stream_of
from eventbus_core.model.event import Event
from eventbus_core.model.retention import Retention
from eventbus_core.model.salvage import readable_events
from eventbus_core.model.state import NodeState
from eventbus_core.observability.log import get_logger
from eventbus_core.options import BusOptions

logger = get_logger("eventbus")

APPEND_SIZE: Final = 1024 * 1024
LOG_FAILURES_AFTER: Final = 60.0
FORGET_EVERY: Final = 1.0
RELAY_TIMEOUT: Final = 1.0
"""Seconds for which receivers that do not keep up delay the appender; after that they read the history."""


class StreamQueue:
    """
    The events that wait for one stream.

    Attributes:
        topic, retention: which stream, and how much of it is kept.
        events: encoded, in the order in which they were accepted.
        size: their bytes.
        accepted, appended: how many events came in, and how many the history has taken or refused.
        refused: the numbers of the events that the history refused last.
        top: the offset of the latest event that this node appended.
        ends: when the history has none of its events any more.
    """

    __slots__ = ("accepted", "appended", "ends", "events", "refused", "retention", "size", "top", "topic")

    def __init__(self, topic: str, retention: Retention) -> None:
        self.topic = topic
        self.retention = retention
        self.events: list[bytes] = []
        self.size = 0
        self.accepted = self.appended = self.top = 0
        self.ends = 0.0
        self.refused = range(0)

    def add(self, event: bytes, now: float) -> None:
        """Append an encoded *event*."""
        self.events.append(event)
        self.size += len(event)
        self.accepted += 1
        self.ends = now + self.retention.seconds

    def cut(self, limit: int) -> list[bytes]:
        """Remove events from the front, up to *limit* bytes but at least one, and return them."""
        size = number = 0
        for event in self.events:
            if number and size + len(event) > limit:
                break
            size += len(event)
            number += 1
        events = self.events[:number]
        del self.events[:number]
        self.size -= size
        return events

    def drain(self) -> list[bytes]:
        """Remove and return all events."""
        return self.cut(self.size)

    def done(self, events: int, top: int | None) -> None:
        """Note that *events* have left, and the offset of the last; ``None`` if they were refused."""
        if top is None:
            self.refused = range(self.appended + 1, self.appended + events + 1)
        self.appended += events
        self.top = top or self.top


class Taken(NamedTuple):
    """What is appended to one stream by one call."""

    queue: StreamQueue
    events: list[bytes]
    entry: NewEntry


class Appender:
    """
    A queue for each retained topic, and the one task that empties them.

    Events gather while an append is running; the next takes all that has gathered, as one entry for each topic. An
    append whose answer is lost is repeated with the same fingerprint, so that no event is doubled. Then the entry goes
    to the lane of its topic.

    Attributes:
        node: this one.
        accepted, events, entries: events taken from the application; events and entries that the history took.
        failures: appends that failed and were made again.
        streams_refused: how often :meth:`queue` refused a topic.
        refused: called with events that the history refuses.
        queue_appended: called with a retained queue whose stream has more events.
    """

    def __init__(
        self,
        node: str,
        history: History,
        options: BusOptions,
        state: NodeState,
        relay: Callable[[str, Share], Awaitable[None]],
    ) -> None:
        self.accepted = self.events = self.entries = self.failures = self.streams_refused = 0
        self.node = node
        self.refused: Signal[[list[Event]]] = Signal()
        self.queue_appended: Signal[[str]] = Signal()
        self._history = history
        self._options = options
        self._state = state
        self._relay = relay
        self._queues: dict[str, StreamQueue] = {}
        self._ready: dict[StreamQueue, None] = {}
        self._being_appended: Sequence[Taken] = ()
        self._size = 0
        self._log_at = self._forget_at = 0.0
        self._work = Notifier()
        self._progress = Notifier()

    def queue(self, topic: str, retention: Retention) -> StreamQueue:
        """
        Return the queue of *topic*.

        Raises:
            LimitExceeded: this node has appended to as many topics as it may, and the history still keeps them.
        """
        queue = self._queues.get(topic)
        if queue is None:
            limit = self._options.max_retained_topics
            if len(self._queues) >= limit:
                self._forget()
            if len(self._queues) >= limit:
                self.streams_refused += 1
                hint = "retain fewer topics, clients and queues, keep their events for a shorter time, or raise it"
                raise LimitExceeded(f"{shown_name(topic)!r} cannot be retained too", "max_retained_topics", limit, hint)
            queue = self._queues[topic] = StreamQueue(topic, retention)
        return queue

    def has_room(self) -> bool:
        """Return whether a publisher may add an event without waiting."""
        return self._size < self._options.outbox_size

    def add(self, queue: StreamQueue, event: bytes) -> int:
        """Accept an encoded *event*; never refuses and never waits. Return its number in the queue."""
        queue.add(event, monotonic())
        self._size += len(event)
        self.accepted += 1
        self._ready[queue] = None
        self._work.notify()
        return queue.accepted

    async def wait_for_room(self) -> None:
        """Wait until the history has taken something."""
        await self._progress.wait()

    async def appended(self, queue: StreamQueue, number: int) -> bool:
        """Wait until the history has taken or refused the event of that *number*; return whether it has taken it."""
        while queue.appended < number:
            await self._progress.wait()
        return number not in queue.refused

    async def flush(self) -> None:
        """Wait until the history has, and the outbox got, all that was accepted before."""
        waiting = [(queue, queue.accepted) for queue in self._queues.values()]
        while any(queue.appended < accepted for queue, accepted in waiting) or self._being_appended:
            await self._progress.wait()

    def waiting(self) -> int:
        """Return how many accepted events the history has not taken yet."""
        return sum(queue.accepted - queue.appended for queue in self._queues.values())

    def give_up(self) -> list[Event]:
        """Return all events that the history has not confirmed; they are not appended any more."""
        left = [event for taken in self._being_appended for event in taken.events]
        self._being_appended = ()
        for queue in self._queues.values():
            left += queue.drain()
        self._queues.clear()
        return readable_events(left)

    async def run(self) -> None:
        """Append until the bus is closed."""
        while True:
            if not self._ready:
                await self._work.wait()
                continue
            self._being_appended = taken = self._take()
            positions = await self._append(taken)
            if self._state.closed:
                return
            for each, position in zip(taken, positions, strict=True):
                each.queue.done(len(each.events), None if position is None else position.offset)
                self._size -= sum(map(len, each.events))
                if position is None:
                    self.refused(readable_events(each.events))
            self._progress.notify()
            await checkpoint()  # durable publishes return now, and not after the relay
            # Receivers that do not keep up delay the others once, and read the history then.
            with anyio.move_on_after(RELAY_TIMEOUT):
                for each, position in zip(taken, positions, strict=True):
                    if position is not None:
                        await self._announce(each, position)
            self._being_appended = ()
            self._progress.notify()

    def _take(self) -> list[Taken]:
        taken: list[Taken] = []
        left = APPEND_SIZE
        for queue in list(self._ready):
            if left <= 0:
                break
            events = queue.cut(self._options.frame_size)
            if not queue.events:
                del self._ready[queue]
            body = pack_events(events)
            left -= len(body)
            entry = NewEntry(stream_of(queue.topic), fingerprint(), len(events), body, queue.retention)
            taken.append(Taken(queue, events, entry))
        return taken

    async def _append(self, taken: Sequence[Taken], *, repeated: bool = False) -> Sequence[Position | None]:
        """
        Append until that succeeds or the bus is closed; ``None`` stands for an entry that is refused.

        What is refused is repeated in halves: the history has taken the entries of other streams, or takes them now.
        """
        backoff = Backoff()
        while not self._state.closed:
            try:
                return await self._history.append(
                    [each.entry._replace(after=each.queue.top if repeated else None) for each in taken]
                )
            except TransportUnavailable as error:
                self.failures += 1
                self._log("node %s: the history cannot be reached, retained events wait: %s", error)
                repeated = True
                await backoff.pause()
            except EventBusError as error:
                if half := len(taken) // 2:
                    parts = (taken[:half], taken[half:])
                    return [position for part in parts for position in await self._append(part, repeated=True)]
                self._log("node %s: the history refuses events, which are reported as undeliverable: %s", error)
                break
        return [None] * len(taken)

    async def _announce(self, taken: Taken, position: Position) -> None:
        """Send what was appended to the nodes that receive the topic; those that miss it read the history."""
        entry = taken.entry
        self.entries += 1
        self.events += entry.events
        if (queue := queue_of(entry.stream)) is not None:
            self.queue_appended(queue)
            return
        share = Share(position.epoch, position.offset, entry.fingerprint, entry.events, entry.body)
        await self._relay(taken.queue.topic, share)

    def _forget(self) -> None:
        """Forget queues whose events the history does not keep any more."""
        now = monotonic()
        if now < self._forget_at:
            return
        self._forget_at = now + FORGET_EVERY
        for topic in [name for name, queue in self._queues.items() if queue.ends < now and not queue.events]:
            del self._queues[topic]

    def _log(self, text: str, error: EventBusError) -> None:
        now = monotonic()
        if now >= self._log_at:
            self._log_at = now + LOG_FAILURES_AFTER
            logger.warning(text, self.node, error, extra={"node": self.node, "error": str(error)})
