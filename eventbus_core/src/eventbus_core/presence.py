"""Presence: what a node tells all who subscribe to it of nodes and clients that come and go."""

from __future__ import annotations

from typing import Final

import msgspec

from eventbus_core.event import Event
from eventbus_core.names import topic_address
from eventbus_core.routing import Router

NODE_JOINED: Final = "$sys.node.joined"
NODE_LEFT: Final = "$sys.node.left"
CLIENT_CLAIMED: Final = "$sys.client.claimed"
CLIENT_RELEASED: Final = "$sys.client.released"
CLIENT_TAKEN_OVER: Final = "$sys.client.taken-over"


class Presence:
    """
    Publishes the topics above, if the option ``presence`` is on; applications can only subscribe to them.

    For orientation, not for bookkeeping: what finds no room at once is not said.
    """

    def __init__(self, router: Router) -> None:
        self._router = router
        self._on = router.options.presence

    def say(self, topic: str, **facts: object) -> None:
        """Publish *facts*, and this node's id, to *topic*."""
        if self._on:
            router = self._router
            raw = msgspec.Raw(msgspec.msgpack.encode({"node": router.node, **facts}))
            event = Event(topic, router.address, topic_address(topic), router.next_id(), raw)
            wait = router.publish(topic, event, len(memoryview(raw)))
            if wait is not None:
                wait.close()
