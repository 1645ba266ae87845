"""
A backend for broadcaster: ``pip install 'eventbus[broadcaster]'``.

    broadcast = Broadcast(backend=EventBusBackend("redis://localhost:6379/0"))
"""

from __future__ import annotations

from typing import Any

from eventbus import Bus
from eventbus_core.integrations.channel_feed import ChannelFeed

try:
    from broadcaster import BroadcastBackend, Event
except ImportError as error:
    raise ImportError(
        "eventbus_core.integrations.broadcaster needs broadcaster: pip install 'eventbus[broadcaster]'", name=error.name
    ) from error

__all__ = ("EventBusBackend",)


class EventBusBackend(BroadcastBackend):
    """
    Publishes and receives through a bus.

    A message may be anything that the bus can send, and arrives as such. Channels are topics
    ``broadcaster.<channel>``, so other code on the bus can publish to them too.

    Args:
        bus: an open bus, or the URI of one, which ``connect`` then opens and ``disconnect`` closes.
    """

    def __init__(self, bus: Bus | str) -> None:
        self._feed = ChannelFeed(bus, "broadcaster")

    async def connect(self) -> None:
        """Join the bus; raises what opening a bus raises, such as ``TransportUnavailable``."""
        await self._feed.open()

    async def disconnect(self) -> None:
        """Leave the bus, once accepted messages are on their way."""
        await self._feed.aclose()

    async def subscribe(self, channel: str) -> None:
        """Receive *channel*; returns once messages published from now on, on any node, will arrive."""
        await self._feed.subscribe([channel])

    async def unsubscribe(self, channel: str) -> None:
        """Receive *channel* no more."""
        await self._feed.unsubscribe([channel])

    async def publish(self, channel: str, message: Any) -> None:
        """Publish *message*; waits while receivers or the broker take nothing."""
        await self._feed.publish([channel], message)

    async def next_published(self) -> Event:
        """Return the next message of the channels subscribed to."""
        channel, message = await self._feed.receive()
        return Event(channel, message)
