"""Channels that every process may receive: queues of the bus."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import takewhile
from logging import getLogger
from threading import Lock
from time import monotonic
from typing import Final

from eventbus import Event, Portal, PortalClient, PortalConsumer

_MESSAGE: Final = "channels.message"
_AHEAD: Final = 16
"""Messages that a process takes before they are asked for; those that it does not ask for go to other processes."""

_log = getLogger("eventbus.channels")


class GeneralChannels:
    """
    The general channels, for every event loop and thread of this process.

    A message waits in the queue of this process until a process receives it. A channel in a group is a client that
    forwards what is published to the group; the process that added the channel last holds that client.
    """

    def __init__(
        self,
        portal: Portal,
        address: Callable[[str], str],
        capacity: Callable[[str], int],
        expiry: float,
        group_expiry: float,
    ) -> None:
        self._portal = portal
        self._address = address
        self._capacity = capacity
        self._expiry = expiry
        self._group_expiry = group_expiry
        self._lock = Lock()
        self._consumers: dict[str, PortalConsumer] = {}  # of the channels that are received in this process
        self._forwarding: dict[str, tuple[PortalClient, float]] = {}  # the clients of channels in groups; until when

    async def send(self, channel: str, raw: bytes) -> bool:
        """Send a message to one receiver; return false if too many of this process wait already."""
        queue = self._portal.queue(self._address(channel))
        if queue.waiting >= self._capacity(channel):
            return False
        await queue.send(_MESSAGE, raw, expires=self._expiry)
        return True

    async def receive(self, channel: str) -> bytes:
        """Return the next message; each goes to one of the receivers of all processes."""
        if channel not in self._consumers:
            consumer = await self._portal.queue(self._address(channel)).consume(concurrency=_AHEAD).open()
            if self._consumers.setdefault(channel, consumer) is not consumer:
                await consumer.aclose()
        raw: bytes = (await self._consumers[channel].receive()).data
        return raw

    async def add(self, channel: str, topic: str) -> None:
        """Add a channel to the group that is *topic*."""
        name, until = self._address(f"{channel}={topic}"), monotonic() + self._group_expiry
        member = await self._portal.client(name, handler=partial(self._forward, channel, until)).open()
        with self._lock:
            self._forwarding.pop(name, None)
            self._forwarding[name] = member, until
        await member.subscribe(topic)
        await self._end_expired()

    async def discard(self, channel: str, topic: str) -> None:
        """Remove a channel from the group that is *topic*; does nothing if it is not there."""
        async with self._portal.client(self._address(f"{channel}={topic}")):
            pass  # taken from the process that had it

    async def _forward(self, channel: str, until: float, event: Event) -> None:
        if monotonic() < until and not await self.send(channel, event.data):
            _log.info("channel %s is over capacity: a message to a group was dropped", channel)

    async def _end_expired(self) -> None:
        with self._lock:  # those that were added first come first
            expired = list(takewhile(lambda item: item[1][1] <= monotonic(), self._forwarding.items()))
            for name, _ in expired:
                del self._forwarding[name]
        for _, (member, _) in expired:
            await member.aclose()
