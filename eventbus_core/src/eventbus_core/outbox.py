"""
The outbox: what was accepted and waits for the transport.

Events gather per partition while a write is under way; the next write takes all that has
gathered, many events to a frame and all partitions in one call ("as soon as the last write
is done", no timer). So an idle bus sends at once, and a busy one in large frames.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from time import monotonic
from typing import Final, TypeAlias

import anyio
from anyio.lowlevel import checkpoint

from eventbus_core.errors import EventBusError
from eventbus_core.event import Event, decode_event
from eventbus_core.histogram import SHORTEST, Spread
from eventbus_core.link import Link
from eventbus_core.options import BusOptions
from eventbus_core.outgoing import Outgoing
from eventbus_core.queue import Queue
from eventbus_core.sessions import Sessions
from eventbus_core.transport import Frame, Partition, Transport, node_partition
from eventbus_core.wire import Note, unpack, unpack_events

WRITE_SIZE: Final = 1024 * 1024
FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 2.0
SUSPECT_EVERY: Final = 1.0
GATHER_SIZE: Final = 64 * 1024
GATHER_TURNS: Final = 4

Taken: TypeAlias = "tuple[Queue, list[bytes], float]"
"""The events of a frame, the queue that they came from, and when the oldest was accepted."""


class Outbox:
    """
    Queues per partition, and the one writer that empties them.

    Attributes:
        limit: bytes that may wait in a queue before senders do.
        frames, events: published so far.
        failures: writes that the transport failed and that were made again.
        waits: how often a sender had to wait for room.
        seconds: of each frame, from when its oldest event was accepted until the transport had taken it.
        sizes: of each frame, the number of its events.
    """

    def __init__(
        self,
        options: BusOptions,
        sessions: Sessions,
        transport: Transport,
        link: Link,
        joined: Callable[[Partition], bool],
        silent: Callable[[Queue], None],
        unreached: Callable[[Queue], None],
    ) -> None:
        self.frames = self.events = self.failures = self.waits = 0
        self.seconds, self.sizes = Spread(SHORTEST), Spread(1)
        self._options = options
        self._sessions = sessions
        self._transport = transport
        self._link = link
        self._joined = joined
        self._silent = silent
        self._unreached = unreached
        self._suspect_at = 0.0
        self._writing = self._over = False
        self._queues: dict[Partition, Queue] = {}
        self._ready: list[Queue] = []
        self._held_up: dict[Queue, None] = {}
        self._under_way: list[tuple[Queue, list[bytes], float]] = []
        self._probes: list[tuple[Queue, Frame]] = []
        self._wake = anyio.Event()
        self._progress: anyio.Event | None = None
        self.limit = options.outbox_size
        sessions.on_note = lambda: self._wake.set()

    def begin(self, incarnation: int) -> None:
        """Send as this *incarnation* from now on; what was sent before, without one, is nobody's."""
        self._sessions.begin(incarnation)
        self._queues.clear()

    def queue(self, partition: Partition, node: str | None = None) -> Queue:
        """Return the queue of *partition*, which is *node*'s own if one is named."""
        queue = self._queues.get(partition)
        if queue is None:
            queue = self._queues[partition] = Queue(self._sessions.outgoing(partition, node), node)
        return queue

    def known(self, node: str) -> Queue | None:
        """Return the queue of *node*'s own partition, if there is one."""
        return self._queues.get(node_partition(node))

    def full(self, queue: Queue) -> bool:
        """Return whether a sender should wait for room before it adds anything to *queue*."""
        return queue.size >= self.limit

    def add(self, queue: Queue, event: bytes) -> None:
        """Accept an encoded *event*; never refuses and never waits."""
        queue.events.append(event)
        queue.size += len(event)
        queue.accepted += 1
        if not queue.queued:
            queue.mark(queue.accepted - 1, monotonic())
            queue.queued = True
            self._ready.append(queue)
            self._wake.set()

    async def room(self, queue: Queue) -> None:
        """Wait until the transport has taken something of *queue*."""
        self.waits += 1
        if queue.room is None:
            queue.room = anyio.Event()
        await queue.room.wait()

    def abandon(self, session: Outgoing, first: int) -> tuple[list[Event], list[Event]]:
        """
        End *session* to a node that is gone, and its queue.

        Returns the events that were sent from number *first* on, as far as they are kept, and those
        that were not sent yet.
        """
        queue = self._queues.get(session.partition)
        if queue is None or queue.session is not session:
            return [], []
        queue.over = True
        del self._queues[session.partition]
        self._sessions.retire(session)
        self._held_up.pop(queue, None)
        queue.let_in()
        waiting = [decode_event(event) for event in queue.drain()]
        self._advance()
        return list(_kept_events(session, first)), waiting

    def take_out(self, queue: Queue, target: str) -> list[Event]:
        """Take the events for *target* out of *queue*, where they wait: nobody has had them."""
        waiting = [(raw, decode_event(raw)) for raw in queue.events]
        taken = [event for _, event in waiting if event.target == target]
        queue.events = [raw for raw, event in waiting if event.target != target]
        queue.size = sum(map(len, queue.events))
        queue.published += len(taken)
        queue.let_in()  # to look which way to go now
        self._advance()
        return taken

    def forgotten(self, session: Outgoing) -> int:
        """Return how many events of *session* were not confirmed and are kept no more: of them nobody can be told."""
        lowest = session.kept[0].first if session.kept else session.next
        return max(0, lowest - session.handled)

    def wake(self) -> None:
        """Look again for something to write: notes, frames to be sent again, or new credit."""
        if self._held_up:
            for queue in self._held_up:
                self._ready.append(queue)
            self._held_up.clear()
        self._wake.set()

    def tend(self, now: float) -> None:
        """Send the probes that are due, and look after nodes that do not answer."""
        for queue in self._queues.values():
            probe = queue.session.due(now, waiting=bool(queue.events), laggard_timeout=self._options.laggard_timeout)
            if probe is not None:
                self._probes.append((queue, probe))
        if now >= self._suspect_at:
            self._suspect_at = now + SUSPECT_EVERY
            for queue in self._queues.values():
                if queue.node is not None and queue.session.silent(now):
                    self._silent(queue)
        if self._probes or self._held_up:
            self.wake()

    async def settled(self) -> None:
        """Wait until the broker has taken everything, also what nodes tell each other."""
        while self._writing or not self._idle():
            await self._advanced()

    async def flush(self, *queues: Queue) -> None:
        """Wait until the broker has taken all that was accepted before for *queues*, for all if none is named."""
        waiting = [(queue, queue.accepted) for queue in queues or self._queues.values()]
        while any(queue.published < accepted for queue, accepted in waiting):
            await self._advanced()

    def give_up(self) -> list[Event]:
        """Take out all that the broker has not confirmed; nothing more is written, but what is under way."""
        self._over = True
        under_way, self._under_way = self._under_way, []
        left = [event for _, events, _ in under_way for event in events]
        for queue in self._queues.values():
            left += queue.drain()
        return [decode_event(event) for event in left]

    def unpublished(self) -> int:
        """Return how many accepted events the broker has not taken yet."""
        return sum(queue.accepted - queue.published for queue in list(self._queues.values()))

    async def run(self) -> None:
        """Write for ever, or until :meth:`give_up`."""
        while True:
            if self._idle():
                self._writing = False
                self._advance()
                self._wake = type(self._wake)()  # as anyio.Event() does, for a tenth of the time
                await self._wake.wait()
                self._writing = True
                continue
            frames, taken, told = self._take()
            if not frames:  # all are out of credit
                continue
            self._under_way = taken
            receivers = await self._publish(frames)
            if self._over:
                return
            self._under_way = []
            self.frames += len(frames)
            now = monotonic()
            for queue, events, since in taken:
                queue.published += len(events)
                self.events += len(events)
                self.sizes.add(len(events))
                self.seconds.add(now - since)
            if receivers is not None:
                self._count(taken, receivers)
                for queue, count in zip(told, receivers[len(taken) :], strict=False):
                    if count == 0 and queue.node is not None:
                        self._sessions.unreachable(queue.node)
                        self._unreached(queue)
            for queue, _, _ in taken:
                later, queue.later = queue.later, None
                for call in later or ():
                    call()
            self._advance()
            await self._gather()

    def _advance(self) -> None:
        if self._progress is not None:
            self._progress.set()
            self._progress = None

    def _idle(self) -> bool:
        """Return whether there is nothing to write."""
        return not (self._ready or self._probes or self._sessions.notes or self._sessions.resend)

    async def _advanced(self) -> None:
        self._progress = self._progress or anyio.Event()
        await self._progress.wait()

    async def _gather(self) -> None:
        """Let senders who are at it go on while the next write is small: fewer and larger writes cost less."""
        size = sum([queue.size for queue in self._ready])
        for _ in range(GATHER_TURNS):
            before = size
            if not 0 < size < GATHER_SIZE:
                return
            await checkpoint()
            size = sum([queue.size for queue in self._ready])
            if size == before:
                return

    def _take(self) -> tuple[list[Frame], list[Taken], list[Queue]]:
        """
        Return the frames of the next write, the events in them, and the queues to whose partitions notes and probes go.

        The frames with events come first, then those with notes, then probes.
        """
        now = monotonic()
        frames: list[Frame] = []
        taken: list[Taken] = []
        notes, self._sessions.notes = self._sessions.notes, {}
        ready, self._ready = self._ready, []
        left = WRITE_SIZE
        for queue in ready:
            session = queue.session
            while queue.events and left > 0:
                room = session.room()
                if room <= 0:
                    self._held_up[queue] = None
                    break
                since = queue.since()
                events, size = queue.cut(min(room, self._options.frame_size))
                told = notes.pop(queue.node, []) if queue.node is not None else []
                frames.append(session.pack(events, size, told, now))
                taken.append((queue, events, since))
                queue.later = []
                left -= size
            if queue.events:
                queue.mark(queue.accepted, now)
                if queue not in self._held_up:
                    self._ready.append(queue)
            queue.queued = bool(queue.events)
            if queue.size < self.limit:
                queue.let_in()
        beside = self._beside(notes, now)
        frames += [frame for _, frame in beside]
        frames += self._sessions.resend
        self._sessions.resend = []
        return frames, taken, [queue for queue, _ in beside]

    def _count(self, taken: list[Taken], receivers: Sequence[int]) -> None:
        """Put back what went to nodes that are not listening: the last frames of a queue, if nobody got them."""
        ends: dict[Queue, list[list[bytes]]] = {}
        for (queue, events, _), count in zip(taken, receivers, strict=False):
            if queue.node is None:
                queue.session.heard(count - self._joined(queue.session.partition))
            elif count == 0 and not queue.over:
                ends.setdefault(queue, []).append(events)
            elif queue in ends:
                ends[queue].clear()
        for queue, unheard in ends.items():
            if unheard:
                back = [event for events in unheard for event in events]
                queue.session.take_back(len(back), sum(map(len, back)))
                queue.put_back(back)
                self.events -= len(back)
                queue.queued = True
                self._held_up[queue] = None
                self._unreached(queue)

    def _beside(self, notes: dict[str, list[Note]], now: float) -> list[tuple[Queue, Frame]]:
        """Return the frames without events, and their queues: *notes* that found no other way, and probes."""
        found, self._probes = self._probes, []
        queues = [(self.queue(node_partition(node), node), told) for node, told in notes.items()]
        return [(queue, queue.session.pack((), 0, told, now)) for queue, told in queues] + found

    async def _publish(self, frames: list[Frame]) -> Sequence[int] | None:
        """Publish until it succeeds; what was in doubt goes again under its old numbers."""
        pause = FIRST_PAUSE
        while not self._over:
            try:
                receivers = await self._transport.publish(frames)
            except EventBusError as error:
                self.failures += 1
                self._link.failed(error)
                await anyio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                self._link.succeeded()
                # After a failure nobody knows who had the frames already: a count of now says nothing of then.
                return receivers if pause == FIRST_PAUSE else None
        return None


def _kept_events(session: Outgoing, first: int) -> Iterator[Event]:
    for kept in session.kept:
        if kept.first + kept.events > first:
            _, body = unpack(kept.data, len(kept.data))
            yield from unpack_events(body)[max(0, first - kept.first) :]
