"""Confirms claims with the directory, which decides who owns a client, whatever messages were lost."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Final

from eventbus_core.backend import Claim, Directory, Owner
from eventbus_core.concurrency.signal import Signal
from eventbus_core.errors import ClientTakenOver, EventBusError
from eventbus_core.membership.held_client import HeldClient
from eventbus_core.membership.ownership import Ownership

PART: Final = 1000
"""Clients in one question; a node that holds fewer confirms all of them with each renewal."""
RENEWALS: Final = 6
"""Renewals, three a lease, within which each client that is held is confirmed."""
MAX_TIME: Final = 0.1
"""Part of a lease for which one renewal may go on confirming; what is left comes with the next ones."""


class Confirmation:
    """
    Settles claims in doubt against the directory; the former owner and the claimer both do, each with its renewals.

    A message about a takeover can be lost, and a node can die before it sends one. So the rule is: the directory's row
    of a client decides, and both sides look at it.

    - The node that holds a client confirms it within two leases: :meth:`confirm_share`. A row of another node with a
      larger epoch ends the handle. A missing row is claimed again.
    - The node whose claim was not answered adopts the claim, or gives it up: :meth:`settle_doubts`.
    - A row with a smaller epoch than our claim is stale: the directory lost changes, in a fail-over or a restart from
      an older snapshot. It is claimed again, by a larger epoch. So of two live handles the later one stays.

    Attributes:
        regained: called with clients that were claimed again.
    """

    def __init__(self, directory: Directory, ownership: Ownership, lease: float) -> None:
        self.regained: Signal[[Sequence[HeldClient]]] = Signal()
        self._directory = directory
        self._ownership = ownership
        self._lease = lease
        self._unseen: list[HeldClient] = []  # in this round
        self._last_loss: int | None = None  # as all clients were confirmed

    async def confirm_all(self, *, entered: bool) -> None:
        """
        Claim every client that we hold; end the handles of those that other nodes own.

        Unless this node has just *entered*, this needs no call if the directory knows that no client was taken from it
        since the last time: so it costs the same with any number of clients, however often connections are cut.
        """
        loss = self._directory.last_loss
        if entered or loss is None or loss != self._last_loss:
            await self._claim_again(list(self._ownership.clients.values()))
            self._last_loss = loss

    async def look(self) -> None:
        """End the handles of clients that other nodes own; for a directory that grants no claim now."""
        held = list(self._ownership.clients.values())
        owners = await self._directory.locate([one.name for one in held]) if held else []
        for one, owner in zip(held, owners, strict=True):
            if owner is not None and owner.epoch > one.epoch and self._is_settled(one):
                self._learn(one, owner)

    async def confirm_share(self) -> None:
        """Confirm some of the clients that we hold, so that each has its turn within ``RENEWALS`` calls."""
        clients = self._ownership.clients
        until = monotonic() + MAX_TIME * self._lease
        left = max(PART, -(-len(clients) // RENEWALS))
        while left > 0 and clients:
            if not self._unseen:
                self._unseen = list(clients.values())
            size = min(left, PART)
            part, self._unseen = self._unseen[:size], self._unseen[size:]
            await self._confirm([held for held in part if self._is_settled(held)])
            left = left - size if self._unseen and monotonic() < until else 0

    async def settle_doubts(self) -> None:
        """Release what is ours in the directory though we do not hold it, and confirm what we hold; for all doubts."""
        ownership, now = self._ownership, monotonic()
        names = list(ownership.doubts)
        owners = await self._directory.locate(names) if names else []
        phantoms: list[Claim] = []
        wrong: list[HeldClient] = []
        for name, owner in zip(names, owners, strict=True):
            held = ownership.clients.get(name)
            mine = owner if owner is not None and owner.node == ownership.node else None
            if name in ownership.claiming:
                continue  # the answer is still to come
            if held is not None and (mine is None or mine.epoch != held.epoch):
                wrong.append(held)
            elif held is None and mine is not None:
                phantoms.append(Claim(name, mine.epoch))
        if phantoms:
            await self._directory.release(phantoms)
        await self._claim_again(wrong)
        for name in names:
            if ownership.doubts.get(name, now) < now:
                del ownership.doubts[name]

    async def _confirm(self, held: Sequence[HeldClient]) -> None:
        if held:
            claims = [one.claim for one in held]
            valid = await self._directory.confirm(claims)
            rows = zip(held, claims, valid, strict=True)
            await self._claim_again(
                [one for one, claim, ours in rows if not ours and one.epoch == claim.epoch and self._is_settled(one)]
            )

    async def _claim_again(self, held: Sequence[HeldClient]) -> None:
        if not held:
            return
        answers = dict(zip(held, await self._ownership.claim_again(held, takeover=False), strict=True))
        stale = [one for one, owner in answers.items() if isinstance(owner, Owner) and owner.epoch < one.epoch]
        if stale:
            answers.update(zip(stale, await self._ownership.claim_again(stale, takeover=True), strict=True))
        for one, owner in answers.items():
            if isinstance(owner, Owner) and self._ownership.clients.get(one.name) is one:
                self._learn(one, owner)
        self.regained(held)
        for answer in answers.values():
            if isinstance(answer, EventBusError):
                raise answer

    def _learn(self, held: HeldClient, owner: Owner) -> None:
        if owner.node == self._ownership.node:
            held.confirmed(owner.epoch)
        else:
            self._ownership.drop(held)
            self._ownership.ended(held, ClientTakenOver(held.name, owner.node))

    def _is_settled(self, held: HeldClient) -> bool:
        """Return whether we hold the client, and no other handle of this node claims it now."""
        return self._ownership.clients.get(held.name) is held and held.name not in self._ownership.claiming
