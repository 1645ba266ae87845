"""Channels of other frameworks, over topics of the bus."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import uuid4

from eventbus import Bus, BusClosed, Client, quote
from eventbus_core.integrations.attached_bus import AttachedBus


class ChannelFeed:
    """
    One stream of what is published to the channels that it is subscribed to, on any node.

    A channel is the topic ``prefix.channel``, quoted, so it may have any name.
    """

    def __init__(self, bus: Bus | str, prefix: str) -> None:
        self._attached = AttachedBus(bus)
        self._prefix = prefix
        self._channels: dict[str, str] = {}  # by topic, those subscribed to
        self._joined: tuple[Bus, Client] | None = None

    async def open(self) -> None:
        """Join the bus; raises what opening a bus or claiming a client raises."""
        bus = await self._attached.open()
        try:
            self._joined = bus, await bus.client(f"{self._prefix}/{uuid4().hex}").open()
        except BaseException:
            await self._attached.aclose()
            raise

    async def aclose(self) -> None:
        """Leave the bus."""
        joined, self._joined = self._joined, None
        self._channels.clear()
        try:
            if joined is not None:
                await joined[1].aclose()
        finally:
            await self._attached.aclose()

    async def subscribe(self, channels: Iterable[str]) -> None:
        """Receive *channels*; returns once what is published from now on will arrive."""
        _, client = self._opened()
        for channel in channels:
            topic = self._topic(channel)
            await client.subscribe(topic)
            self._channels[topic] = channel

    async def unsubscribe(self, channels: Iterable[str]) -> None:
        """Receive *channels* no more, not even what waits already."""
        _, client = self._opened()
        for topic in map(self._topic, channels):
            self._channels.pop(topic, None)
            await client.unsubscribe(topic)

    async def publish(self, channels: Iterable[str], data: object) -> None:
        """Publish *data*, of any type that the bus can send, to each of *channels*."""
        _, client = self._opened()
        for channel in channels:
            await client.publish(self._topic(channel), data)

    async def receive(self) -> tuple[str, Any]:
        """
        Return the channel and the data of the next event.

        What was lost on the way is skipped: it is told to the hooks of the bus, and logged.
        """
        _, client = self._opened()
        while True:
            event = await client.receive()
            channel = self._channels.get(event.type)
            if channel is not None:
                return channel, event.data

    async def history(self, channel: str, limit: int) -> list[Any]:
        """Return the data of the latest *limit* events of *channel*; raises ``TopicNotRetained`` if none are kept."""
        bus, _ = self._opened()
        return [event.data for event in await bus.history(self._topic(channel), limit=limit)]

    def _topic(self, channel: str) -> str:
        return f"{self._prefix}.{quote(channel)}"

    def _opened(self) -> tuple[Bus, Client]:
        if self._joined is None:
            raise BusClosed("the adapter is not open: start the application that it belongs to first")
        return self._joined
