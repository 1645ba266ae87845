"""The directory of an in-memory namespace."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from time import monotonic

import attrs
from anyio.lowlevel import checkpoint

from eventbus_core.backend import Claim, Directory, Node, Owner, Terms
from eventbus_core.errors import LANES_TERM, RETAIN_TERM, SEAL_TERM, NamespaceMismatch, NodeAlreadyPresent
from eventbus_memory.hub import Hub, Lease

PAGE = 1000


class MemoryDirectory(Directory):
    """Keeps owners and leases in dicts; every call gives way to other tasks once."""

    keeps_seals = True

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._hub = Hub()
        self._node = ""
        self._lease: Lease | None = None

    def use(self, hub: Hub) -> None:
        """Keep the records in *hub* from now on."""
        self._hub = hub

    @property
    def last_loss(self) -> int | None:
        return None if self._lease is None else self._lease.last_loss

    async def enter(self, node: str, lease: float, terms: Terms) -> int:
        await checkpoint()
        hub = self._hub
        founded = hub.terms = hub.terms or terms
        if founded.wire_version != terms.wire_version:
            raise NamespaceMismatch(self._namespace, "wire version", founded.wire_version, terms.wire_version)
        if founded.lanes != terms.lanes:
            raise NamespaceMismatch(self._namespace, LANES_TERM, founded.lanes, terms.lanes)
        if founded.retain != terms.retain:
            raise NamespaceMismatch(self._namespace, RETAIN_TERM, founded.retain, terms.retain)
        if not terms.may_follow(founded.seal):
            raise NamespaceMismatch(self._namespace, SEAL_TERM, founded.seal, terms.seal)
        present = hub.leases.get(node)
        if present is not None and present.left > 0 and present is not self._lease:
            raise NodeAlreadyPresent(node)
        hub.terms = terms
        self._node = node
        self._lease = hub.leases[node] = Lease(next(hub.numbers), lease, monotonic() + lease)
        return self._lease.incarnation

    async def renew(self) -> bool:
        await checkpoint()
        lease = self._lease
        if lease is None or lease.left <= 0 or self._hub.leases.get(self._node) is not lease:
            return False
        lease.ends = monotonic() + lease.seconds
        return True

    async def leave(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None and self._hub.leases.get(self._node) is lease:
            del self._hub.leases[self._node]
            mine = [client for client, owner in self._hub.owners.items() if owner.incarnation == lease.incarnation]
            for client in mine:
                del self._hub.owners[client]
        await checkpoint()

    async def claim(self, clients: Sequence[str], takeover: bool) -> Sequence[Claim | Owner]:
        await checkpoint()
        return [self._claim(client, takeover) for client in clients]

    async def release(self, claims: Sequence[Claim]) -> None:
        await checkpoint()
        for claim in claims:
            owner = self._hub.owners.get(claim.client)
            if owner is not None and owner.epoch == claim.epoch:
                del self._hub.owners[claim.client]

    async def attach(self, claims: Sequence[Claim], seals: Sequence[str]) -> None:
        await checkpoint()
        owners, lease = self._hub.owners, self._lease
        for claim, seal in zip(claims, seals, strict=True):
            owner = owners.get(claim.client)
            if lease and owner and (owner.epoch, owner.incarnation) == (claim.epoch, lease.incarnation):
                owners[claim.client] = attrs.evolve(owner, seal=seal)

    async def locate(self, clients: Sequence[str]) -> Sequence[Owner | None]:
        await checkpoint()
        return [self._owner(client) for client in clients]

    async def nodes(self) -> Sequence[Node]:
        await checkpoint()
        now, leases = monotonic(), self._hub.leases
        return [Node(id, lease.incarnation, left) for id, lease in leases.items() if (left := lease.ends - now) > 0]

    async def clients(self, node: str | None = None) -> AsyncIterator[str]:
        names = list(self._hub.owners)
        for index, name in enumerate(names):
            if index % PAGE == 0:
                await checkpoint()
            owner = self._owner(name)
            if owner is not None and node in (None, owner.node):
                yield name

    def _claim(self, client: str, takeover: bool) -> Claim | Owner:
        previous = self._owner(client)
        if previous is not None and not takeover:
            return previous
        epoch = next(self._hub.numbers)
        incarnation = 0 if self._lease is None else self._lease.incarnation
        self._hub.owners[client] = Owner(self._node, incarnation, epoch)
        if previous is not None and previous.incarnation != incarnation:
            self._hub.leases[previous.node].last_loss = epoch
        return Claim(client, epoch, previous)

    def _owner(self, client: str) -> Owner | None:
        owner = self._hub.owners.get(client)
        if owner is None or self._hub.alive(owner):
            return owner
        del self._hub.owners[client]
        return None
