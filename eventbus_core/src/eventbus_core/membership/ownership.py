"""The clients that this node holds: claimed from the directory, released to it, and confirmed by it."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import TypeAlias

import anyio

from eventbus_core.backend import Claim, Directory, Owner, Terms
from eventbus_core.concurrency.batcher import Batcher
from eventbus_core.concurrency.service_group import ServiceGroup
from eventbus_core.concurrency.signal import Signal
from eventbus_core.errors import (
    BusClosed,
    ClientAlreadyClaimed,
    ClientTakenOver,
    EventBusError,
    LimitExceeded,
    TransportUnavailable,
    fresh_copy,
)
from eventbus_core.membership.held_client import UNKNOWN, HeldClient
from eventbus_core.observability.log import LogLimit, get_logger
from eventbus_core.options import BusOptions
from eventbus_core.session.wire import WIRE_VERSION

logger = get_logger("eventbus")

Refusal: TypeAlias = Owner | EventBusError
"""Why a client was not claimed: it has an owner, or the error."""


class Ownership:
    """
    The clients that this node holds.

    ``clients`` is changed in place and never replaced: routing, the receiver and the sender hold the same dict.

    Attributes:
        node: this one.
        clients: by name.
        incarnation: of this node; 0 until it has entered.
        entered_first: called when this node has entered for the first time.
        entered_at: when this node last asked to enter, successfully.
        acquired: called with a client as soon as it was claimed from another node.
        ended: called with a client that is not held any more, and the reason.
        claiming: clients that applications claim now, without an answer so far.
        doubts: clients that :class:`Confirmation` asks the directory about with each renewal, and until when.
        doubted: called when a claim failed, so that the directory may have granted it or not.
    """

    def __init__(self, directory: Directory, options: BusOptions, node: str, services: ServiceGroup) -> None:
        self.clients: dict[str, HeldClient] = {}
        self.incarnation = 0
        self.entered_at = 0.0
        self.entered_first: Signal[[]] = Signal()
        self.acquired: Signal[[HeldClient]] = Signal()
        self.ended: Signal[[HeldClient, EventBusError]] = Signal()
        self.claiming: set[str] = set()
        self.doubts: dict[str, float] = {}
        self.doubted: Signal[[]] = Signal()
        self.node = node
        self._directory = directory
        self._options = options
        self._entry_open = False  # the directory was asked to enter us, and has not answered
        self._owed: set[Claim] = set()  # releases that the directory has not confirmed yet
        self._failed_releases = LogLimit()
        self._claiming_again: set[str] = set()
        self._superseded: dict[str, tuple[int, str]] = {}  # by claims of other nodes, during claims of ours
        self._claims = Batcher(services, self._claim_batch, self._abandoned)
        self._releases = Batcher(services, self._release_all)

    async def enter(self) -> None:
        """
        Enter the namespace.

        Raises:
            NodeAlreadyPresent, NamespaceMismatch, TransportUnavailable: see :meth:`Directory.enter`.
        """
        asked = monotonic()
        again, self.incarnation = self.entered, await self._ask_to_enter()
        self.entered_at = asked
        self._owed.clear()  # the claims of a former incarnation have ended with its lease
        self._failed_releases.reset()
        if not again:
            self.entered_first()

    async def _ask_to_enter(self) -> int:
        """
        Return our new incarnation.

        The directory may have entered us although no answer came: the call was cancelled (asyncio passes every
        shield), or the connection broke. :meth:`leave` settles that.
        """
        self._entry_open = True
        try:
            with anyio.CancelScope(shield=True):
                terms = Terms(WIRE_VERSION, self._options.lanes, self._options.retained)
                incarnation = await self._directory.enter(self.node, self._options.lease, terms)
        except EventBusError as error:
            self._entry_open = isinstance(error, TransportUnavailable)  # every other error is an answer
            raise
        self._entry_open = False
        return incarnation

    @property
    def entered(self) -> bool:
        """Whether this node has entered; before, it holds its clients provisionally, by epoch 0."""
        return bool(self.incarnation)

    def check_entered(self) -> None:
        """
        Do nothing if this node has entered.

        Raises:
            TransportUnavailable: it has not, so that it knows of no other node.
        """
        if not self.entered:
            raise TransportUnavailable(
                "the broker has not been reached yet: this node is alone and knows only its own clients"
            )

    async def claim(self, held: HeldClient, *, takeover: bool) -> None:
        """
        Claim the client of *held*; once this returns, events for it come here.

        Raises:
            ClientAlreadyClaimed: another holds it, and *takeover* is false.
            LimitExceeded: this node holds as many clients as it may.
            TransportUnavailable: the directory cannot be reached, or does not say that it granted the claim.
        """
        refused = await self._claims.ask((held, takeover))
        if isinstance(refused, Owner):
            raise ClientAlreadyClaimed(held.name, refused.node)
        if refused is not None:
            raise refused

    def drop(self, held: HeldClient) -> None:
        """Stop holding *held*, without telling the directory."""
        if self.clients.get(held.name) is held:
            del self.clients[held.name]

    def replace(self, held: HeldClient, successor: HeldClient) -> None:
        """Hold the client of *held* by the same claim for *successor*."""
        successor.granted(held.claim)
        self.clients[held.name] = successor

    async def release(self, held: HeldClient) -> None:
        """Release the client, if it is still ours by this claim; if the directory is unavailable, once it is back."""
        self.drop(held)
        self._owed.add(held.claim)
        await self._releases.ask(held.claim)

    async def offer(self, clients: Sequence[HeldClient]) -> None:
        """Release *clients* in the directory, so that other nodes can claim them; their events still come here."""
        await self._directory.release([held.claim for held in clients if held.epoch])

    def give_up(self, held: HeldClient) -> None:
        """Release a client whose claim was cancelled after it had been granted."""
        self.ended(held, BusClosed(f"the claim of client {held.name!r} was cancelled"))
        self.release_soon(held)

    def release_soon(self, held: HeldClient) -> None:
        """Do what :meth:`release` does, without waiting for it."""
        self.drop(held)
        self._release_later(held.claim)

    async def settled(self) -> None:
        """Return once every claim that this node has begun is answered."""
        await self._claims.settled()

    async def leave(self) -> None:
        """
        Release everything and leave the namespace.

        If the answer to our entry was lost, enter once more: without its incarnation the directory cannot be left, and
        our id would be taken until the lease ends.
        """
        if self._entry_open:
            try:
                self.incarnation = await self._ask_to_enter()
            except EventBusError:
                if not self.entered:
                    return  # as far as this node knows there is nothing to leave
                raise
        if self.entered:
            await self._directory.leave()

    def doubt(self, *clients: str) -> None:
        """Have :class:`Confirmation` ask for *clients* with each renewal, for a lease: there may be unknown claims."""
        self.doubts.update(dict.fromkeys(clients, monotonic() + self._options.lease))

    async def release_owed(self) -> None:
        """Release again what the directory did not take when it was released, whatever its reason was."""
        if self._owed:
            await self._release_all(list(self._owed))

    async def claim_again(self, held: Sequence[HeldClient], *, takeover: bool) -> Sequence[Refusal | None]:
        """
        Claim clients that we hold, or held by a claim that may have ended; return each refusal.

        A claim of another node that this node hears of meanwhile counts once ours has its epoch: the larger one owns.
        """
        self._claiming_again.update(one.name for one in held)
        try:
            return await self._claim_all([(one, takeover) for one in held])
        finally:
            self._claiming_again.clear()
            for client, later in list(self._superseded.items()):
                if client in self.clients:
                    self.supersede(client, *later)
            self._forget_superseded()

    async def _claim_all(self, wanted: Sequence[tuple[HeldClient, bool]]) -> Sequence[Refusal | None]:
        refused = self._refuse_surplus(wanted)
        for takeover in (True, False):
            which = [(i, held) for i, (held, take) in enumerate(wanted) if take is takeover and refused[i] is None]
            if not which:
                continue
            if not self.entered:
                for index, held in which:
                    refused[index] = self._claim_provisionally(held, takeover=takeover)
                continue
            answers = await self._ask_to_claim([held.name for _, held in which], takeover=takeover)
            for (index, held), answer in zip(which, answers, strict=True):
                if isinstance(answer, Claim):
                    self._hold(held, answer)
                else:
                    refused[index] = answer
        return refused

    async def _ask_to_claim(self, names: Sequence[str], *, takeover: bool) -> Sequence[Claim | Refusal]:
        """
        Return the answers of the directory.

        If they are lost, it may have granted the claims all the same: then look, and adopt each claim that is ours.
        The others stay in doubt, as the directory may still receive them.
        """
        try:
            return await self._directory.claim(names, takeover)
        except EventBusError as error:
            self.doubt(*names)
            self.doubted()
            try:
                owners = await self._directory.locate(names)
            except EventBusError:
                return [fresh_copy(error) for _ in names]
            rows = zip(names, owners, strict=True)
            return [self._adopted(name, owner) or fresh_copy(error) for name, owner in rows]

    def _adopted(self, name: str, owner: Owner | None) -> Claim | None:
        """Return the claim of ours that *owner* shows, if we neither hold the client by it nor have released it."""
        if owner is None or owner.node != self.node or Claim(name, owner.epoch) in self._owed:
            return None
        held = self.clients.get(name)
        return Claim(name, owner.epoch, UNKNOWN) if held is None or held.epoch < owner.epoch else None

    async def _claim_batch(self, wanted: Sequence[tuple[HeldClient, bool]]) -> Sequence[Refusal | None]:
        self.claiming.update(held.name for held, _ in wanted)
        try:
            return await self._claim_all(wanted)
        finally:
            self.claiming.clear()
            self._forget_superseded()

    def _forget_superseded(self) -> None:
        if not self._claims.waiting and not self.claiming and not self._claiming_again:
            self._superseded.clear()

    def _refuse_surplus(self, wanted: Sequence[tuple[HeldClient, bool]]) -> list[Refusal | None]:
        """Return the refusals of clients beyond ``max_clients``."""
        limit = self._options.max_clients
        if len(self.clients) + len(wanted) <= limit:
            return [None] * len(wanted)
        refused: list[Refusal | None] = []
        names = set(self.clients)
        for held, _ in wanted:
            is_surplus = held.name not in names and len(names) >= limit
            hint = "hold some on other nodes, or raise it"
            what = f"node {self.node!r} cannot hold another client, {held.name!r}"
            refused.append(LimitExceeded(what, "max_clients", limit, hint) if is_surplus else None)
            if not is_surplus:
                names.add(held.name)
        return refused

    def _claim_provisionally(self, held: HeldClient, *, takeover: bool) -> Owner | None:
        """Claim until the directory is reached; another node that holds the client by then keeps it."""
        previous = Owner(self.node, 0, 0) if held.name in self.clients else None
        if previous is not None and not takeover:
            return previous
        self._hold(held, Claim(held.name, 0, previous))
        return None

    def supersede(self, client: str, epoch: int, node: str) -> None:
        """Stop holding *client*: *node* has claimed it by *epoch*."""
        held = self.clients.get(client)
        if client in self._claiming_again or (held is None and self._claims.busy):  # our claim has no epoch yet
            self._superseded[client] = max((epoch, node), self._superseded.get(client, (0, "")))
        elif held is not None and held.epoch < epoch:
            self.release_soon(held)
            self.ended(held, ClientTakenOver(client, node))

    def _hold(self, held: HeldClient, claim: Claim) -> None:
        before = self.clients.get(held.name)
        if held.ended is not None:  # before the answer came; its successor on this node has the claim
            if before is None or before.epoch > claim.epoch:
                self._release_later(claim)
                return
            held = before
        held.granted(claim)
        self.clients[held.name] = held
        self._claiming_again.discard(held.name)
        if before is not None and before is not held:
            self.ended(before, ClientTakenOver(held.name, self.node))
        if claim.previous is not None and claim.previous.node != self.node:
            self.acquired(held)
        if later := self._superseded.get(held.name):
            self.supersede(held.name, *later)

    def _abandoned(self, wanted: tuple[HeldClient, bool], refused: Refusal | None) -> None:
        if refused is None:
            self.give_up(wanted[0])

    def _release_later(self, claim: Claim) -> None:
        self._owed.add(claim)
        self._releases.tell(claim)

    async def _release_all(self, claims: Sequence[Claim]) -> Sequence[None]:
        granted = [claim for claim in claims if claim.epoch]  # the directory does not know of the others
        try:
            if granted:
                await self._directory.release(granted)
                self._failed_releases.reset()
            self._owed.difference_update(claims)
        except EventBusError as error:  # a refusal too may end: a right is given back, a password is changed
            if self._failed_releases.allows():
                extra = {"node": self.node, "clients": len(granted), "error": str(error)}
                text = "node %s: could not release %d clients, retrying with the next renewal: %s"
                logger.warning(text, self.node, len(granted), error, extra=extra)
        return [None] * len(claims)
