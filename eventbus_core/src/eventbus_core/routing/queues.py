"""Queues: the events that this node sent to them, and the consumers on this and on other nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final

import anyio
import attrs
import msgspec

from eventbus_core.concurrency.deadlines import Deadlines
from eventbus_core.concurrency.signal import Signal
from eventbus_core.errors import RequestFailed
from eventbus_core.membership.channel import ControlChannel
from eventbus_core.membership.ownership import Ownership
from eventbus_core.model.event import Event, encode_event
from eventbus_core.model.event_ids import EventIds
from eventbus_core.model.names import is_identifier
from eventbus_core.model.reports import Reason
from eventbus_core.options import BusOptions
from eventbus_core.routing.requests import Requests
from eventbus_core.routing.sender import Headers, Sender, Sent, sent
from eventbus_core.routing.undeliverable import UndeliverableReports
from eventbus_core.routing.work_queue import Assignment, WorkQueue

EVENT: Final = "$sys.queue.event"
FIND: Final = "$sys.queue.find"
OFFER: Final = "$sys.queue.offer"
NEXT_TURN: Final = "$sys.queue.turn"
UNUSED_TURN: Final = "$sys.queue.unused"
FIND_TIMEOUT: Final = 0.5
"""Seconds for which a node that closes waits to hear of consumers."""
MAX_QUEUES: Final = 10_000
"""Queues of which a node keeps the consumers although it has no event for them now."""


@attrs.frozen
class Offer:
    """The consumer *client* of *queue*, on *node*, takes events, up to *concurrency* at a time; 0: none any more."""

    queue: str
    client: str
    node: str
    concurrency: Annotated[int, msgspec.Meta(ge=0)]


class Queues:
    """
    Hands events out to consumers, and tells other nodes of the consumers of this one.

    A consumer is a client. It gets each event within a request, and its answer says that it has handled the event; so
    all that ends a request without an answer gives the event to another consumer. The node that sent the event keeps
    it until then.

    Attributes:
        accepted: events taken from the application.
        passed: called with a consumer of this node, when a node has no event for the turn that it got.
    """

    def __init__(
        self,
        options: BusOptions,
        channel: ControlChannel,
        ids: EventIds,
        ownership: Ownership,
        requests: Requests,
        sender: Sender,
        deadlines: Deadlines,
        reports: UndeliverableReports,
    ) -> None:
        self.accepted = 0
        self.passed: Signal[[str]] = Signal()
        self._options = options
        self._channel = channel
        self._ids = ids
        self._ownership = ownership
        self._requests = requests
        self._sender = sender
        self._deadlines = deadlines
        self._reports = reports
        self._queues: dict[str, WorkQueue] = {}
        self._offers: dict[str, Offer] = {}  # by the consumers of this node
        self._dispatched: set[str] = set()
        self._withdrawn = False
        self._redelivered = 0  # by queues that are forgotten
        self._forget_at = MAX_QUEUES
        requests.lost.connect(self.node_gone)
        channel.on_query(FIND, self._take_find)
        channel.on(OFFER, self._take_offer)
        channel.on(NEXT_TURN, self._take_turn)
        channel.on(UNUSED_TURN, lambda message: self.passed(message.decode(str)))

    @property
    def waiting(self) -> int:
        """How many events that were sent here are not known to be handled."""
        return sum(map(len, self._queues.values()))

    def waiting_for(self, name: str) -> int:
        """Return how many events that were sent here to the queue *name* are not known to be handled."""
        queue = self._queues.get(name)
        return 0 if queue is None else len(queue)

    @property
    def redelivered(self) -> int:
        """How often an event that was sent here went to another consumer."""
        return self._redelivered + sum(queue.redelivered for queue in self._queues.values())

    def send(
        self,
        source: str,
        name: str,
        type: str,
        data: object,
        headers: Headers | None,
        expires: float | None,
        timeout: float | None,
    ) -> Sent:
        """Send to the queue *name*; see :meth:`Queue.send`."""
        event, size = self._sender.event(source, name, type, data, headers, expires, timeout)
        queue = self._known_queue(name)
        if not queue.has_room():
            return sent(event, self._send_later(queue, event, size, timeout))
        self.accepted += 1
        queue.add(event, size)
        return event.id

    def dispatch(self, name: str, frozen: Callable[[], bool]) -> WorkQueue:
        """
        Return the queue *name*, whose events come from the history, until :meth:`end_dispatch`.

        It hands out nothing while it is *frozen*, as another node may dispatch it.
        """
        self._dispatched.add(name)
        queue = self._known_queue(name)
        queue.hold_while(frozen)
        return queue

    def end_dispatch(self, name: str) -> None:
        """Hand out no more events of the queue *name*; the history keeps those that are not handled."""
        self._dispatched.discard(name)
        queue = self._queues.pop(name)
        queue.give_up()
        self._redelivered += queue.redelivered

    def offer(self, queue: str, client: str, concurrency: int) -> None:
        """Tell every node that *client*, a consumer on this one, takes events of *queue*; or none, if that is 0."""
        offer = Offer(queue, client, self._channel.node, concurrency)
        if concurrency:
            self._offers[client] = offer
        else:
            self._offers.pop(client, None)
        self._take(offer)
        self._tell_all(offer)

    def withdraw(self) -> None:
        """Offer the consumers of this node to no other node any more; its own events may still go to them."""
        for offer in self._offers.values():
            self._tell_all(attrs.evolve(offer, concurrency=0))
        self._withdrawn = True

    def serves(self, node: str) -> bool:
        """Return whether the consumers of this node take events of *node*."""
        return not self._withdrawn or node == self._channel.node

    def give_turn(self, node: str, client: str) -> None:
        """Tell *node* that *client*, a consumer on this one, takes another event of it; ``passed`` if it has none."""
        if (offer := self._offers.get(client)) is not None:
            self._channel.deliver(node, self._channel.message(NEXT_TURN, node, offer))

    def announce(self) -> None:
        """Tell all nodes of the consumers of this one again: it has entered, perhaps after they took it for dead."""
        for offer in self._offers.values():
            self._tell_all(offer)

    def node_gone(self, node: str) -> None:
        """Send no more events to the consumers on *node*."""
        for queue in self._queues.values():
            queue.node_gone(node)

    def send_all(self, type: str, data: object) -> None:
        """Send a message about queues to every other node; does nothing while this node is alone."""
        if self._ownership.incarnation:
            self._channel.send_all(type, data)

    def tend(self, now: float) -> None:
        """Hand out what has come back, and look for consumers where events wait."""
        for queue in self._queues.values():
            if queue.tend(now):
                self.send_all(FIND, queue.name)

    async def drained(self) -> None:
        """Return once the events that were sent here are handled, but for those that no consumer takes."""
        queues = [queue for queue in self._queues.values() if len(queue)]
        for queue in queues:
            self.send_all(FIND, queue.name)
        with anyio.move_on_after(FIND_TIMEOUT):
            for queue in queues:
                await queue.found()
        for queue in queues:
            await queue.drained()

    def give_up(self) -> int:
        """Report every event that is not known to be handled, as the bus closes; return how many there were."""
        return sum(queue.give_up() for queue in self._queues.values())

    async def _send_later(self, queue: WorkQueue, event: Event, size: int, timeout: float | None) -> None:
        with self._deadlines.until_accepted(queue.name, timeout):
            while not queue.has_room():
                await queue.wait_for_progress()
        self.accepted += 1
        self._known_queue(queue.name).add(event, size)

    def _known_queue(self, name: str) -> WorkQueue:
        """Return the queue *name*; if it is not known yet, look for its consumers."""
        if (known := self._queues.get(name)) is not None:
            return known
        if len(self._queues) >= self._forget_at:
            self._forget_idle()
        queue = self._queues[name] = WorkQueue(
            name, self._options, self._ids, self._requests, self._hand_out, self._report
        )
        for offer in self._offers.values():
            self._take(offer)
        self.send_all(FIND, name)
        return queue

    def _forget_idle(self) -> None:
        idle = [name for name, queue in self._queues.items() if not len(queue) and name not in self._dispatched]
        self._redelivered += sum(self._queues.pop(name).redelivered for name in idle)
        self._forget_at = max(MAX_QUEUES, 2 * len(self._queues))  # else each new queue would look at all others

    def _hand_out(self, assignment: Assignment) -> None:
        consumer, (_, event, size, _) = assignment.consumer, assignment.job
        address, raw = self._channel.address, msgspec.Raw(encode_event(event))
        request = Event(EVENT, address, consumer.client, assignment.id, raw, reply_to=address, expires=event.expires)
        if consumer.node != self._channel.node:
            self._channel.forward(consumer.node, request)
        elif (held := self._ownership.clients.get(consumer.client)) is not None and not held.mailbox.closed:
            held.mailbox.put([request], size, None)
        else:
            assignment.settle(RequestFailed(consumer.client, Reason.CLIENT_GONE))

    def _report(self, event: Event, reason: Reason) -> None:
        self._reports.report(event, event.accepted_by(self._channel.node), reason)

    def _take_find(self, message: Event) -> None:
        name, source = message.decode(str), message.source[1:]
        if not is_identifier(source):
            self._channel.reject(message, "comes from no node")
            return
        for offer in self._offers.values():
            if offer.queue == name and self.serves(source):
                self._channel.send(source, OFFER, offer)

    def _take_offer(self, message: Event) -> None:
        if (offer := self._offer_in(message)) is not None:
            self._take(offer)

    def _take_turn(self, message: Event) -> None:
        if (offer := self._offer_in(message)) is not None and not self._take(offer):
            self._channel.deliver(offer.node, self._channel.message(UNUSED_TURN, offer.node, offer.client))

    def _offer_in(self, message: Event) -> Offer | None:
        offer = message.decode(Offer)
        if is_identifier(offer.node):
            return offer
        self._channel.reject(message, "names no node")
        return None

    def _take(self, offer: Offer) -> bool:
        """Note *offer*; return whether an event waited for it."""
        queue = self._queues.get(offer.queue)
        return queue is not None and queue.offer(offer.client, offer.node, offer.concurrency)

    def _tell_all(self, offer: Offer) -> None:
        if not self._withdrawn:
            self.send_all(OFFER, offer)
