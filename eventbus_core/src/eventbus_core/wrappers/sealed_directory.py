"""A directory whose rows are sealed."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Sequence
from operator import attrgetter
from typing import Final

import anyio
import attrs

from eventbus_core.backend import Claim, Directory, Node, Owner, Terms
from eventbus_core.errors import FrameError
from eventbus_core.observability.rejections import Rejections
from eventbus_core.wrappers.seal import UNSEALED, WRONG_SEAL, Seals, context_of

PAUSES: Final = (0.02, 0.05, 0.1)
"""Seconds for which the seal of a row that has none may be on its way: it follows the claim."""
PAGE_ROWS: Final = 500


class SealedDirectory(Directory):
    """
    Believes only rows that a node with the secret has sealed: (client, node, incarnation, epoch).

    A claim gets its epoch from the directory, and its seal by a second call. A row that was forged or altered counts as
    no row: :meth:`claim` replaces it, and :meth:`confirm` seals ours again. With encryption, the names of clients are
    digests, and the seals hold the names.

    While a secret is replaced, a name has a digest for each secret, and may have a row for each: the latest claim owns.
    """

    def __init__(self, inner: Directory, seals: Seals, rejections: Rejections) -> None:
        self._inner = inner
        self._seals = seals
        self._rejections = rejections
        self._checked = inner.keeps_seals
        self._node = ""
        self._incarnation = 0

    @property
    def last_loss(self) -> int | None:
        """See :class:`Directory`."""
        return self._inner.last_loss

    async def enter(self, node: str, lease: float, terms: Terms) -> int:
        """See :class:`Directory`."""
        incarnation = await self._inner.enter(node, lease, attrs.evolve(terms, seals=self._seals.marks))
        self._node, self._incarnation = node, incarnation
        return incarnation

    async def renew(self) -> bool:
        """See :class:`Directory`."""
        return await self._inner.renew()

    async def leave(self) -> None:
        """See :class:`Directory`."""
        await self._inner.leave()

    async def claim(self, clients: Sequence[str], takeover: bool) -> Sequence[Claim | Owner]:
        """See :class:`Directory`."""
        if not self._checked:
            return await self._inner.claim(clients, takeover)
        elsewhere = await self._elsewhere(clients)
        answers: dict[int, Claim | Owner] = {}
        if not takeover:  # the directory cannot compare rows of another secret with ours
            answers |= {at: owner for at, owner in enumerate(elsewhere) if owner is not None}
        answers |= await self._claim(clients, [at for at in range(len(clients)) if at not in answers], takeover)
        claims = [(clients[at], answer) for at, answer in answers.items() if isinstance(answer, Claim)]
        await self._attach(claims)
        for at, answer in answers.items():
            if isinstance(answer, Claim):
                former = _latest([answer.previous, elsewhere[at]])
                answers[at] = Claim(clients[at], answer.epoch, former and attrs.evolve(former, seal=""))
        return [answers[at] for at in range(len(clients))]

    async def release(self, claims: Sequence[Claim]) -> None:
        """See :class:`Directory`."""
        await self._inner.release(
            [attrs.evolve(claim, client=row) for claim in claims for row in self._rows(claim.client)]
        )

    async def locate(self, clients: Sequence[str]) -> Sequence[Owner | None]:
        """See :class:`Directory`."""
        rows = [(client, row) for client in clients for row in self._rows(client)]
        owners = dict(zip(rows, await self._look([row for _, row in rows]), strict=True))
        return [_latest([owners[client, row] for row in self._rows(client)]) for client in clients]

    async def confirm(self, claims: Sequence[Claim]) -> Sequence[bool]:
        """See :class:`Directory`."""
        if not self._checked:
            return await self._inner.confirm(claims)
        owners = await self.locate([claim.client for claim in claims])
        lacking = [claim for claim, owner in zip(claims, owners, strict=True) if owner is None]
        if lacking:  # a seal of ours was lost, or removed
            await self._attach([(claim.client, self._own(claim)) for claim in lacking])
            owners = await self.locate([claim.client for claim in claims])
        return [owner is not None and owner.epoch == claim.epoch for claim, owner in zip(claims, owners, strict=True)]

    async def nodes(self) -> Sequence[Node]:
        """See :class:`Directory`."""
        return await self._inner.nodes()

    async def clients(self, node: str | None = None) -> AsyncIterator[str]:
        """See :class:`Directory`."""
        seen: set[str] = set()  # of names that may have several rows
        page: list[str] = []
        async for row in self._inner.clients(node):
            page.append(row)
            if len(page) == PAGE_ROWS:
                for client in await self._names(page, node, seen):
                    yield client
                page = []
        for client in await self._names(page, node, seen) if page else ():
            yield client

    def _rows(self, client: str) -> tuple[str, ...]:
        """Return the names of the rows of *client*; the first is the one to write."""
        return self._seals.hide(client) if self._checked else (client,)

    async def _elsewhere(self, clients: Sequence[str]) -> list[Owner | None]:
        """Return for each of *clients* the owner by rows that a node with another first secret wrote."""
        rows = [row for client in clients for row in self._rows(client)[1:]]
        owners = iter(await self._look(rows) if rows else ())
        return [_latest([next(owners) for _ in self._rows(client)[1:]]) for client in clients]

    async def _claim(self, clients: Sequence[str], places: Sequence[int], takeover: bool) -> dict[int, Claim | Owner]:
        rows = [self._rows(clients[at])[0] for at in places]
        answers = dict(zip(places, await self._inner.claim(rows, takeover) if rows else (), strict=True))
        refused = [at for at, answer in answers.items() if isinstance(answer, Owner)]
        owners = await self._look([self._rows(clients[at])[0] for at in refused]) if refused else ()
        forged = []
        for at, owner in zip(refused, owners, strict=True):
            if owner is None:
                forged.append(at)
            else:
                answers[at] = owner
        if forged:  # no node holds these
            answers |= await self._claim(clients, forged, takeover=True)
        for at, answer in answers.items():
            if isinstance(answer, Claim) and answer.previous is not None and answer.previous.seal:
                former = answer.previous if self._opened(answer.client, answer.previous) is not None else None
                answers[at] = attrs.evolve(answer, previous=former)
        return answers

    async def _attach(self, claims: Sequence[tuple[str, Claim]]) -> None:
        """Seal *claims* of ours, each a client and the claim of its row."""
        if claims:
            await self._inner.attach([claim for _, claim in claims], [self._seal(*each) for each in claims])

    async def _look(self, rows: Sequence[str]) -> list[Owner | None]:
        """Return the owners by *rows*, as far as they can be believed."""
        found = list(await self._inner.locate(rows))
        if not self._checked:
            return found
        for pause in PAUSES:
            bare = [at for at, owner in enumerate(found) if owner is not None and not owner.seal]
            if not bare:
                break
            await anyio.sleep(pause)
            again = await self._inner.locate([rows[at] for at in bare])
            for at, owner in zip(bare, again, strict=True):
                found[at] = owner
        return [
            None if owner is None or self._opened(row, owner) is None else attrs.evolve(owner, seal="")
            for row, owner in zip(rows, found, strict=True)
        ]

    async def _names(self, rows: Sequence[str], node: str | None, seen: set[str]) -> list[str]:
        """Return the clients of *rows* that are not in *seen*, and whose owners can be believed."""
        if not self._checked:
            return list(rows)
        names: list[str] = []
        for row, owner in zip(rows, await self._inner.locate(rows), strict=True):
            content = None if owner is None else self._opened(row, owner)
            if owner is None or content is None or node not in (None, owner.node):
                continue
            name = content.decode() or row
            if name not in seen:
                names.append(name)
            if len(self._rows(name)) > 1:
                seen.add(name)
        return names

    def _own(self, claim: Claim) -> Claim:
        return attrs.evolve(claim, client=self._rows(claim.client)[0])

    def _seal(self, client: str, claim: Claim) -> str:
        owner = Owner(self._node, self._incarnation, claim.epoch)
        name = b"" if client == claim.client else client.encode()
        return urlsafe_b64encode(self._seals.seal(_context(claim.client, owner), name)).decode()

    def _opened(self, row: str, owner: Owner) -> bytes | None:
        """Return the content of the seal of *owner*, or ``None`` if it is not the right one."""
        try:
            if not owner.seal:
                raise FrameError(UNSEALED, "it has no seal")
            return self._seals.open(_context(row, owner), urlsafe_b64decode(owner.seal)).content
        except FrameError as error:
            self._reject(error.kind, owner, error)
        except ValueError:
            self._reject(WRONG_SEAL, owner, "its seal is no base64")
        return None

    def _reject(self, kind: str, owner: Owner, reason: object) -> None:
        self._rejections.add(kind, f"a row of the directory that names node {owner.node!r}: {reason}")


_epoch: Final = attrgetter("epoch")


def _latest(owners: Sequence[Owner | None]) -> Owner | None:
    return max((owner for owner in owners if owner is not None), key=_epoch, default=None)


def _context(row: str, owner: Owner) -> bytes:
    return context_of("row", row, owner.node, str(owner.incarnation), str(owner.epoch))
