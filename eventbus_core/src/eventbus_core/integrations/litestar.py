"""
A backend for the channels of Litestar: ``pip install 'eventbus[litestar]'``.

    channels = ChannelsPlugin(EventBusChannelsBackend("redis://localhost:6379/0"), arbitrary_channels_allowed=True)
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable

from eventbus import Bus
from eventbus_core.integrations.channel_feed import ChannelFeed

try:
    from litestar.channels.backends.base import ChannelsBackend
except ImportError as error:
    raise ImportError(
        "eventbus_core.integrations.litestar needs litestar: pip install 'eventbus[litestar]'", name=error.name
    ) from error

__all__ = ("EventBusChannelsBackend",)

_ALL = 1_000_000


class EventBusChannelsBackend(ChannelsBackend):
    """
    Publishes and receives through a bus.

    Channels are topics ``litestar.<channel>``, so other code on the bus can publish to them too, ``bytes`` alone.

    Args:
        bus: an open bus, or the URI of one, which is opened and closed with the application.
    """

    def __init__(self, bus: Bus | str) -> None:
        self._feed = ChannelFeed(bus, "litestar")

    async def on_startup(self) -> None:
        """Join the bus; raises what opening a bus raises, such as ``TransportUnavailable``."""
        await self._feed.open()

    async def on_shutdown(self) -> None:
        """Leave the bus, once accepted data is on its way."""
        await self._feed.aclose()

    async def publish(self, data: bytes, channels: Iterable[str]) -> None:
        """Publish *data* to each of *channels* once; waits while receivers or the broker take nothing."""
        await self._feed.publish(dict.fromkeys(channels), data)

    async def subscribe(self, channels: Iterable[str]) -> None:
        """Receive *channels*; returns once data published from now on, on any node, will arrive."""
        await self._feed.subscribe(channels)

    async def unsubscribe(self, channels: Iterable[str]) -> None:
        """Receive *channels* no more."""
        await self._feed.unsubscribe(channels)

    async def stream_events(self) -> AsyncGenerator[tuple[str, bytes], None]:
        """Yield the channel and the data of each event, until the application shuts down."""
        while True:
            yield await self._feed.receive()

    async def get_history(self, channel: str, limit: int | None = None) -> list[bytes]:
        """
        Return the latest data of *channel*, oldest first.

        Raises:
            TopicNotRetained: the bus does not keep it: connect with ``retain=litestar.>=100/600/8388608`` or the like.
        """
        return await self._feed.history(channel, limit or _ALL)
