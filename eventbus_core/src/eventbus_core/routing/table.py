"""The routing table: the routes to remote clients and nodes, as last heard of."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from eventbus_core.backend import Owner, node_partition
from eventbus_core.model.event import Event, encode_event
from eventbus_core.outbox.outbox import Outbox
from eventbus_core.outbox.partition_queue import PartitionQueue


class Route:
    """The route to a remote address: the queue of its node, and the epoch by which that node holds it."""

    __slots__ = ("epoch", "incarnation", "queue")

    def __init__(self, queue: PartitionQueue, epoch: int, incarnation: int) -> None:
        self.queue = queue
        self.epoch = epoch
        self.incarnation = incarnation


class RoutingTable:
    """
    Remembers the routes to remote addresses, and corrects those that have moved.

    ``known`` is changed in place and never replaced: the sender and the router hold the same dict.

    Attributes:
        known: by address.
    """

    def __init__(self, outbox: Outbox, limit: int) -> None:
        self.known: dict[str, Route] = {}
        self._outbox = outbox
        self._limit = limit
        self._unsettled: dict[PartitionQueue, None] = {}  # queues of former owners of redirected clients
        self._after_write: dict[PartitionQueue, dict[str, Owner]] = {}  # owners to remember once a write has ended

    def clear(self) -> None:
        """Forget every route."""
        self.known.clear()

    def remember(self, client: str, owner: Owner) -> None:
        """
        Send the next events for *client* to *owner*, unless a later owner is known.

        Events that still wait for its former owner, which has had none of them, go there first.
        """
        self.remember_all([(client, owner)])

    def remember_all(self, owners: Iterable[tuple[str, Owner]]) -> None:
        """Do what :meth:`remember` does for many clients, and look through each queue of a former owner once."""
        for client, owner in owners:
            self.redirect(client, owner)
        self.settle()

    def redirect(self, client: str, owner: Owner) -> None:
        """
        Do what :meth:`remember` does, but leave events in the queue of the former owner until :meth:`settle`.

        The caller must call that before it suspends, and before an application can send.
        """
        known = self.known.get(client)
        if known is not None and known.epoch > owner.epoch:
            return
        queue = self._outbox.queue(node_partition(owner.node), owner.node)
        queue.session.goes_to(owner.incarnation)
        former = None if known is None or known.queue is queue else known.queue
        if former is not None and former.after_write is not None:
            # Events that come back from the write must go before the rest.
            waiting = self._after_write.setdefault(former, {})
            if not waiting:
                former.after_write.append(lambda: self._written(former))
            waiting[client] = owner
            return
        if known is None and len(self.known) >= self._limit:
            del self.known[next(iter(self.known))]
        self.known[client] = Route(queue, owner.epoch, owner.incarnation)
        if former is not None:
            self._unsettled[former] = None

    def settle(self) -> None:
        """Move the events of clients that were redirected."""
        while self._unsettled:
            self.resettle(self._unsettled.popitem()[0])

    def _written(self, queue: PartitionQueue) -> None:
        self.remember_all(self._after_write.pop(queue).items())

    def correct(self, client: str, owner: Owner | None) -> None:
        """If an owner of *client* is remembered, replace it by *owner*; without one, look the client up again."""
        if client in self.known:
            if owner is None:
                self.forget(client)
            else:
                self.remember(client, owner)

    def resettle(self, queue: PartitionQueue) -> None:
        """Move events that wait in *queue* for clients that are known to be elsewhere, in their order."""

        def moved(event: Event) -> bool:
            route = self.known.get(event.target)
            return route is not None and route.queue is not queue

        for event in self._outbox.take_out(queue, moved):
            route = self.known[event.target]
            self._outbox.add(route.queue, encode_event(replace(event, epoch=route.epoch)))

    def cached(self, address: str) -> Owner | None:
        """Return the remembered owner of *address*, if there is one."""
        route = self.known.get(address)
        if route is None or route.queue.node is None:
            return None
        return Owner(route.queue.node, route.incarnation, route.epoch)

    def forget(self, address: str) -> None:
        """Look *address* up again before the next event goes there."""
        self.known.pop(address, None)

    def forget_node(self, node: str) -> None:
        """Look up again every address that was thought to be at *node*."""
        gone = [address for address, route in self.known.items() if route.queue.node == node]
        for address in gone:
            del self.known[address]
