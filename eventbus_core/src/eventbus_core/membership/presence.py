"""Presence: publishes which nodes and clients come and go, to the topics below."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from eventbus_core.membership.channel import ControlChannel
from eventbus_core.model.event import Event
from eventbus_core.model.names import topic_address

NODE_JOINED: Final = "$sys.node.joined"
NODE_LEFT: Final = "$sys.node.left"
CLIENT_CLAIMED: Final = "$sys.client.claimed"
CLIENT_RELEASED: Final = "$sys.client.released"
CLIENT_TAKEN_OVER: Final = "$sys.client.taken-over"


class Presence:
    """
    Publishes to the topics above, if the option ``presence`` is on; applications can only subscribe to them.

    It never waits; a subscriber that lags loses its oldest events and is told, as with any topic.
    """

    def __init__(
        self,
        channel: ControlChannel,
        announce: Callable[[str, Event, int], None],
        *,
        enabled: bool,
    ) -> None:
        self._channel = channel
        self._announce = announce
        self._enabled = enabled

    def died(self, node: str) -> None:
        """Publish that *node* died."""
        self.say(NODE_LEFT, node=node, died=True)

    def say(self, topic: str, **facts: object) -> None:
        """Publish *facts* to *topic*; ``node`` is this one unless they name another."""
        if self._enabled:
            event = self._channel.event(topic, topic_address(topic), {"node": self._channel.node, **facts})
            self._announce(topic, event, len(memoryview(event.raw)))
