"""
A channel layer for Django Channels: ``pip install 'eventbus[channels]'``.

    CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "eventbus_core.integrations.channels.EventBusChannelLayer",
            "CONFIG": {"uri": "redis://localhost:6379/0"},
        }
    }
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from itertools import takewhile
from logging import getLogger
from threading import Lock
from time import monotonic
from typing import Any, Final
from uuid import uuid4

import msgspec

from eventbus import Buffers, ClientNotFound, Event, Portal, PortalClient, PortalConsumer, ProcessBus, quote

try:
    from channels.exceptions import ChannelFull
    from channels.layers import BaseChannelLayer
except ImportError as error:
    raise ImportError(
        "eventbus_core.integrations.channels needs channels: pip install 'eventbus[channels]'", name=error.name
    ) from error

__all__ = ("EventBusChannelLayer",)

_MESSAGE: Final = "channels.message"
_ADD: Final = "channels.group_add"
_DISCARD: Final = "channels.group_discard"

_log = getLogger("eventbus.channels")


class EventBusChannelLayer(BaseChannelLayer):  # type: ignore[misc]
    """
    A channel layer on a bus of its own, which the first use opens in a thread, for every event loop of the process.

    A message goes to the process that has the channel, and one to a group to the processes that have a member. A
    general channel is a queue of the bus, from which the receivers of all processes take. What waits is in memory, and
    lost with the process.

    Args:
        uri: of the bus, with its options.
        prefix: keeps apart the layers of several applications on one bus.
        expiry: seconds for which a message may wait.
        group_expiry: seconds after which a channel is dropped from a group.
        capacity: messages that may wait for a channel. One more raises ``ChannelFull`` if the channel is with this
            process, or is a general one, for which each process keeps what it has sent itself; otherwise the process
            that has the channel drops the message, and logs that.
        channel_capacity: the capacities of channels whose names match a glob or a regular expression.
    """

    extensions = ("groups", "flush")

    def __init__(
        self,
        uri: str = "memory://",
        prefix: str = "asgi",
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 100,
        channel_capacity: Mapping[Any, int] | None = None,
    ) -> None:
        super().__init__(expiry, capacity, self.compile_capacities(channel_capacity or {}))
        self.prefix = quote(prefix)
        self.group_expiry = group_expiry
        self.client_prefix = uuid4().hex
        self._bus = ProcessBus(uri, self._enter)

    async def _enter(self, portal: Portal) -> None:
        """Become a process of the bus that has no channels yet."""
        self.client_prefix = uuid4().hex
        self._portal = portal
        self._lock = Lock()
        self._buffers = Buffers[bytes](self.get_capacity, self.expiry)
        self._consumers: dict[str, PortalConsumer] = {}  # of the general channels that are received in this process
        self._groups: dict[str, dict[str, float]] = {}  # by topic: the members in this process, and until when
        self._next_sweep = monotonic() + self.group_expiry
        self._forwarding: dict[str, tuple[PortalClient, float]] = {}  # of general channels in groups; until when
        self._process = await portal.client(self._client(self.client_prefix), handler=self._take_in).open()

    async def new_channel(self, prefix: str = "specific.") -> str:
        """Return the name of a channel that is received in this process."""
        await self._bus.open()
        return f"{prefix}.{self.client_prefix}!{uuid4().hex}"

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        """Send a message to a channel; raises ``ChannelFull``, or ``TransportUnavailable`` without a broker."""
        if not await self._pass_on(_MESSAGE, channel, self.serialize(message)):
            raise ChannelFull(channel)

    async def receive(self, channel: str) -> Any:
        """Return the next message of a channel; each goes to one of its receivers, in whatever process."""
        self.require_valid_channel_name(channel)
        await self._bus.open()
        if "!" in channel:
            assert self._is_here(channel), "Wrong client prefix"  # noqa: S101  # as Channels' own layers
            return self.deserialize(await self._buffers.get(channel))
        if channel not in self._consumers:
            consumer = await self._portal.queue(self._client(channel)).consume().open()
            if self._consumers.setdefault(channel, consumer) is not consumer:
                await consumer.aclose()
        return self.deserialize((await self._consumers[channel].receive()).data)

    async def group_add(self, group: str, channel: str) -> None:
        """Add a channel to a group; returns once messages that are sent to the group from now on reach it."""
        await self._pass_on(_ADD, channel, self._topic(group))

    async def group_discard(self, group: str, channel: str) -> None:
        """Remove a channel from a group; does nothing if it is not there."""
        await self._pass_on(_DISCARD, channel, self._topic(group))

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        """Send a message to all channels of a group but those that are full."""
        topic, raw = self._topic(group), self.serialize(message)
        await self._bus.open()
        self._deliver(topic, raw)
        await self._process.publish(topic, raw)

    async def flush(self) -> None:
        """Drop what waits in this process, and leave the bus; the next use joins it again."""
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Do what :meth:`flush` does, in code without an event loop; the exit of the process does so too."""
        self._bus.close()

    def serialize(self, message: Any) -> bytes:
        """Return a message as MessagePack."""
        return msgspec.msgpack.encode(message)

    def deserialize(self, message: bytes) -> Any:
        """Return the message that was serialized."""
        return msgspec.msgpack.decode(message)

    async def _pass_on(self, action: str, channel: str, detail: Any) -> bool:
        """Do *action* where *channel* is; returns false if the channel is full, as far as this process knows."""
        self.require_valid_channel_name(channel)
        await self._bus.open()
        if "!" not in channel:
            return await self._act_on_queue(action, channel, detail)
        if self._is_here(channel):
            return await self._act(action, channel, detail)
        process = channel.partition("!")[0].rpartition(".")[2]
        with suppress(ClientNotFound):  # its process has gone, and the channel with it
            await self._process.send(self._client(process), action, (channel, detail), expires=self.expiry)
        return True

    async def _act_on_queue(self, action: str, channel: str, detail: Any) -> bool:
        """Do *action* with a general channel: a queue, and for each of its groups a client of the bus."""
        if action == _MESSAGE:
            queue = self._portal.queue(self._client(channel))
            if queue.waiting >= self.get_capacity(channel):
                return False
            await queue.send(_MESSAGE, detail, expires=self.expiry)
        elif action == _ADD:
            name, until = self._client(f"{channel}={detail}"), monotonic() + self.group_expiry
            member = await self._portal.client(name, handler=partial(self._forward, channel, until)).open()
            with self._lock:
                self._forwarding.pop(name, None)
                self._forwarding[name] = member, until
            await member.subscribe(detail)
            await self._end_forwarding()
        else:
            async with self._portal.client(self._client(f"{channel}={detail}")):
                pass  # taken from the process that had it
        return True

    async def _forward(self, channel: str, until: float, event: Event) -> None:
        if monotonic() < until and not await self._act_on_queue(_MESSAGE, channel, event.data):
            _log.info("channel %s is over capacity: a message to a group was dropped", channel)

    async def _end_forwarding(self) -> None:
        """Have the general channels leave their groups that have been there for too long."""
        with self._lock:  # those that were added first come first
            expired = list(takewhile(lambda item: item[1][1] <= monotonic(), self._forwarding.items()))
            for name, _ in expired:
                del self._forwarding[name]
        for _, (member, _) in expired:
            await member.aclose()

    async def _act(self, action: str, channel: str, detail: Any) -> bool:
        """Do *action* with a channel of this process."""
        if action == _MESSAGE:
            return self._buffers.put(channel, detail)
        if action == _DISCARD:
            with self._lock:
                self._groups.get(detail, {}).pop(channel, None)
            await self._leave([detail])
            return True
        with self._lock:
            self._groups.setdefault(detail, {})[channel] = monotonic() + self.group_expiry
        await self._process.subscribe(detail)
        if monotonic() >= self._next_sweep:
            self._next_sweep = monotonic() + self.group_expiry
            await self._leave(list(self._groups))
        return True

    async def _leave(self, topics: Iterable[str]) -> None:
        """Receive the groups among *topics* no more that have no members here."""
        for topic in topics:
            if not self._members(topic):
                await self._process.unsubscribe(topic)
                if self._members(topic):  # another thread added one meanwhile
                    await self._process.subscribe(topic)

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
            own = event.source == self._client(self.client_prefix)  # then our channels have it already
            return None if own or self._deliver(event.topic, event.data) else self._leave([event.topic])
        channel, detail = event.data
        if event.type != _MESSAGE:
            return self._act(event.type, channel, detail)
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

    def _is_here(self, channel: str) -> bool:
        return channel.partition("!")[0].endswith(self.client_prefix)

    def _client(self, name: str) -> str:
        return f"{self.prefix}/{name}"

    def _topic(self, group: str) -> str:
        self.require_valid_group_name(group)
        return f"{self.prefix}.group.{quote(group)}"
