"""The directory in JetStream: rows of leases and of claims."""

from __future__ import annotations

import re
import secrets
from asyncio import gather
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from eventbus_core.backend import Claim, Directory, Node, Owner, Terms
from eventbus_core.errors import NamespaceMismatch, NodeAlreadyPresent, TransportUnavailable
from eventbus_nats.rows import PAGE, Row, Rows

HELD = re.compile(r"(\d{1,18}) ([A-Za-z0-9._-]{1,64}) (.+)", re.DOTALL)
LEASE = re.compile(r"(\d{1,18}) (\d{1,6}\.\d{1,18}) (\w+) ([A-Za-z0-9._-]{1,64})")


class Lease(NamedTuple):
    """The row of a node, read; *token* tells its process from another of the same id."""

    node: Node
    token: str
    revision: int


Leases = Mapping[str, Lease]


class NatsDirectory(Directory):
    """
    Writes and removes a row only if it still has the revision that it was seen with.

    A claim's epoch is the revision of its row, an incarnation that of the row by which the node
    entered. A lease is as old as its row, by the server's clock. Who finds that one has ended
    removes the row before it goes by that, so all agree on who is dead, and a late renewal fails.
    """

    def __init__(self, rows: Rows, namespace: str) -> None:
        self._rows = rows
        self._namespace = namespace
        self._token = secrets.token_hex(8)
        self._node = self._value = ""
        self._incarnation = 0
        self._swept = 1

    async def enter(self, node: str, lease: float, terms: Terms) -> int:
        await self._agree(terms)
        subject, value = self._rows.subject("node", node), f"{float(lease)} {self._token} {node}"
        while True:
            present = (await self._look())[1].get(node)
            if present and present.token != self._token:
                raise NodeAlreadyPresent(node)
            if entered := await self._rows.write(subject, present.revision if present else 0, f"0 {value}"):
                self._node, self._value, self._incarnation = node, f"{entered} {value}", entered
                return entered

    async def renew(self) -> bool:
        page = await self._rows.page(self._rows.subject("client"), self._swept)
        leases = (await self._look())[1]
        mine = self._mine(leases)
        if mine is None:
            return False
        renewed = await self._rows.write(self._rows.subject("node", self._node), mine.revision, self._value)
        await gather(*(self._rows.remove(row.revision) for row in page if not _owner(row, leases)))
        self._swept = page[-1].revision + 1 if page else 1
        return bool(renewed)

    async def leave(self) -> None:
        if mine := self._mine((await self._look())[1]):
            await self._rows.remove(mine.revision)
        self._incarnation = 0

    async def claim(self, clients: Sequence[str], takeover: bool) -> Sequence[Claim | Owner]:
        answers: dict[str, Claim | Owner] = {}

        async def claim(client: str, row: Row | None, owner: Owner | None) -> None:
            if owner and not takeover:
                answers[client] = owner
                return
            subject, value = self._rows.subject("client", client), f"{self._incarnation} {self._node} {client}"
            if epoch := await self._rows.write(subject, row.revision if row else 0, value):
                answers[client] = Claim(client, epoch, owner)

        while left := [client for client in dict.fromkeys(clients) if client not in answers][:PAGE]:
            rows, leases = await self._look(left)
            if self._mine(leases) is None:
                raise TransportUnavailable(f"the lease of node {self._node!r} has ended; it has to enter again")
            await gather(*(claim(client, rows.get(client), _owner(rows.get(client), leases)) for client in left))
        return [answers[client] for client in clients]

    async def release(self, claims: Sequence[Claim]) -> None:
        for start in range(0, len(claims), PAGE):
            await gather(*(self._rows.remove(claim.epoch) for claim in claims[start : start + PAGE]))

    async def locate(self, clients: Sequence[str]) -> Sequence[Owner | None]:
        owners: list[Owner | None] = []
        for start in range(0, len(clients), PAGE):
            part = clients[start : start + PAGE]
            rows, leases = await self._look(part)
            owners += [_owner(rows.get(client), leases) for client in part]
        return owners

    async def nodes(self) -> Sequence[Node]:
        return [lease.node for lease in (await self._look())[1].values()]

    async def clients(self, node: str | None = None) -> AsyncIterator[str]:
        seen: set[str] = set()  # a client that is claimed again meanwhile comes twice
        start = 1
        while page := await self._rows.page(self._rows.subject("client"), start):
            start = page[-1].revision + 1
            leases = (await self._look())[1]
            for row in page:
                owner = _owner(row, leases)
                if owner and node in (None, owner.node) and row.subject not in seen:
                    seen.add(row.subject)
                    yield row.value.split(" ", 2)[2]

    async def _agree(self, terms: Terms) -> None:
        subject = self._rows.subject("terms", "")
        ours = {"wire version": terms.wire_version, "a lane count of": terms.lanes}
        await self._rows.write(subject, 0, " ".join(map(str, ours.values())))
        for row in await self._rows.at(subject):
            for (term, mine), theirs in zip(ours.items(), row.value.split(" "), strict=False):
                if theirs != str(mine):
                    raise NamespaceMismatch(self._namespace, term, theirs, mine)

    def _mine(self, leases: Leases) -> Lease | None:
        lease = leases.get(self._node)
        return lease if lease and lease.node.incarnation == self._incarnation else None

    async def _look(self, clients: Sequence[str] = ()) -> tuple[Mapping[str, Row], Leases]:
        """Return the rows of *clients* that have one, and the leases that have not ended, at one moment."""
        names = {self._rows.subject("client", client): client for client in clients}
        while True:
            now = await self._rows.now()
            found = await self._rows.at(self._rows.subject("node"), *names)
            leases = [lease for row in found if (lease := _lease(row, now))]
            dead = [lease for lease in leases if lease.node.lease_left <= 0]
            if not dead:
                rows = {names[row.subject]: row for row in found if row.subject in names}
                return rows, {lease.node.id: lease for lease in leases}
            await gather(*(self._rows.remove(lease.revision) for lease in dead))


def _lease(row: Row, now: datetime) -> Lease | None:
    if (match := LEASE.fullmatch(row.value)) is None:
        return None
    left = float(match[2]) - (now - row.written).total_seconds()
    return Lease(Node(match[4], int(match[1]) or row.revision, left), match[3], row.revision)


def _owner(row: Row | None, leases: Leases) -> Owner | None:
    if row is None or (match := HELD.fullmatch(row.value)) is None:
        return None
    lease = leases.get(match[2])
    return Owner(match[2], int(match[1]), row.revision) if lease and lease.node.incarnation == int(match[1]) else None
