"""Learns from the directory where a client or a node is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import anyio

from eventbus_core.backend import Directory, Owner
from eventbus_core.concurrency.batcher import Batcher
from eventbus_core.concurrency.service_group import ServiceGroup
from eventbus_core.errors import ClientNotFound
from eventbus_core.membership.lease import Lease
from eventbus_core.membership.ownership import Ownership
from eventbus_core.membership.peer_directory.peer_directory import PeerDirectory
from eventbus_core.model.names import NODE_SIGN, check_client, node_address
from eventbus_core.routing.table import RoutingTable

LOOK_AGAIN: Final = 0.1


class Locator:
    """Looks up addresses that the routing table does not have."""

    def __init__(
        self,
        node: str,
        directory: Directory,
        ownership: Ownership,
        lease: Lease,
        table: RoutingTable,
        services: ServiceGroup,
    ) -> None:
        self._node = node
        self._directory = directory
        self._ownership = ownership
        self._lease = lease
        self._table = table
        # A sender that waits no longer leaves its question: the answer is remembered for the next one.
        self._clients = Batcher(services, directory.locate, self._remember)
        self._nodes = Batcher(services, self._find_nodes, self._remember)

    async def locate(self, client: str) -> Owner | None:
        """Return the owner of *client* as the directory knows it now."""
        self._ownership.check_entered()
        return await self._clients.ask(check_client(client))

    async def learn(self, target: str) -> None:
        """
        Learn the route to *target*, or pause if the directory's view is incomplete.

        Raises:
            ClientNotFound: no node holds it, or there is no such node.
        """
        owner = await (self._locate_node(target) if target[:1] == NODE_SIGN else self.locate(target))
        if owner is None and target in self._ownership.clients:
            return  # it was claimed here after the directory had answered
        if owner is None:
            if self._lease.view_incomplete() or not await self._is_known():
                await anyio.sleep(LOOK_AGAIN)
                return
            raise ClientNotFound(target)
        if owner.node != self._node:
            self._remember(target, owner)
            return
        await self._ownership.settled()
        if target not in self._ownership.clients:
            self._ownership.doubt(target)
            raise ClientNotFound(target)

    async def _is_known(self) -> bool:
        """Return whether the directory knows this node; if not, it lost its memory, and this node enters again."""
        known = any(node.id == self._node for node in await self._directory.nodes())
        if not known:
            self._lease.hurry()
        return known

    async def _locate_node(self, address: str) -> Owner | None:
        self._ownership.check_entered()
        if isinstance(self._directory, PeerDirectory):
            await self._directory.look_for(address[1:])
        return await self._nodes.ask(address)

    async def _find_nodes(self, addresses: Sequence[str]) -> list[Owner | None]:
        live = {node_address(node.id): Owner(node.id, node.incarnation, 0) for node in await self._directory.nodes()}
        return [live.get(address) for address in addresses]

    def _remember(self, target: str, owner: Owner | None) -> None:
        if owner is not None and owner.node != self._node:
            self._table.remember(target, owner)
