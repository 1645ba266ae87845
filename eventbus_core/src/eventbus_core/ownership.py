"""What this node holds: the clients that it has claimed, by the incarnation in which it entered."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import anyio

from eventbus_core.batcher import Batcher
from eventbus_core.errors import (
    BusClosed,
    ClientAlreadyClaimed,
    ClientTakenOver,
    EventBusError,
    LimitExceeded,
    TransportUnavailable,
)
from eventbus_core.holding import Holding
from eventbus_core.log import get_logger
from eventbus_core.options import BusOptions
from eventbus_core.transport import Claim, Directory, Owner, Terms
from eventbus_core.wire import WIRE_VERSION

logger = get_logger("eventbus")


class Ownership:
    """
    The clients that this node holds by the directory's word.

    Attributes:
        clients: by name; what routing looks up.
        incarnation: of this node; 0 until it has entered.
        on_entered: called when this node has entered for the first time.
    """

    def __init__(
        self,
        directory: Directory,
        options: BusOptions,
        node: str,
        doubt: Callable[[], None],
        took_over: Callable[[Holding], None],
        end: Callable[[Holding, EventBusError], None],
    ) -> None:
        self.clients: dict[str, Holding] = {}
        self.incarnation = 0
        self.on_entered: Callable[[], None] = lambda: None
        self._directory = directory
        self._options = options
        self._node = node
        self._doubt = doubt  # called when we may not know what we hold
        self._took_over = took_over
        self._end = end
        self._owed: list[Claim] = []
        self._doubts: set[str] = set()  # clients whose claims the directory may have granted, without our hearing of it
        self._superseded: dict[str, tuple[int, str]] = {}
        self._claims = Batcher(self._claim_batch, self._abandoned)
        self._releases = Batcher(self._release_all)
        self.lookups = Batcher(directory.locate)

    async def enter(self) -> None:
        """
        Enter the namespace.

        Raises:
            NodeAlreadyPresent, NamespaceMismatch, TransportUnavailable: see :meth:`Directory.enter`.
        """
        terms = Terms(WIRE_VERSION, self._options.lanes)
        with anyio.CancelScope(shield=True):  # half an entry would keep our id from us until its lease ends
            again, self.incarnation = self.entered, await self._directory.enter(self._node, self._options.lease, terms)
        self._owed.clear()  # the claims of a former incarnation have ended with its lease
        if not again:
            self.on_entered()

    @property
    def entered(self) -> bool:
        """Whether this node has entered; before, it holds its clients provisionally, by epoch 0."""
        return bool(self.incarnation)

    def check_entered(self) -> None:
        """
        Do nothing if this node has entered.

        Raises:
            TransportUnavailable: it has not, so that it knows of nobody but itself.
        """
        if not self.entered:
            raise TransportUnavailable(
                "the broker has not been reached yet: this node is alone and knows of its own clients only"
            )

    async def claim(self, holding: Holding, *, takeover: bool) -> None:
        """
        Claim the client of *holding*; once this returns, events for it come here.

        Raises:
            ClientAlreadyClaimed: another holds it, and *takeover* is false.
            LimitExceeded: this node holds as many clients as it may.
        """
        refused = await self._claims.ask((holding, takeover))
        if isinstance(refused, LimitExceeded):
            raise refused
        if refused is not None:
            raise ClientAlreadyClaimed(holding.name, refused.node)

    def drop(self, holding: Holding) -> None:
        """Hold *holding* no more, without a word to the directory."""
        if self.clients.get(holding.name) is holding:
            del self.clients[holding.name]

    async def release(self, holding: Holding) -> None:
        """Release the client, if it is still ours by this claim; without the directory, as soon as it is back."""
        self.drop(holding)
        await self._releases.ask(holding.claim)

    def give_up(self, holding: Holding) -> None:
        """Release a client whose claim was cancelled when it had been granted already."""
        self._end(holding, BusClosed(f"the claim of client {holding.name!r} was cancelled"))
        self.release_soon(holding)

    def release_soon(self, holding: Holding) -> None:
        """Do what :meth:`release` does, without waiting for it."""
        self.drop(holding)
        self._releases.tell(holding.claim)

    async def settled(self) -> None:
        """Return once no claim that this node has begun is on its way any more."""
        await self._claims.settled()

    async def leave(self) -> None:
        """Release everything and leave the namespace."""
        if self.entered:
            await self._directory.leave()

    def runners(self) -> Iterator[Callable[[], Coroutine[Any, Any, None]]]:
        """Yield the functions to be run as tasks while the node is on the bus."""
        yield self._claims.run
        yield self._releases.run
        yield self.lookups.run

    async def settle_doubts(self) -> None:
        """Release what the directory says is ours though we do not hold it: the answer to a claim was lost."""
        doubts = sorted(self._doubts)
        owners = await self._directory.locate(doubts) if doubts else []
        phantoms = [
            Claim(name, owner.epoch)
            for name, owner in zip(doubts, owners, strict=True)
            if owner is not None and owner.node == self._node and name not in self.clients
        ]
        if phantoms:
            await self._directory.release(phantoms)
        self._doubts.difference_update(doubts)

    async def release_owed(self) -> None:
        """Release what the directory did not take back when it was released."""
        owed, self._owed = self._owed, []
        if owed:
            await self._release_all(owed)

    async def claim_again(self) -> list[tuple[Holding, Owner]]:
        """Claim what we held; let go of what others took, and return it with its present owners."""
        held = list(self.clients.values())
        owners = await self._claim_all([(holding, False) for holding in held])
        taken = [
            (holding, owner)
            for holding, owner in zip(held, owners, strict=True)
            if isinstance(owner, Owner) and owner.node != self._node
        ]
        for holding, _ in taken:
            self.drop(holding)
        for holding, owner in zip(held, owners, strict=True):
            if isinstance(owner, Owner) and owner.node == self._node and self.clients.get(holding.name) is holding:
                holding.epoch = max(holding.epoch, owner.epoch)  # of a claim of ours whose answer was lost
        return taken

    async def _claim_all(self, wanted: Sequence[tuple[Holding, bool]]) -> Sequence[Owner | LimitExceeded | None]:
        refused = self._refuse_surplus(wanted)
        for takeover in (True, False):
            which = [
                (i, holding) for i, (holding, take) in enumerate(wanted) if take is takeover and refused[i] is None
            ]
            if not which:
                continue
            names = [holding.name for _, holding in which]
            if not self.entered:
                for index, holding in which:
                    refused[index] = self._claim_provisionally(holding, takeover=takeover)
                continue
            try:
                answers = await self._directory.claim(names, takeover)
            except EventBusError:
                self._doubts.update(names)
                self._doubt()
                raise
            for (index, holding), answer in zip(which, answers, strict=True):
                if isinstance(answer, Claim):
                    self._hold(holding, answer)
                else:
                    refused[index] = answer
        return refused

    async def _claim_batch(self, wanted: Sequence[tuple[Holding, bool]]) -> Sequence[Owner | LimitExceeded | None]:
        refused = await self._claim_all(wanted)
        if not self._claims.waiting:
            self._superseded.clear()
        return refused

    def _refuse_surplus(self, wanted: Sequence[tuple[Holding, bool]]) -> list[Owner | LimitExceeded | None]:
        """Return the refusals of those for whom there is no room."""
        limit = self._options.max_clients
        if len(self.clients) + len(wanted) <= limit:
            return [None] * len(wanted)
        refused: list[Owner | LimitExceeded | None] = []
        names = set(self.clients)
        for holding, _ in wanted:
            is_surplus = holding.name not in names and len(names) >= limit
            mend = "let other nodes hold some, or raise it"
            what = f"node {self._node!r} cannot hold client {holding.name!r} too"
            refused.append(LimitExceeded(what, "max_clients", limit, mend) if is_surplus else None)
            if not is_surplus:
                names.add(holding.name)
        return refused

    def _claim_provisionally(self, holding: Holding, *, takeover: bool) -> Owner | None:
        """Claim for the time being; others may hold the client, and will keep it."""
        previous = Owner(self._node, 0, 0) if holding.name in self.clients else None
        if previous is not None and not takeover:
            return previous
        self._hold(holding, Claim(holding.name, 0, previous))
        return None

    def supersede(self, client: str, epoch: int, node: str) -> None:
        """Let go of *client*, which *node* has claimed by *epoch*."""
        holding = self.clients.get(client)
        if holding is not None and holding.epoch < epoch:
            self.release_soon(holding)
            self._end(holding, ClientTakenOver(client, node))
        elif holding is None and self._claims.busy:  # perhaps by a claim of ours whose answer is on its way
            self._superseded[client] = max((epoch, node), self._superseded.get(client, (0, "")))

    def _hold(self, holding: Holding, claim: Claim) -> None:
        before = self.clients.get(holding.name)
        if holding.ended is not None:  # while the answer was on its way; what took its place here has the claim
            if before is None or before.epoch > claim.epoch:
                self._releases.tell(claim)
                return
            holding = before
        holding.epoch = claim.epoch
        holding.previous = claim.previous
        self.clients[holding.name] = holding
        if before is not None and before is not holding:
            self._end(before, ClientTakenOver(holding.name, self._node))
        if claim.previous is not None and claim.previous.node != self._node:
            self._took_over(holding)
        if later := self._superseded.get(holding.name):
            self.supersede(holding.name, *later)

    def _abandoned(self, wanted: tuple[Holding, bool], refused: Owner | LimitExceeded | None) -> None:
        if refused is None:
            self.give_up(wanted[0])

    async def _release_all(self, claims: Sequence[Claim]) -> Sequence[None]:
        granted = [claim for claim in claims if claim.epoch]  # of others the directory has not heard
        try:
            if granted:
                await self._directory.release(granted)
        except TransportUnavailable as error:
            extra = {"node": self._node, "clients": len(granted), "error": str(error)}
            logger.warning("%d clients will be released later: %s", len(granted), error, extra=extra)
            self._owed.extend(granted)
        return [None] * len(claims)
