"""The harness alone: what its own work costs, so that it can be told from that of a peer."""

from __future__ import annotations

from typing import Any, ClassVar

from tests.benchmarks.peers.base import Context, Deliver, Peer


class Nothing(Peer):
    """Hands data to the receiver by a plain call; all nodes are in one process."""

    broker = "memory"
    label = "the harness alone"
    libraries = ()
    senders = (1,)
    windowed = True
    _nodes: ClassVar[dict[int, Deliver]] = {}

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._owners = context.owners

    async def start(self, deliver: Deliver) -> None:
        self._nodes[self.context.node] = deliver

    async def send(self, client: str, data: Any) -> None:
        self._nodes[self._owners[client]](client, data)

    async def broadcast(self, data: Any) -> None:
        for deliver in self._nodes.values():
            deliver(None, data)

    async def publish(self, data: Any) -> None:
        for client, node in self._owners.items():
            self._nodes[node](client, data)
