"""
Where an event goes: a mailbox of this node, or the queue of the partition that leads to its receivers.

The usual send finds its way with two dict look-ups and suspends nowhere.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from itertools import chain, count
from typing import Any, Final, TypeAlias

import anyio
import attrs
import msgspec
from msgspec.structs import replace

from eventbus_core.asking import AskingDirectory
from eventbus_core.errors import ClientNotFound, TransportUnavailable
from eventbus_core.event import Event, copy_event, encode_event, encode_unread
from eventbus_core.holding import Holding
from eventbus_core.lease import Lease
from eventbus_core.losses import Undeliverable
from eventbus_core.mailbox import Mailbox
from eventbus_core.names import EVERYONE, NODE_SIGN, RESERVED, check_address, check_client, node_address
from eventbus_core.options import BusOptions
from eventbus_core.outbox import Outbox
from eventbus_core.ownership import Ownership
from eventbus_core.queue import Queue
from eventbus_core.routes import Route, Routes
from eventbus_core.subscriptions import Subscriptions
from eventbus_core.topics import PatternIndex, lane_of
from eventbus_core.transport import ALL_NODES, Directory, Owner, lane_partition, node_partition
from eventbus_core.waits import Wait as Patience
from eventbus_core.waits import Waits

MOVED: Final = "$sys.moved"
UNDELIVERABLE: Final = "$sys.undeliverable"
NO_HANDLER: Final = "no handler"
LOOK_AGAIN: Final = 0.1

_LAST_DIGITS: Final = [f"{number:03x}" for number in range(4096)]

Wait: TypeAlias = Coroutine[Any, Any, None] | None
Indexes: TypeAlias = Sequence[PatternIndex[Mailbox]]


@attrs.frozen
class Moved:
    """What a node tells another that still sends to a former owner: *owner* has the client now."""

    client: str
    owner: Owner


class Router:
    """
    Sends events on their way.

    Attributes:
        options, node, outbox, ownership, subscriptions, directory, waits: what it was made of.
        internal: takes an event for this node that no application handles; returns whether it did.
        address: of this node.
        begun: whether this node has joined the others; before, what it publishes or broadcasts is for itself.
        next_id: returns an id that no other event of the namespace has.
        clients: of this node.
        routes: the ways to remote clients and nodes.
        accepted, local: events taken from the application, and deliveries within this node.
        undeliverable: events accepted here that were reported as handled by nobody, by reason.
        doubtful: returns whether the directory may not know everybody who is there.
    """

    def __init__(
        self,
        options: BusOptions,
        node: str,
        outbox: Outbox,
        ownership: Ownership,
        lease: Lease,
        subscriptions: Subscriptions,
        directory: Directory,
        waits: Waits,
        internal: Callable[[Event], bool],
    ) -> None:
        self.internal = internal
        self.address = node_address(node)
        self.begun = False
        self.clients = ownership.clients
        self.routes = Routes(outbox, options.owner_cache)
        self.accepted = self.local = 0
        self.undeliverable: Counter[str] = Counter()
        self.doubtful = lease.doubtful
        self.waits = waits
        self.options = options
        self.node = node
        self.outbox = outbox
        self.ownership = ownership
        self._lease = lease
        self.subscriptions = subscriptions
        self.directory = directory
        self._lanes: dict[str, Queue] = {}
        self.next_id = _ids(secrets.token_hex(8))

    def begin(self, incarnation: int) -> None:
        """Number events as those of this *incarnation*, and let them go to other nodes too."""
        self.begun = True
        self.routes.known.clear()  # their queues may be those of before
        self._lanes.clear()
        self.next_id = _ids(f"{incarnation:x}")

    # Sending is not `async`: nearly every event is accepted at once, and a coroutine for each
    # would cost more than its routing. Only what has to wait is returned as something to await.

    def send(self, event: Event, size: int, route: Route | None) -> Wait:
        """
        Send to the client or node that is the event's target, by *route* if it is remote; what is returned raises.

        Raises:
            ClientNotFound: nobody owns the client, or the node is not on the bus.
            TransportUnavailable: there was no room within ``send_timeout``.
        """
        holding = self.clients.get(event.target)
        if holding is not None:
            if self.put(holding, event, size):
                return None
        elif route is not None and self.put_out(route, encode_unread(event)):
            return None
        return self._send_slowly(event, size)

    def put(self, holding: Holding, event: Event, size: int) -> bool:
        """Send to a client of this node if there is room; return whether there was."""
        if not holding.mailbox.add(event, size):
            return False
        self.accepted += 1
        self.local += 1
        return True

    def put_out(self, route: Route, event: bytes) -> bool:
        """Send an encoded *event* by *route* if there is room; return whether there was."""
        queue = route.queue
        if queue.size >= self.outbox.limit:
            return False
        self.outbox.add(queue, event)
        self.accepted += 1
        return True

    def emit(self, event: Event, size: int) -> Wait:
        """Hand to this node's own handlers alone."""
        return self._spread(event, size, None, (self.subscriptions.handlers, self.subscriptions.locals))

    def publish(self, topic: str, event: Event, size: int) -> Wait:
        """
        Send to every subscriber of *topic*; what is returned raises.

        Raises:
            TransportUnavailable: there was no room within ``send_timeout``; nobody gets the event.
        """
        queue = (self._lanes.get(topic) or self._lane(topic)) if self.begun else None
        return self._spread(event, size, queue, (self.subscriptions.topics, self.subscriptions.locals))

    def broadcast(self, event: Event, size: int, *, include_self: bool) -> Wait:
        """
        Send to every node; what is returned raises.

        Raises:
            TransportUnavailable: there was no room within ``send_timeout``; nobody gets the event.
        """
        here = (self.subscriptions.handlers, self.subscriptions.locals) if include_self else ()
        return self._spread(event, size, self.outbox.queue(ALL_NODES) if self.begun else None, here)

    async def locate(self, client: str) -> Owner | None:
        """Return the owner of *client* as the directory knows it now."""
        self.ownership.check_entered()
        return await self.ownership.lookups.ask(check_client(client))

    def tell_node(self, node: str, type: str, data: object) -> None:
        """Send one of the bus' own events to another node; never waits."""
        self.forward(node, self.own_event(type, node, data))

    def tell_all(self, type: str, data: object) -> None:
        """Send one of the bus' own events to every other node; never waits."""
        event = replace(self.own_event(type, self.node, data), target=EVERYONE)
        self.outbox.add(self.outbox.queue(ALL_NODES), encode_event(event))

    async def told(self) -> None:
        """Wait until the broker has taken what was told all before."""
        await self.outbox.flush(self.outbox.queue(ALL_NODES))

    def own_event(self, type: str, node: str, data: object) -> Event:
        """Return one of the bus' own events, for *node*."""
        raw = msgspec.Raw(msgspec.msgpack.encode(data))
        return Event(type, self.address, node_address(node), self.next_id(), raw)

    def forward(self, node: str, event: Event) -> None:
        """Pass *event* on to *node*; never waits."""
        self.outbox.add(self.outbox.queue(node_partition(node), node), encode_event(event))

    def report(self, event: Event, origin: str, reason: str) -> None:
        """Tell *origin*, the node that accepted *event*, that nobody will handle it."""
        if event.type.startswith(RESERVED):
            self.internal(self.own_event(UNDELIVERABLE, self.node, _fate(event, reason)))
            return
        fate = self.own_event(UNDELIVERABLE, origin, _fate(event, reason))
        if origin == self.node:
            self.internal(fate)
        else:
            self.forward(origin, fate)

    def unhandled(self, event: Event, origin: str) -> None:
        """Report *event*, which a handler that was taken off has left, if it was for this node and for nobody else."""
        if event.target == self.address and not self.subscriptions.handlers.match(event.type):
            self.report(event, origin, NO_HANDLER)

    async def _find(self, target: str) -> None:
        """Learn the way to *target* by the directory's word."""
        owner = await (self._find_node(target[1:]) if target[:1] == NODE_SIGN else self.locate(target))
        if owner is None:
            if self.doubtful() or not await self._is_known():
                await anyio.sleep(LOOK_AGAIN)
                return
            raise ClientNotFound(target)
        if owner.node != self.node:
            self.routes.remember(target, owner)
            return
        await self.ownership.settled()
        if target not in self.clients:
            raise ClientNotFound(target)

    async def _is_known(self) -> bool:
        """Return whether the directory knows this node; if not, it has lost its memory, and we are to enter again."""
        known = any(node.id == self.node for node in await self.directory.nodes())
        if not known:
            self._lease.hurry()
        return known

    async def _find_node(self, node: str) -> Owner | None:
        self.ownership.check_entered()
        if isinstance(self.directory, AskingDirectory):
            await self.directory.look_for(node)
        for known in await self.directory.nodes():
            if known.id == node:
                return Owner(node, known.incarnation, 0)
        return None

    def _lane(self, topic: str) -> Queue:
        if len(self._lanes) >= self.options.owner_cache:
            self._lanes.clear()
        queue = self.outbox.queue(lane_partition(lane_of(topic, self.options.lanes)))
        self._lanes[topic] = queue
        return queue

    async def _send_slowly(self, event: Event, size: int) -> None:
        """Send what is for this node itself, or has to wait: for the directory's answer, or for room."""
        wait: Wait
        check_address(event.target)
        if event.target == self.address:
            wait = self._send_home(event, size)
        else:
            with self._patience(event.target):
                while not await self._has_room(event.target):
                    pass
            route = self.routes.known.get(event.target)
            wait = self.send(replace(event, epoch=0 if route is None else route.epoch), size, route)
        if wait is not None:
            await wait

    def _send_home(self, event: Event, size: int) -> Wait:
        if self.internal(event):
            return None
        if not self.subscriptions.handlers.match(event.type):
            self.accepted += 1
            self.report(event, self.node, NO_HANDLER)
            return None
        return self._spread(event, size, None, (self.subscriptions.handlers,))

    async def _has_room(self, target: str) -> bool:
        """Return whether *target* can take an event, or wait for what it lacks."""
        if (holding := self.clients.get(target)) is not None:
            if not holding.mailbox.full():
                return True
            await holding.mailbox.room()
        elif (route := self.routes.known.get(target)) is None:
            await self._find(target)
        elif self.outbox.full(route.queue):
            await self.outbox.room(route.queue)
        else:
            return True
        return False

    def _spread(self, event: Event, size: int, queue: Queue | None, indexes: Indexes) -> Wait:
        """Hand *event* to a queue and to all who match here, to each its own, once all of them have room."""
        receivers = [mailbox for index in indexes for mailbox in index.match(event.type)]
        if self._obstacle(receivers, queue) is not None:
            return self._spread_later(event, size, queue, indexes)
        if queue is not None:
            self.outbox.add(queue, encode_unread(event))
        self.accepted += 1
        self.local += len(receivers)
        for place, mailbox in enumerate(receivers):
            mailbox.add(copy_event(event) if place else event, size)
        return None

    def _obstacle(self, receivers: Sequence[Mailbox], queue: Queue | None) -> Mailbox | Queue | None:
        for mailbox in receivers:
            if mailbox.full():
                return mailbox
        return queue if queue is not None and self.outbox.full(queue) else None

    async def _spread_later(self, event: Event, size: int, queue: Queue | None, indexes: Indexes) -> None:
        with self._patience(event.target):
            while True:
                receivers = [mailbox for index in indexes for mailbox in index.match(event.type)]
                obstacle = self._obstacle(receivers, queue)
                if obstacle is None:
                    break
                await (obstacle.room() if isinstance(obstacle, Mailbox) else self.outbox.room(obstacle))
        self._spread(event, size, queue, indexes)

    def _patience(self, target: str) -> Patience:
        """Raise when what is done within takes longer than ``send_timeout``."""
        timeout = self.options.send_timeout
        return self.waits.within(
            timeout,
            lambda: TransportUnavailable(
                f"no room for an event to {target!r} within {timeout:g} s: its receivers or the broker take nothing; "
                f"the event was not accepted"
            ),
        )


def _ids(prefix: str) -> Callable[[], str]:
    """Return what returns another id with each call; a sum of two texts, without a frame of Python's."""
    return chain.from_iterable(map(f"{prefix}-{block:x}".__add__, _LAST_DIGITS) for block in count()).__next__


def _fate(event: Event, reason: str) -> Undeliverable:
    return Undeliverable(event.id, event.type, event.source, event.target, reason)
