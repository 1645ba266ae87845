"""The ways to remote clients and nodes, as last heard of."""

from __future__ import annotations

from msgspec.structs import replace

from eventbus_core.event import decode_event, encode_event
from eventbus_core.outbox import Outbox
from eventbus_core.queue import Queue
from eventbus_core.transport import Owner, node_partition


class Route:
    """The way to a remote address: the queue of its node, and the epoch by which that node holds it."""

    __slots__ = ("epoch", "incarnation", "queue")

    def __init__(self, queue: Queue, epoch: int, incarnation: int) -> None:
        self.queue = queue
        self.epoch = epoch
        self.incarnation = incarnation


class Routes:
    """
    Remembers the ways to remote addresses; whoever finds that one has moved corrects it.

    Attributes:
        known: by address.
    """

    def __init__(self, outbox: Outbox, limit: int) -> None:
        self.known: dict[str, Route] = {}
        self._outbox = outbox
        self._limit = limit

    def remember(self, client: str, owner: Owner) -> Route:
        """
        Let the next events for *client* go to *owner*, unless something newer is known.

        Those that still wait for its former owner, which nobody has had, go there first.
        """
        known = self.known.get(client)
        if known is not None and known.epoch > owner.epoch:
            return known
        queue = self._outbox.queue(node_partition(owner.node), owner.node)
        if known is not None and known.queue is not queue and known.queue.later is not None:
            known.queue.later.append(lambda: self.remember(client, owner))  # what comes back goes before the rest
            return known
        if known is None and len(self.known) >= self._limit:
            del self.known[next(iter(self.known))]
        route = self.known[client] = Route(queue, owner.epoch, owner.incarnation)
        if known is not None and known.queue is not queue:
            self._move(client, known.queue, route)
        return route

    def correct(self, client: str, owner: Owner | None) -> None:
        """If an owner of *client* is remembered, let that be *owner* from now on, or look it up again."""
        if client in self.known:
            if owner is None:
                self.forget(client)
            else:
                self.remember(client, owner)

    def resettle(self, queue: Queue) -> None:
        """Send what waits in *queue*, whose node does not listen, after those clients that are known to have moved."""
        for target in {decode_event(event).target for event in queue.events}:
            route = self.known.get(target)
            if route is not None and route.queue is not queue:
                self._move(target, queue, route)

    def _move(self, client: str, former: Queue, route: Route) -> None:
        for event in self._outbox.take_out(former, client):
            self._outbox.add(route.queue, encode_event(replace(event, epoch=route.epoch)))

    def cached(self, address: str) -> Owner | None:
        """Return the owner that is remembered for *address*, if any."""
        route = self.known.get(address)
        if route is None or route.queue.node is None:
            return None
        return Owner(route.queue.node, route.incarnation, route.epoch)

    def forget(self, address: str) -> None:
        """Look *address* up again before the next event goes there."""
        self.known.pop(address, None)

    def forget_node(self, node: str) -> None:
        """Look up again whatever was thought to be at *node*."""
        gone = [address for address, route in self.known.items() if route.queue.node == node]
        for address in gone:
            del self.known[address]
