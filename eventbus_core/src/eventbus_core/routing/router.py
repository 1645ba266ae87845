"""
Events for one receiver: to the mailbox of a client of this node, or to the queue of the node that holds it.

The usual send finds its way with two dict look-ups and does not suspend.
"""

from __future__ import annotations

from msgspec.structs import replace

from eventbus_core.concurrency.deadlines import Deadlines
from eventbus_core.membership.channel import ControlChannel
from eventbus_core.membership.held_client import HeldClient
from eventbus_core.membership.ownership import Ownership
from eventbus_core.model.event import Event, encode_unread
from eventbus_core.model.names import check_address
from eventbus_core.outbox.outbox import Outbox
from eventbus_core.routing.fanout import FanOut, Wait
from eventbus_core.routing.locator import Locator
from eventbus_core.routing.table import Route, RoutingTable


class Router:
    """
    Sends events to clients and nodes.

    Sending is not ``async``: nearly every event is accepted at once, and a coroutine for each would cost more than its
    routing. Only a send that has to wait returns something to await.

    Attributes:
        accepted, local: events taken from the application, and deliveries within this node.
    """

    def __init__(
        self,
        channel: ControlChannel,
        outbox: Outbox,
        ownership: Ownership,
        table: RoutingTable,
        locator: Locator,
        fanout: FanOut,
        deadlines: Deadlines,
    ) -> None:
        self.accepted = self.local = 0
        self._channel = channel
        self._outbox = outbox
        self._clients = ownership.clients
        self._table = table
        self._locator = locator
        self._fanout = fanout
        self._deadlines = deadlines

    def send(self, event: Event, size: int, route: Route | None, timeout: float | None = None) -> Wait:
        """
        Send to the client or node that is the event's target, by *route* if it is remote; what is returned raises.

        Raises:
            ClientNotFound: no node holds the client, or the node is not on the bus.
            TransportUnavailable: there was no room within *timeout* seconds, by default ``send_timeout``; or the node
                of the target hangs, and as much waits for it as may wait for a slow consumer.
        """
        held = self._clients.get(event.target)
        if held is not None:
            if self.put(held, event, size):
                return None
        elif route is not None and self.put_out(route, encode_unread(event)):
            return None
        return self._send_slowly(event, size, timeout)

    def put(self, held: HeldClient, event: Event, size: int) -> bool:
        """Send to a client of this node if there is room; return whether there was."""
        if not held.mailbox.add(event, size):
            return False
        self.accepted += 1
        self.local += 1
        return True

    def put_out(self, route: Route, event: bytes) -> bool:
        """Send an encoded *event* by *route* if there is room; return whether there was."""
        queue = route.queue
        if queue.size >= queue.limit and not queue.has_room():
            return False
        self._outbox.add(queue, event)
        self.accepted += 1
        return True

    async def _send_slowly(self, event: Event, size: int, timeout: float | None) -> None:
        """Send an event that is for this node itself, or has to wait for the directory or for room."""
        wait: Wait
        check_address(event.target)
        if event.target == self._channel.address:
            wait = None if self._channel.take_one(event) else self._fanout.to_handlers(event, size, timeout)
        else:
            with self._deadlines.until_accepted(event.target, timeout):
                while not await self._has_room(event.target):
                    pass
            route = self._table.known.get(event.target)
            wait = self.send(replace(event, epoch=0 if route is None else route.epoch), size, route, timeout)
        if wait is not None:
            await wait

    async def _has_room(self, target: str) -> bool:
        """Return whether *target* can take an event, or wait for what it lacks."""
        if (held := self._clients.get(target)) is not None:
            if held.mailbox.has_room():
                return True
            await held.mailbox.wait_for_room()
        elif (route := self._table.known.get(target)) is None:
            await self._locator.learn(target)
        elif not route.queue.has_room():
            await self._outbox.wait_for_room(route.queue)
        else:
            return True
        return False
