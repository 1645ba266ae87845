"""The lease of this node: renewed in time, and entered again when it was lost."""

from __future__ import annotations

from math import inf
from time import monotonic
from typing import Final

import anyio

from eventbus_core.backend import Directory
from eventbus_core.concurrency.backoff import RETRY_PAUSE, Backoff, retry_pause
from eventbus_core.concurrency.service_group import ServiceGroup
from eventbus_core.concurrency.signal import Signal
from eventbus_core.concurrency.worker import Worker
from eventbus_core.errors import (
    ClaimsSuspended,
    EventBusError,
    NamespaceMismatch,
    NodeAlreadyPresent,
    TransportUnavailable,
)
from eventbus_core.membership.confirmation import Confirmation
from eventbus_core.membership.ownership import Ownership
from eventbus_core.model.state import NodeState
from eventbus_core.observability.log import get_logger
from eventbus_core.outbox.broker_status import Ability, BrokerStatus

logger = get_logger("eventbus")

RENEWALS_PER_LEASE: Final = 3
MARGIN: Final = 0.1
"""Part of a lease before whose end nothing is handed out any more, so that it is handled in time."""
SUSPENDED: Final = 0.5
"""Seconds for which a node keeps its clients after the directory said that it grants no claim now."""
OVERDUE: Final = 0.5
"""A renewal that is late by this part of a lease: the cause may have ended the leases of other nodes as well."""


class Lease:
    """
    The lease of this node: renewed from :meth:`begin` on, until the node leaves.

    Each renewal also settles the claims in doubt, confirms a share of our clients, and releases what is owed. Each time
    the lease was lost, this node enters again with a new incarnation, and claims what no other node took.

    Attributes:
        lost: whether it was lost, and ``kept`` has not been called yet.
        losses: how often it was lost.
        kept: called after it was lost, and after :meth:`hurry`, with whether it was lost.
        secured: called with the time until when no other node can own our clients: until the lease that was renewed
            last can have ended, less a margin; or until the directory is asked again while it grants no claim.
        lapsed: called when the lease has ended: other nodes may have claimed our clients.
        confirmed: called when the directory has confirmed that the lease and our clients are ours.
    """

    def __init__(
        self,
        directory: Directory,
        seconds: float,
        node: str,
        state: NodeState,
        status: BrokerStatus,
        ownership: Ownership,
        confirmation: Confirmation,
        services: ServiceGroup,
    ) -> None:
        self.lost = False
        self.losses = 0
        self.kept: Signal[[bool]] = Signal()
        self.secured: Signal[[float]] = Signal()
        self.lapsed: Signal[[]] = Signal()
        self.confirmed: Signal[[]] = Signal()
        self._directory = directory
        self._seconds = seconds
        self._node = node
        self._state = state
        self._status = status
        self._ownership = ownership
        self._confirmation = confirmation
        self._begun = self._urgent = self._due = False
        self._worker = Worker(services, self._keep)
        self._renew_at = inf
        self._renewed_at = inf
        self._secured_until = 0.0
        self._complete_after = 0.0

    def view_incomplete(self) -> bool:
        """
        Return whether the directory may lack live nodes and their clients.

        It does after it lost its memory, and while our own renewal is so late that nodes whose turn was before ours
        may have lost their leases: they get one lease of time to enter again. A node that leaves does not wait for
        them.
        """
        return not self._state.leaving and (self.lost or monotonic() < self._complete_after or self._overdue())

    def distrust(self) -> None:
        """Take the directory's view as incomplete for one lease."""
        self._complete_after = monotonic() + self._seconds

    def begin(self) -> None:
        """Renew the lease from now on: this node has entered."""
        self._begun = True
        self._renewed_at = monotonic()
        self._renewed(self._ownership.entered_at)
        self._renew_at = monotonic() + self._seconds / RENEWALS_PER_LEASE
        if self._due:
            self._worker.wake()

    def tend(self, now: float) -> None:
        """Renew the lease if it is time."""
        if now >= self._renew_at:
            self._worker.wake()

    def hurry(self) -> None:
        """Renew now, and confirm every client that we hold, unless none can have been taken from us."""
        self._urgent = True
        self.hasten()

    def hasten(self) -> None:
        """Renew now, and settle the claims in doubt."""
        self._due = True
        if self._begun:
            self._worker.wake()

    async def _keep(self) -> None:
        """Renew the lease, again and again until that succeeds."""
        refused = Backoff(RETRY_PAUSE)
        while not self._state.leaving and (self._due or monotonic() >= self._renew_at):
            urgent, self._urgent, self._due = self._urgent, False, False
            try:
                asked = monotonic()
                if await self._directory.renew():
                    self._renewed(asked)
                else:
                    await self._enter_again()
                if self._overdue():
                    self.distrust()
                self._renewed_at = monotonic()
                if self.lost or urgent:
                    await self._confirmation.confirm_all(entered=self.lost)
                    self.kept(self.lost)
                    if self.lost:
                        self.distrust()
                        self.lost = False
                await self._confirmation.settle_doubts()
                urgent = False
                if not self._urgent:  # else something became uncertain after the answer
                    self.confirmed()
                await self._confirmation.confirm_share()
                refused.reset()
                self._status.succeeded(Ability.RENEW)
                await self._ownership.release_owed()
            except (NodeAlreadyPresent, NamespaceMismatch):
                raise  # another node has our id, or the namespace has other terms: this node is no longer a member
            except ClaimsSuspended as error:
                self._status.failed(Ability.RENEW, error)
                pause = retry_pause()
                urgent = not await self._keep_while_suspended(urgent=urgent)
            except EventBusError as error:  # a refusal too may end: a right is given back, a password is changed
                self._status.failed(Ability.RENEW, error)
                pause = retry_pause() if isinstance(error, TransportUnavailable) else refused.next()
            else:
                self._renew_at = monotonic() + self._seconds / RENEWALS_PER_LEASE
                continue
            self._due, self._urgent = True, self._urgent or urgent
            await anyio.sleep(pause)

    def _renewed(self, asked: float) -> None:
        self._secured_until = asked + (1 - MARGIN) * self._seconds
        self.secured(self._secured_until)

    async def _keep_while_suspended(self, *, urgent: bool) -> bool:
        """Keep our clients for the time being; return whether it is known that no other node owns them."""
        self._secured_until = max(self._secured_until, monotonic() + SUSPENDED)
        try:
            if urgent or self.lost:
                await self._confirmation.look()
        except EventBusError:
            return False
        self.secured(self._secured_until)
        if not self._urgent:
            self.confirmed()
        return True

    def _overdue(self) -> bool:
        return monotonic() - self._renewed_at > OVERDUE * self._seconds

    async def _enter_again(self) -> None:
        if not self.lost:
            logger.warning("node %s lost its lease; entering again", self._node, extra={"node": self._node})
            self.losses += 1
        self.lost = True
        self.lapsed()
        await self._ownership.enter()
        self._renewed(self._ownership.entered_at)
