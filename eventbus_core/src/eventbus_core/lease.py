"""The lease that keeps what this node holds: renewed in time, and entered for anew when it was lost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from math import inf
from time import monotonic
from typing import Final

import anyio

from eventbus_core.errors import EventBusError, NamespaceMismatch, NodeAlreadyPresent, TransportUnavailable
from eventbus_core.holding import Holding
from eventbus_core.link import RETRY_PAUSE, Link
from eventbus_core.log import get_logger
from eventbus_core.ownership import Ownership
from eventbus_core.transport import Directory, Owner

logger = get_logger("eventbus")

RENEWALS_PER_LEASE: Final = 3
OVERDUE: Final = 0.5
"""A renewal that is as late as this part of a lease: what held it up may have ended the leases of others."""


class Lease:
    """
    The lease of this node.

    Attributes:
        lost: whether it was lost, and :meth:`keep` has not told of it yet.
        losses: how often it was.
    """

    def __init__(
        self,
        directory: Directory,
        seconds: float,
        node: str,
        link: Link,
        ownership: Ownership,
        verified: Callable[[], None],
    ) -> None:
        self.lost = False
        self.losses = 0
        self._directory = directory
        self._seconds = seconds
        self._node = node
        self._link = link
        self._ownership = ownership
        self._verified = verified
        self._hurry = anyio.Event()
        self._over = False
        self._renewed_at = inf
        self._trust_after = 0.0

    def doubtful(self) -> bool:
        """
        Return whether the directory may not know everybody who is there.

        It has lost its memory, or our own renewal was so late that others, whose turn was before ours, may have
        lost their leases: they have one lease of time to enter again. A node that leaves has no time to wait for them.
        """
        return not self._over and (self.lost or monotonic() < self._trust_after or self._overdue())

    def distrust(self) -> None:
        """Be :meth:`doubtful` for one lease."""
        self._trust_after = monotonic() + self._seconds

    def end(self) -> None:
        """Renew it no more: the node leaves."""
        self._over = True
        self._hurry.set()

    def hurry(self) -> None:
        """Renew it now, and make sure of what we hold."""
        self._hurry.set()

    async def keep(self) -> AsyncIterator[tuple[bool, list[tuple[Holding, Owner]]]]:
        """
        Renew it for ever.

        Each time it was lost, enter again with a new incarnation, and claim again what nobody took.
        Then, and after :meth:`hurry`, yield whether it was lost, and what others took, with its owners.
        """
        failures = 0
        self._renewed_at = monotonic()
        while True:
            if self._hurry.is_set():
                await anyio.sleep(failures * RETRY_PAUSE)
            else:
                with anyio.move_on_after(RETRY_PAUSE if self.lost or failures else self._seconds / RENEWALS_PER_LEASE):
                    await self._hurry.wait()
            if self._over:
                return
            hurried, self._hurry = self._hurry.is_set(), anyio.Event()
            try:
                if not await self._directory.renew():
                    await self._enter_again()
                if self._overdue():
                    self.distrust()
                self._renewed_at = monotonic()
                if self.lost or hurried:
                    taken = await self._ownership.claim_again()
                    yield self.lost, taken
                    if self.lost:
                        self.distrust()
                        self.lost = False
                await self._ownership.settle_doubts()
                failures, hurried = 0, False
                self._link.succeeded()
                if not self._hurry.is_set():  # else there is a doubt that is newer than the answer
                    self._verified()
                await self._ownership.release_owed()
            except (NodeAlreadyPresent, NamespaceMismatch):
                raise  # another has entered in our name, or the namespace is not ours any more: we are nobody
            except TransportUnavailable as error:
                self._link.failed(error)
                failures = 1
            except EventBusError as error:
                extra = {"node": self._node, "error": str(error)}
                logger.warning("node %s could not renew its lease: %s", self._node, error, extra=extra)
                failures = 1
            if hurried:  # and it failed
                self._hurry.set()

    def _overdue(self) -> bool:
        return monotonic() - self._renewed_at > OVERDUE * self._seconds

    async def _enter_again(self) -> None:
        if not self.lost:
            logger.warning("node %s lost its lease; entering again", self._node, extra={"node": self._node})
            self.losses += 1
        self.lost = True
        await self._ownership.enter()
