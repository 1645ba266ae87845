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
import os
from collections.abc import Awaitable, Iterable, Mapping
from contextlib import suppress
from logging import getLogger
from threading import Lock
from time import monotonic
from typing import Any, Final
from uuid import uuid4

import msgspec

import eventbus
from eventbus import BlockingBus, Buffers, ClientNotFound, Event, PortalClient, quote

try:
    from channels.exceptions import ChannelFull
    from channels.layers import BaseChannelLayer
except ImportError as error:
    raise ImportError(
        "eventbus_core.integrations.channels needs channels: pip install 'eventbus[channels]'", name=error.name
    ) from error

__all__ = ("EventBusChannelLayer",)

_MESSAGE: Final = "channels.message"
_RECEIVE: Final = "channels.receive"
_ADD: Final = "channels.group_add"
_DISCARD: Final = "channels.group_discard"
_WAIT: Final = 2.0
"""Seconds after which a receiver of a general channel looks up again which process has it."""

_log = getLogger("eventbus.channels")


class EventBusChannelLayer(BaseChannelLayer):  # type: ignore[misc]
    """
    A channel layer on a bus of its own, which the first use opens in a thread, for every event loop of the process.

    A message goes to the process that has the channel, and one to a group to the processes that have a member. A
    general channel is with the process that first used it, and shared with all others that receive from it. What waits
    is in memory, and lost with the process.

    Args:
        uri: of the bus, with its options.
        prefix: keeps apart the layers of several applications on one bus.
        expiry: seconds for which a message may wait.
        group_expiry: seconds after which a channel is dropped from a group.
        capacity: messages that may wait for a channel. One more raises ``ChannelFull`` if the channel is with this
            process; otherwise the process that has it drops the message, and logs that.
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
        self._uri = uri
        self._begin()

    def _begin(self) -> None:
        """Be a layer that has not been used in this process."""
        self.client_prefix = uuid4().hex
        self._pid = os.getpid()
        self._opening, self._lock = Lock(), Lock()
        self._buffers = Buffers[bytes](self.get_capacity, self.expiry)
        self._groups: dict[str, dict[str, float]] = {}  # by topic: the members in this process, and until when
        self._next_sweep = monotonic() + self.group_expiry
        self._general: dict[str, PortalClient] = {}  # the general channels that are with this process
        self._answers: set[asyncio.Task[None]] = set()
        self._joined: tuple[BlockingBus, PortalClient] | None = None

    async def new_channel(self, prefix: str = "specific.") -> str:
        """Return the name of a channel that is received in this process."""
        await self._join()
        return f"{prefix}.{self.client_prefix}!{uuid4().hex}"

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        """Send a message to a channel; raises ``ChannelFull``, or ``TransportUnavailable`` without a broker."""
        if not await self._at_holder(_MESSAGE, channel, self.serialize(message)):
            raise ChannelFull(channel)

    async def receive(self, channel: str) -> Any:
        """Return the next message of a channel; each goes to one of its receivers, in whatever process."""
        self.require_valid_channel_name(channel)
        if "!" in channel:
            assert self._is_here(channel), "Wrong client prefix"  # noqa: S101  # as Channels' own layers
            return self.deserialize(await self._buffers.get(channel))
        (bus, process), raw = await self._join(), None
        while raw is None:
            if self._is_here(channel) or await self._hold(bus, channel):
                raw = await self._next(channel)
            else:
                with suppress(ClientNotFound, eventbus.RequestFailed, eventbus.RequestTimeout):  # its process has gone
                    raw = (await process.request(self._holder(channel), _RECEIVE, (channel, None))).data
        return self.deserialize(raw)

    async def group_add(self, group: str, channel: str) -> None:
        """Add a channel to a group; returns once messages that are sent to the group from now on reach it."""
        await self._at_holder(_ADD, channel, self._topic(group))

    async def group_discard(self, group: str, channel: str) -> None:
        """Remove a channel from a group; does nothing if it is not there."""
        await self._at_holder(_DISCARD, channel, self._topic(group))

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        """Send a message to all channels of a group but those that are full."""
        topic, raw = self._topic(group), self.serialize(message)
        _, process = await self._join()
        self._deliver(topic, raw)
        await process.publish(topic, raw)

    async def flush(self) -> None:
        """Drop what waits in this process, and leave the bus; the next use joins it again."""
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Do what :meth:`flush` does, in code without an event loop; the exit of the process does so too."""
        joined = self._joined
        self._begin()
        if joined is not None:
            joined[0].close()

    def serialize(self, message: Any) -> bytes:
        """Return a message as MessagePack."""
        return msgspec.msgpack.encode(message)

    def deserialize(self, message: bytes) -> Any:
        """Return the message that was serialized."""
        return msgspec.msgpack.decode(message)

    async def _join(self) -> tuple[BlockingBus, PortalClient]:
        """Return the bus, and the client that receives what is for the channels of this process, and its groups."""
        if self._pid != os.getpid():
            self._begin()  # a copy of the process that has this prefix
        return await asyncio.to_thread(self._open) if self._joined is None else self._joined

    def _open(self) -> tuple[BlockingBus, PortalClient]:
        with self._opening:
            if self._joined is not None:
                return self._joined
            bus = eventbus.connect_blocking(self._uri).open()
            process = bus.portal().client(f"{self.prefix}/{self.client_prefix}", handler=self._take_in)
            try:
                asyncio.run(process.open())
            except BaseException:
                bus.close()
                raise
            self._joined = bus, process
            return self._joined

    async def _at_holder(self, action: str, channel: str, detail: Any) -> bool:
        """Do *action* in the process that has *channel*; returns false if that is this one and the channel is full."""
        self.require_valid_channel_name(channel)
        bus, process = await self._join()
        while not self._is_here(channel):
            try:
                await process.send(self._holder(channel), action, (channel, detail), expires=self.expiry)
                return True
            except ClientNotFound:
                if "!" in channel:
                    return True  # its process has gone, and the channel with it
                await self._hold(bus, channel)
        return await self._act(process, action, channel, detail)

    async def _act(self, process: PortalClient, action: str, channel: str, detail: Any) -> bool:
        if action == _MESSAGE:
            return self._buffers.put(channel, detail)
        if action == _DISCARD:
            with self._lock:
                self._groups.get(detail, {}).pop(channel, None)
            await self._leave(process, [detail])
            return True
        with self._lock:
            self._groups.setdefault(detail, {})[channel] = monotonic() + self.group_expiry
        await process.subscribe(detail)
        if monotonic() >= self._next_sweep:
            self._next_sweep = monotonic() + self.group_expiry
            await self._leave(process, list(self._groups))
        return True

    async def _leave(self, process: PortalClient, topics: Iterable[str]) -> None:
        """Receive the groups among *topics* no more that have no members here."""
        for topic in topics:
            if not self._members(topic):
                await process.unsubscribe(topic)
                if self._members(topic):  # another thread added one meanwhile
                    await process.subscribe(topic)

    def _members(self, topic: str) -> list[str]:
        """Return the channels of this process in a group, without those that have been there for too long."""
        with self._lock:
            members, now = self._groups.get(topic, {}), monotonic()
            for channel in [channel for channel, until in members.items() if until <= now]:
                del members[channel]
            if not members:
                self._groups.pop(topic, None)
            return list(members)

    async def _hold(self, bus: BlockingBus, channel: str) -> bool:
        """Have a general channel in this process; returns false if another has it."""
        client = bus.portal().client(self._holder(channel), takeover=False, handler=self._take_in)
        try:
            self._general[channel] = await client.open()
        except eventbus.ClientAlreadyClaimed:
            return False
        return True

    def _take_in(self, event: Event) -> Awaitable[object] | None:
        """Take in what other processes sent; runs in the event loop of the bus."""
        if self._joined is None:
            return None  # the layer was flushed
        _, process = self._joined
        if event.topic is not None:
            own = event.source == process.name  # then our channels have it already
            return None if own or self._deliver(event.topic, event.data) else self._leave(process, [event.topic])
        channel, detail = event.data
        if event.type == _RECEIVE:
            task = asyncio.get_running_loop().create_task(self._answer(process, event, channel))
            self._answers.add(task)
            task.add_done_callback(self._answers.discard)
        elif event.type != _MESSAGE:
            return self._act(process, event.type, channel, detail)
        elif not self._buffers.put(channel, detail):
            _log.info("channel %s is over capacity: a message from %s was dropped", channel, event.source)
        return None

    async def _next(self, channel: str) -> bytes | None:
        """Return the next message of a channel that is here, or nothing if none comes in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_WAIT):
                return await self._buffers.get(channel)
        return None

    async def _answer(self, process: PortalClient, request: Event, channel: str) -> None:
        """Give another process the next message of a general channel."""
        raw = await self._next(channel)
        try:
            await process.reply(request, raw)
        except ClientNotFound:  # the process has gone
            if raw is not None:
                self._buffers.put(channel, raw)

    def _deliver(self, topic: str, raw: bytes) -> int:
        """Put a message into the buffers of the members here; return how many there are."""
        members = self._members(topic)
        full = sum(not self._buffers.put(channel, raw) for channel in members)
        if full:
            _log.info("%d of %d channels over capacity in group %s", full, len(members), topic.rpartition(".")[2])
        return len(members)

    def _is_here(self, channel: str) -> bool:
        process, mark, _ = channel.partition("!")
        return process.endswith(self.client_prefix) if mark else channel in self._general

    def _holder(self, channel: str) -> str:
        """Return the client of the bus that has *channel*: that of a process, or that of a general channel."""
        process, mark, _ = channel.partition("!")
        return f"{self.prefix}/{process.rpartition('.')[2] if mark else '=' + channel}"

    def _topic(self, group: str) -> str:
        self.require_valid_group_name(group)
        return f"{self.prefix}.group.{quote(group)}"
