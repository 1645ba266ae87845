"""Channels that one process receives: buffers there, and the groups that they are in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from logging import getLogger
from threading import Lock
from time import monotonic
from typing import Any, Final

from eventbus import Buffers, ClientNotFound, Event, Portal

_MESSAGE: Final = "channels.message"
_ADD: Final = "channels.group_add"
_DISCARD: Final = "channels.group_discard"

_log = getLogger("eventbus.channels")


class SpecificChannels:
    """
    The channels of this process, and the way to those of others, for every event loop and thread of this process.

    The part of a channel's name between the last dot and ``!`` names its process, which is a client of the bus. That
    client receives what others have for these channels, and the topics, which are groups, that have a member here.
    """

    def __init__(
        self,
        portal: Portal,
        name: str,
        address: Callable[[str], str],
        capacity: Callable[[str], int],
        expiry: float,
        group_expiry: float,
    ) -> None:
        self._name = name
        self._address = address
        self._expiry = expiry
        self._group_expiry = group_expiry
        self._lock = Lock()
        self._buffers = Buffers[bytes](capacity, expiry)
        self._groups: dict[str, dict[str, float]] = {}  # by topic: the members in this process, and until when
        self._next_sweep = monotonic() + group_expiry
        self._client = portal.client(address(name), handler=self._take_in)

    async def open(self) -> None:
        """Receive what other processes send from now on."""
        await self._client.open()

    async def send(self, channel: str, raw: bytes) -> bool:
        """Send a message to a channel; return false if it is one of this process, and full."""
        if self._is_here(channel):
            return self._buffers.put(channel, raw)
        await self._tell(_MESSAGE, channel, raw)
        return True

    async def receive(self, channel: str) -> bytes:
        """Return the next message of a channel of this process."""
        assert self._is_here(channel), "Wrong client prefix"  # noqa: S101  # as Channels' own layers
        return await self._buffers.get(channel)

    async def add(self, channel: str, topic: str) -> None:
        """Add a channel to the group that is *topic*."""
        if not self._is_here(channel):
            await self._tell(_ADD, channel, topic)
            return
        with self._lock:
            self._groups.setdefault(topic, {})[channel] = monotonic() + self._group_expiry
        await self._client.subscribe(topic)
        if monotonic() >= self._next_sweep:
            self._next_sweep = monotonic() + self._group_expiry
            await self._leave(list(self._groups))

    async def discard(self, channel: str, topic: str) -> None:
        """Remove a channel from the group that is *topic*; does nothing if it is not there."""
        if not self._is_here(channel):
            await self._tell(_DISCARD, channel, topic)
            return
        with self._lock:
            self._groups.get(topic, {}).pop(channel, None)
        await self._leave([topic])

    async def publish(self, topic: str, raw: bytes) -> None:
        """Send a message to the channels of a group but those that are full."""
        self._deliver(topic, raw)
        await self._client.publish(topic, raw)

    def _is_here(self, channel: str) -> bool:
        return channel.partition("!")[0].endswith(self._name)

    async def _tell(self, action: str, channel: str, detail: Any) -> None:
        """Have the process of *channel* do *action*."""
        process = channel.partition("!")[0].rpartition(".")[2]
        with suppress(ClientNotFound):  # it has gone, and the channel with it
            await self._client.send(self._address(process), action, (channel, detail), expires=self._expiry)

    async def _leave(self, topics: Iterable[str]) -> None:
        """Receive those of *topics* no more that have no members here."""
        for topic in topics:
            if not self._members(topic):
                await self._client.unsubscribe(topic)
                if self._members(topic):  # another thread added one meanwhile
                    await self._client.subscribe(topic)

    def _members(self, topic: str) -> list[str]:
        """Return the channels of this process in a group, without those that have been there for too long."""
        with self._lock:
            members, now = self._groups.get(topic, {}), monotonic()
            for channel in [channel for channel, until in members.items() if until <= now]:
                del members[channel]
            if not members:
                self._groups.pop(topic, None)
            return list(members)

    def _take_in(self, event: Event) -> Awaitable[object] | None:
        """Take in what other processes sent; runs in the event loop of the bus."""
        if event.topic is not None:
            own = event.source == self._client.name  # then our channels have it already
            return None if own or self._deliver(event.topic, event.data) else self._leave([event.topic])
        channel, detail = event.data
        if event.type == _ADD:
            return self.add(channel, detail)
        if event.type == _DISCARD:
            return self.discard(channel, detail)
        if not self._buffers.put(channel, detail):
            _log.info("channel %s is over capacity: a message from %s was dropped", channel, event.source)
        return None

    def _deliver(self, topic: str, raw: bytes) -> int:
        """Put a message into the buffers of the members here; return how many there are."""
        members = self._members(topic)
        full = sum(not self._buffers.put(channel, raw) for channel in members)
        if full:
            _log.info("%d of %d channels over capacity in group %s", full, len(members), topic.rpartition(".")[2])
        return len(members)
