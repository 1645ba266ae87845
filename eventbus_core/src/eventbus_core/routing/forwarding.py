"""Forwarding: events that reached a node which does not hold their client go to the node that does."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

import anyio
from msgspec.structs import replace

from eventbus_core.backend import Directory, Owner
from eventbus_core.concurrency.backoff import retry_pause
from eventbus_core.concurrency.notifier import Notifier
from eventbus_core.concurrency.service_group import ServiceGroup
from eventbus_core.concurrency.worker import Worker
from eventbus_core.errors import EventBusError
from eventbus_core.membership.channel import ControlChannel
from eventbus_core.membership.held_client import HeldClient
from eventbus_core.membership.lease import Lease
from eventbus_core.membership.ownership import Ownership
from eventbus_core.model.event import Event
from eventbus_core.model.names import NODE_SIGN
from eventbus_core.model.reports import Reason
from eventbus_core.observability.log import get_logger
from eventbus_core.routing.table import RoutingTable
from eventbus_core.routing.takeover import Takeover
from eventbus_core.routing.undeliverable import UndeliverableReports
from eventbus_core.session.incoming import Ticket

logger = get_logger("eventbus")

MAX_HOPS: Final = 2
MAX_STRAYS: Final = 100_000
"""Events of closed handles that may wait for the directory; those of other nodes are bounded by credit."""


class Stray(NamedTuple):
    """An event that reached a node which does not hold its client; *origin* is the node that accepted it."""

    event: Event
    origin: str
    ticket: Ticket | None = None

    def settle(self) -> None:
        """Confirm the event to the node that sent it here: it is forwarded or reported."""
        if self.ticket is not None:
            self.ticket.settle(1)


class Forwarder:
    """
    Sends strays to the owners of their clients, or reports them.

    That needs the directory, which the frame reader must not wait for.

    Attributes:
        deliveries: strays whose client turned out to be held here.
        forwarded: events passed on to another node.
    """

    def __init__(
        self,
        channel: ControlChannel,
        directory: Directory,
        ownership: Ownership,
        lease: Lease,
        table: RoutingTable,
        takeover: Takeover,
        reports: UndeliverableReports,
        services: ServiceGroup,
    ) -> None:
        self.deliveries = self.forwarded = 0
        self._channel = channel
        self._node = channel.node
        self._directory = directory
        self._ownership = ownership
        self._lease = lease
        self._table = table
        self._takeover = takeover
        self._reports = reports
        self._strays: deque[Stray] = deque()
        self._progress = Notifier()
        self._worker = Worker(services, self.run)

    def add(self, strays: Sequence[Stray]) -> None:
        """Forward *strays*."""
        if strays:
            self._strays.extend(strays)
            self._worker.wake()

    def stray(self, stray: Stray) -> None:
        """Forward an event whose client is not held here any more."""
        if not self._ownership.entered or len(self._strays) >= MAX_STRAYS:
            self._reports.report(stray.event, stray.origin, Reason.CLIENT_GONE)
            stray.settle()
        else:
            self.add([stray])

    def follow(self, stray: Stray, epoch: int) -> None:
        """Forward an event that a handle of *epoch* left: at once, so in order, if a later owner is known."""
        owner = self._table.cached(stray.event.target)
        if owner is not None and owner.epoch > epoch:
            self.pass_on(stray.event, stray.origin, owner)
            stray.settle()
        else:
            self.stray(stray)

    def pass_on(self, event: Event, origin: str, owner: Owner) -> None:
        """Forward *event*, accepted by *origin*, to the node that owns its client, and tell *origin* of it."""
        self.forwarded += 1
        self._channel.forward(owner.node, replace(event, hops=event.hops + 1, origin=origin, epoch=owner.epoch))
        if origin not in (self._node, owner.node):
            self._takeover.tell_moved(origin, event.target, owner)

    async def settled(self) -> None:
        """Return once all strays are forwarded or reported."""
        while self._strays:
            await self._progress.wait()

    def give_up(self) -> None:
        """Report every stray that still waits for the directory: the bus closes."""
        while self._strays:
            stray = self._strays.popleft()
            self._reports.report(stray.event, stray.origin, Reason.BUS_CLOSED)
            stray.settle()

    async def run(self) -> None:
        """Forward strays until none is left."""
        while self._strays:
            try:
                await self._redirect(self._strays)
                self._progress.notify()
            except EventBusError as error:
                logger.debug("node %s: cannot look up clients to forward events: %s", self._node, error)
                await anyio.sleep(retry_pause())

    async def _redirect(self, strays: deque[Stray]) -> None:
        """Send each of *strays* to the present owner of its client, or report it."""
        clients = list(dict.fromkeys(s.event.target for s in strays if not s.event.target.startswith(NODE_SIGN)))
        owners = dict(zip(clients, await self._directory.locate(clients), strict=True)) if clients else {}
        if any(owner and owner.node == self._node for owner in owners.values()):
            await self._ownership.settled()
        incomplete = self._lease.view_incomplete()
        self._table.remember_all(
            (client, owner) for client, owner in owners.items() if owner is not None and owner.node != self._node
        )
        for _ in range(len(strays)):
            stray = strays.popleft()
            owner = owners.get(stray.event.target)
            is_known = stray.event.target in owners and not (owner is None and incomplete)
            if is_known or stray.event.target.startswith(NODE_SIGN):
                self._redirect_one(stray, owner)
            else:
                strays.append(stray)
        if strays and incomplete:
            await anyio.sleep(retry_pause())

    def _is_ours(self, held: HeldClient, owner: Owner | None) -> bool:
        """Return whether *held* is the latest claim: the directory named *owner* perhaps before it was granted."""
        return owner is None or owner.node == self._node or owner.epoch < held.epoch

    def _redirect_one(self, stray: Stray, owner: Owner | None) -> None:
        event, origin, ticket = stray
        held = self._ownership.clients.get(event.target)
        if held is not None and not held.mailbox.closed and self._is_ours(held, owner):
            self.deliveries += 1
            named = event if ticket is not None else replace(event, origin=origin)
            held.mailbox.put([named], len(memoryview(event.raw)), ticket)
            return
        stray.settle()
        if owner is None or owner.node == self._node:
            if owner is not None:  # a row without a handle: an old one, or of a claim that was not answered
                self._ownership.doubt(event.target)
            is_node = event.target.startswith(NODE_SIGN)
            self._reports.report(event, origin, Reason.NODE_UNREACHABLE if is_node else Reason.CLIENT_GONE)
        elif event.hops >= MAX_HOPS:
            self._reports.report(event, origin, Reason.TOO_MANY_HOPS)
        else:
            self.pass_on(event, origin, owner)
