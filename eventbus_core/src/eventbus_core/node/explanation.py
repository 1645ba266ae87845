"""How an event for a client would travel from this node."""

from __future__ import annotations

import attrs

from eventbus_core.backend import Owner, Partition, node_partition
from eventbus_core.node.node import LocalNode


@attrs.frozen
class Explanation:
    """
    How an event for a client would travel from this node.

    Attributes:
        client: its name.
        local: whether this node holds it.
        owner: its owner in the directory: node, incarnation and epoch; ``None`` if there is none.
        lease_left: seconds that the lease of that node has left.
        partition: where its events go; ``None`` if they stay in this node, or no node holds it.
        server: which server of the broker carries that partition; empty if the backend knows of one only.
        cached: the owner that this node would send to without asking the directory; ``None`` if it would ask.
    """

    client: str
    local: bool
    owner: Owner | None
    lease_left: float | None
    partition: Partition | None
    cached: Owner | None
    server: str = ""


async def explain(node: LocalNode, client: str) -> Explanation:
    """Return what the directory and *node* know of *client*."""
    owner = await node.locator.locate(client)
    leases = {other.id: other.lease_left for other in await node.directory.nodes()}
    local = client in node.ownership.clients
    partition = None if owner is None or local else node_partition(owner.node)
    return Explanation(
        client,
        local,
        owner,
        None if owner is None else leases.get(owner.node),
        partition,
        node.table.cached(client),
        "" if partition is None else node.transport.route(partition),
    )
