"""Presence: what a node tells all who subscribe to it of nodes and clients that come and go."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Final

import anyio
import msgspec

from eventbus_core.errors import EventBusError
from eventbus_core.event import Event
from eventbus_core.link import Link
from eventbus_core.names import topic_address
from eventbus_core.routing import Router
from eventbus_core.transport import Node

NODE_JOINED: Final = "$sys.node.joined"
NODE_LEFT: Final = "$sys.node.left"
CLIENT_CLAIMED: Final = "$sys.client.claimed"
CLIENT_RELEASED: Final = "$sys.client.released"
CLIENT_TAKEN_OVER: Final = "$sys.client.taken-over"


class Deaths:
    """
    Finds out which nodes died, from what the directory says of the live ones now and then.

    A node that is gone before its lease could have ended has left; one that is gone afterwards died. Every node finds
    that out, and the one of the smallest incarnation speaks. Lest nobody does since that one died too, the others keep
    in mind for the length of a *lease* what it should have said.
    """

    def __init__(self, node: str, lease: float) -> None:
        self._node = node
        self._lease = lease
        self._ends: dict[str, float] = {}
        self._dead: dict[str, float] = {}

    def look(self, nodes: Sequence[Node], asked: float, answered: float, *, doubtful: bool = False) -> list[str]:
        """
        Return who died as this node has to say, by what the directory was *asked* and *answered* at these times.

        While it is *doubtful* whether the directory knows all, nobody: who is still gone afterwards is said then.
        """
        alive = {node.id for node in nodes}
        if self._node not in alive:
            return []
        self._dead |= {id: answered for id, end in self._ends.items() if id not in alive and end <= answered}
        self._dead = {
            id: since for id, since in self._dead.items() if id not in alive and answered - since <= self._lease
        }
        self._ends = {node.id: asked + node.lease_left for node in nodes}
        if doubtful or min(nodes, key=lambda node: node.incarnation).id != self._node:
            return []
        dead, self._dead = list(self._dead), {}
        return dead


class Presence:
    """
    Publishes the topics above, if the option ``presence`` is on; applications can only subscribe to them.

    For orientation, not for bookkeeping: what finds no room at once is not said.
    """

    def __init__(self, router: Router, link: Link) -> None:
        self._router = router
        self._link = link
        self._renewed = anyio.Event()
        self._on = router.options.presence
        self._deaths = Deaths(router.node, router.options.lease)

    def renewed(self) -> None:
        """Look who is there, now that our own lease holds."""
        self._renewed.set()

    async def watch(self) -> None:
        """Say of nodes whose lease ends that they died, unless it may be us who was cut off; for ever."""
        while self._on:
            await self._renewed.wait()
            self._renewed = anyio.Event()
            asked = monotonic()
            try:
                nodes = await self._router.directory.nodes()
            except EventBusError:
                continue  # who keeps the lease has noticed, and told of it
            if self._link.up:
                for node in self._deaths.look(nodes, asked, monotonic(), doubtful=self._router.doubtful()):
                    self.say(NODE_LEFT, node=node, died=True)

    def say(self, topic: str, **facts: object) -> None:
        """Publish *facts* to *topic*; the node is this one unless they say otherwise."""
        if self._on:
            router = self._router
            raw = msgspec.Raw(msgspec.msgpack.encode({"node": router.node, **facts}))
            event = Event(topic, router.address, topic_address(topic), router.next_id(), raw)
            wait = router.publish(topic, event, len(memoryview(raw)))
            if wait is not None:
                wait.close()
