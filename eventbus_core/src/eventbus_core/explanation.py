"""Where a client is, and what a node knows of it."""

from __future__ import annotations

import attrs

from eventbus_core.transport import Owner, Partition


@attrs.frozen
class Explanation:
    """
    How an event for a client would travel from this node.

    Attributes:
        client: its name.
        local: whether this node holds it.
        owner: who holds it by the directory's word: node, incarnation and epoch; ``None`` if nobody does.
        lease_left: seconds that the lease of that node has left.
        partition: where its events go; ``None`` if they stay in this node, or nobody holds it.
        cached: the owner that this node would send to without asking; ``None`` if it would ask.
    """

    client: str
    local: bool
    owner: Owner | None
    lease_left: float | None
    partition: Partition | None
    cached: Owner | None
