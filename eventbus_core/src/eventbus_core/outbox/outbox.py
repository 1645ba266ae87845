"""
The outbox: events that were accepted and wait for the broker.

Events gather per partition while a write is running; the next write takes all that has gathered, many events to a
frame and all partitions of a route in one call. There is no timer: an idle bus sends at once, a busy one in large
frames.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Sequence
from functools import partial
from time import monotonic
from typing import Final

from eventbus_core.backend import ALL_NODES, Partition, Transport, node_partition
from eventbus_core.concurrency.notifier import Notifier
from eventbus_core.concurrency.service_group import ServiceGroup
from eventbus_core.concurrency.signal import Signal
from eventbus_core.errors import TransportUnavailable
from eventbus_core.model.event import Event
from eventbus_core.model.names import RESERVED
from eventbus_core.model.salvage import readable_events
from eventbus_core.model.state import NodeState
from eventbus_core.observability.histogram import SHORTEST, Spread
from eventbus_core.options import BusOptions
from eventbus_core.outbox.broker_status import Ability, BrokerStatus
from eventbus_core.outbox.broker_writer import BrokerWriter, Written
from eventbus_core.outbox.partition_queue import PartitionQueue
from eventbus_core.outbox.route_queue import RouteQueue
from eventbus_core.outbox.write import Taken, Write
from eventbus_core.session.outgoing import Outgoing
from eventbus_core.session.registry import Sessions

SUSPECT_EVERY: Final = 1.0
NODE_PREFIX: Final = node_partition("")


class Outbox:
    """
    A queue per partition, and for each route of the transport a writer that empties the queues of its partitions.

    A server that hangs stalls its own writer only. Only a writer suspends between taking events from a queue and
    publishing them; every other method is done before it returns. The events of a queue that were taken are published
    or put back before others are taken from it, also if its partition moves to another route meanwhile: so they stay
    in order. A single event is written by its sender if the transport can do that at once; the writer does the rest.
    A writer that has rested for a second ends, and what is sent next begins another.

    Attributes:
        frames, events: published so far.
        waits: how often a sender had to wait for room.
        seconds: of each frame, from when its oldest event was accepted until the transport had taken it.
        sizes: of each frame, the number of its events.
        silent: called with the queue of a node that has not confirmed events for suspiciously long.
        unreached: called with the queue of a node that does not listen, as the transport counted no receiver.
        refused: called with events that the broker refuses.
        writer: writes the frames.
    """

    def __init__(
        self,
        options: BusOptions,
        sessions: Sessions,
        transport: Transport,
        status: BrokerStatus,
        state: NodeState,
        joined: Container[str],
        services: ServiceGroup,
        hurry: Callable[[], None],
    ) -> None:
        """*hurry* is called when there is something for :meth:`tend`."""
        self.frames = self.events = self.waits = 0
        self.seconds, self.sizes = Spread(SHORTEST), Spread(1)
        self.silent: Signal[[PartitionQueue]] = Signal()
        self.unreached: Signal[[PartitionQueue]] = Signal()
        self.refused: Signal[[list[Event]]] = Signal()
        self.writer: Final = BrokerWriter(transport, status)
        self._options = options
        self._sessions = sessions
        self._transport = transport
        self._status = status
        self._state = state
        self._services = services
        self._hurry = hurry
        self._joined = joined  # partitions of lanes that this node itself listens to
        self._suspect_at = 0.0
        self._queues: dict[Partition, PartitionQueue] = {}
        self._routes: dict[str, RouteQueue] = {}
        self._blocked: dict[PartitionQueue, None] = {}  # by lack of credit, or by a write on a former route
        self._active: dict[PartitionQueue, None] = {}  # with events that wait, or that a probe may still have to reveal
        self._progress = Notifier()
        sessions.when_pending(self._take_pending)

    def begin(self, incarnation: int) -> None:
        """Send as this *incarnation* from now on; frames that were sent without one are forgotten."""
        self._sessions.restart(incarnation)
        self._queues.clear()
        self._active.clear()

    def queue(self, partition: Partition, node: str | None = None) -> PartitionQueue:
        """Return the queue of *partition*, which is *node*'s own if one is named."""
        queue = self._queues.get(partition)
        if queue is None:
            queue = self._queues[partition] = PartitionQueue(
                self._sessions.outgoing(partition, node), node, self._options.outbox_size
            )
        return queue

    def known(self, node: str) -> PartitionQueue | None:
        """Return the queue of *node*'s own partition, if there is one."""
        return self._queues.get(node_partition(node))

    def add(self, queue: PartitionQueue, event: bytes) -> None:
        """Accept an encoded *event*; never refuses and never waits."""
        queue.events.append(event)
        queue.size += len(event)
        queue.accepted += 1
        if not queue.queued:
            queue.mark(queue.accepted - 1, monotonic())
            queue.queued = True
            route = self._route(queue.session.partition)
            single = route.expects_one()
            route.add(queue)
            if single:
                self._write_at_once(route)

    async def wait_for_room(self, queue: PartitionQueue) -> None:
        """
        Wait until the transport has taken something of *queue*.

        Raises:
            TransportUnavailable: the node of *queue* is silent, and as much waits for it as for a slow consumer.
        """
        if queue.limit > self._options.outbox_size:
            raise TransportUnavailable(
                f"node {queue.node!r} has not answered for {queue.session.silence:.1f} s, and {queue.size:,} bytes of "
                f"events wait for it; the event was not accepted. The node may hang: send again once it has recovered"
            )
        self.waits += 1
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
        queue.abandoned = True
        del self._queues[session.partition]
        self._sessions.retire(session)
        self._blocked.pop(queue, None)
        self._active.pop(queue, None)
        queue.wake_senders()
        waiting = readable_events(queue.drain())
        self._progress.notify()
        return session.kept_events(first), waiting

    def take_out(self, queue: PartitionQueue, moved: Callable[[Event], bool]) -> list[Event]:
        """Take the events that have *moved* out of *queue*, where they wait: no node has had them."""
        taken = queue.take_out(moved)
        self._progress.notify()
        queue.wake_senders()  # to look which way to go now
        return taken

    def waiting(self, queue: PartitionQueue) -> list[Event]:
        """Return the events that wait in *queue*."""
        return readable_events(queue.events)

    def wake(self) -> None:
        """Look again at the queues that lacked credit."""
        if self._blocked:
            for queue in self._blocked:
                self._route(queue.session.partition).add(queue)
            self._blocked.clear()

    def has_due(self) -> bool:
        """Return whether there is something for :meth:`tend`."""
        return bool(self._active or self._blocked)

    def tend(self, now: float) -> None:
        """Send the probes that are due, look after nodes that do not answer, and after partitions that moved."""
        for queue in list(self._active):
            waiting = bool(queue.events)
            timeout = self._options.slow_consumer_timeout
            probe = queue.session.due_probe(now, waiting=waiting, slow_consumer_timeout=timeout)
            if probe is not None:
                self._route(probe.partition).add_probe(queue, probe)
            if queue.node is not None:
                self._set_limit(queue)
            if not waiting and not queue.session.is_probing:
                del self._active[queue]
        if now >= self._suspect_at:
            self._suspect_at = now + SUSPECT_EVERY
            for queue in list(self._active):
                if queue.node is not None and queue.session.is_unresponsive(now):
                    self.silent(queue)
            self._end_idle_routes()
        for route in list(self._routes.values()):
            if route.writing:  # perhaps for long, as its server hangs
                for queue in route.take_ready():
                    self._route(queue.session.partition).add(queue)
        self.wake()

    async def settled(self) -> None:
        """Wait until the broker has taken everything, also what nodes tell each other."""
        while not all(route.idle() for route in self._routes.values()):
            await self._progress.wait()

    async def flush(self, *queues: PartitionQueue) -> None:
        """Wait until the broker has taken all that was accepted before for *queues*, for all if none is named."""
        waiting = [(queue, queue.accepted) for queue in queues or self._queues.values()]
        while any(queue.published < accepted for queue, accepted in waiting):
            await self._progress.wait()

    def finish(self) -> list[Event]:
        """
        Return the events that wait, which are never written, and send control messages to other nodes without credit.

        Receivers take these in at once, so they fill no mailbox; the limit is that of a mailbox.
        """
        left: list[Event] = []
        for queue in list(self._queues.values()):
            left += self.take_out(queue, lambda event: event.type[:1] != RESERVED)
            queue.session.lend(self._options.mailbox_size)
        self.wake()
        return left

    def give_up(self) -> list[Event]:
        """Return all events that the broker has not confirmed; they are never written again."""
        taken = [taken for route in self._routes.values() for taken in route.unpublished()]
        left = [event for _, events, _ in taken for event in events]
        for queue in self._queues.values():
            left += queue.drain()
        return readable_events(left)

    def unpublished(self) -> int:
        """Return how many accepted events the broker has not taken yet."""
        return sum(queue.accepted - queue.published for queue in list(self._queues.values()))

    def unpublished_by_route(self) -> dict[str, int]:
        """Return how many accepted events each server has not taken yet, of those for which any wait."""
        counts: Counter[str] = Counter()
        for partition, queue in list(self._queues.items()):
            counts[self._transport.route(partition)] += queue.accepted - queue.published
        return dict(+counts)

    def _set_limit(self, queue: PartitionQueue) -> None:
        """Have senders wait no more for a node that hangs: as much may wait for it as for a slow consumer."""
        options = self._options
        silent = queue.session.silence >= options.slow_consumer_timeout
        limit = max(options.outbox_size + 1, options.mailbox_size) if silent else options.outbox_size
        if limit != queue.limit:
            queue.limit = limit
            queue.wake_senders()

    def _route(self, partition: Partition) -> RouteQueue:
        """Return the route of *partition* as it is now; the writer of a new one starts."""
        name = self._transport.route(partition)
        route = self._routes.get(name)
        if route is None:
            max_frame_size = self._transport.capabilities.max_frame_size
            letters = self._sessions.letters
            route = self._routes[name] = RouteQueue(name, letters, self._options.frame_size, max_frame_size)
            if not (self._state.closed or self._state.crashed):
                self._services.start(partial(self._run, route))
        return route

    def _end_idle_routes(self) -> None:
        """End the writers that have written nothing since the last call; what is sent next begins another."""
        for route in list(self._routes.values()):
            if route.rested():
                del self._routes[route.name]
                route.end()

    def _take_pending(self) -> None:
        """Take what the sessions have to tell, each part to its route."""
        for node, notes in self._sessions.take_notes().items():
            self._route(node_partition(node)).add_notes(node, notes)
        for (node, _), question in self._sessions.letters.take_asked().items():
            self._route(node_partition(node)).add_asked(node, question)
        for frame in self._sessions.take_frames():
            self._route(frame.partition).add_frame(frame)

    async def _run(self, route: RouteQueue) -> None:
        """Write what goes by *route*, until the bus is closed or the route has ended."""
        while not (self._state.closed or route.ended):
            if not route.has_work():
                self._status.succeeded(Ability.WRITE, route.name)  # its partitions may have moved after a failure
                self._progress.notify()
                await route.wait()
                continue
            if (write := self._next_write(route)) is not None:
                await self._write(write, route)

    def _write_at_once(self, route: RouteQueue) -> None:
        """Begin the next write of *route*, if the transport can; its writer goes on with it."""
        if not (self._state.closed or self._state.crashed) and (write := self._next_write(route)) is not None:
            write.begin(self._transport)
            route.add_write(write)

    def _next_write(self, route: RouteQueue) -> Write | None:
        """Return the next write of *route*, if any; the frames whose partitions are on other routes go there."""
        write = route.next_write(monotonic(), self._blocked, self._active)
        if self._active:
            self._hurry()
        if write.begun:
            return write
        parts = write.split(self._transport.route) if write.frames else {}
        mine = parts.pop(route.name, None)
        for part in parts.values():
            self._route(part.frames[0].partition).add_write(part)
        return mine

    async def _write(self, write: Write, route: RouteQueue) -> None:
        route.begin(write)
        written = await self.writer.write(write, route.name)
        if self._state.closed:
            return
        if written is None:
            route.retry(write)
            await route.backoff.pause()
            return
        route.published()
        self._settle(write, written)
        self._progress.notify()
        await route.gather()

    def _settle(self, write: Write, written: Written) -> None:
        """Do what follows from *write*, of which the broker has taken or refused each frame."""
        self.frames += len(write.frames)
        now = monotonic()
        for queue, events, since in write.taken:
            queue.published += len(events)
            self.events += len(events)
            self.sizes.add(len(events))
            self.seconds.add(now - since)
        for queue in write.probed:
            queue.session.asked(now, reliable=self._status.up and not write.repeated)
        self._drop([place for place in written.refused if place < len(write.taken)], write)
        if written.receivers is not None:
            self._count(write.taken, written.receivers)
            taken = len(write.taken)
            for frame, count in zip(write.frames[taken:], written.receivers[taken:], strict=False):
                if count == 0:
                    self._on_unreached(frame.partition)
        for queue, _, _ in write.taken:
            later, queue.after_write = queue.after_write, None
            for call in later or ():
                call()

    def _on_unreached(self, partition: Partition) -> None:
        """Note that a frame without events to *partition* reached no receiver."""
        if partition.startswith(NODE_PREFIX):
            self._sessions.unreachable(partition.removeprefix(NODE_PREFIX))
            if (queue := self._queues.get(partition)) is not None:
                self.unreached(queue)

    def _drop(self, refused: list[int], write: Write) -> None:
        """Give up the events in frames that the broker has *refused*: it takes none until an operator acts."""
        lost: list[list[bytes]] = []
        for place in reversed(refused):  # the newest first, so that their numbers can be used again
            queue, events, _ = write.taken[place]
            if not queue.abandoned:  # else its node left, and routing has the events
                queue.session.discard(write.frames[place], taken_back=not write.repeated)
                lost.append(events)
        if lost:
            self.events -= sum(map(len, lost))
            self.refused(readable_events(event for events in reversed(lost) for event in events))

    def _count(self, taken: list[Taken], receivers: Sequence[int]) -> None:
        """Put back the last frames of each queue that reached no receiver: its node does not listen."""
        ends: dict[PartitionQueue, list[list[bytes]]] = {}
        for (queue, events, _), count in zip(taken, receivers, strict=False):
            if count < 0:  # refused, so not put back: nor are those before it
                ends.pop(queue, None)
            elif queue.node is None:
                partition = queue.session.partition
                queue.session.count_receivers(count - (partition == ALL_NODES or partition in self._joined))
            elif count == 0 and not queue.abandoned:
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
                self._blocked[queue] = None
                self.unreached(queue)
