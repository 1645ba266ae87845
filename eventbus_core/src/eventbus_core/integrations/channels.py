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
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final
from uuid import uuid4

import msgspec

from eventbus import ConfigurationError, Portal, ProcessBus, quote
from eventbus_core.integrations.general_channels import GeneralChannels
from eventbus_core.integrations.specific_channels import SpecificChannels

try:
    from channels.exceptions import ChannelFull
    from channels.layers import BaseChannelLayer
except ImportError as error:
    raise ImportError(
        "eventbus_core.integrations.channels needs channels: pip install 'eventbus[channels]'", name=error.name
    ) from error

__all__ = ("EventBusChannelLayer",)

_NAMES: Final = 10_000  # of channels that are known to be valid


class EventBusChannelLayer(BaseChannelLayer):  # type: ignore[misc]
    """
    A channel layer on a bus of its own, which the first use opens in a thread, for every event loop of the process.

    A message goes to the process that has the channel, and one to a group to the processes that have a member. A
    general channel is a queue of the bus, from which the receivers of all processes take. What waits is in memory, and
    lost with the process.

    Args:
        uri: of the bus, with its options; ``memory://`` is for one process.
        prefix: keeps apart the layers of several applications on one bus.
        expiry: seconds for which a message may wait.
        group_expiry: seconds after which a channel is dropped from a group.
        capacity: messages that may wait for a channel. One more raises ``ChannelFull`` if the channel is with this
            process, or is a general one, for which each process keeps what it has sent itself; otherwise the process
            that has the channel drops the message, and logs that.
        channel_capacity: the capacities of channels whose names match a glob or a regular expression.

    Raises:
        ConfigurationError: there is another setting, the URI is none, or its backend is not installed.
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
        **unknown: object,
    ) -> None:
        if unknown:
            raise ConfigurationError(
                f"EventBusChannelLayer has no setting {', '.join(map(repr, unknown))}: give the server as"
                ' "uri": "redis://localhost:6379/0"; a page of the documentation has the settings of channels_redis'
            )
        super().__init__(expiry, capacity, self.compile_capacities(channel_capacity or {}))
        self.prefix = quote(prefix)
        self.group_expiry = group_expiry
        self.client_prefix = uuid4().hex
        self._bus = ProcessBus(uri, self._enter)
        self._check_channel = lru_cache(_NAMES)(self.require_valid_channel_name)  # a tenth of what a message takes

    async def _enter(self, portal: Portal) -> None:
        """Become a process of the bus that has no channels yet."""
        self.client_prefix = uuid4().hex
        settings = self._address, self.get_capacity, self.expiry, self.group_expiry
        self._general = GeneralChannels(portal, *settings)
        self._specific = SpecificChannels(portal, self.client_prefix, *settings)
        await self._specific.open()

    async def new_channel(self, prefix: str = "specific.") -> str:
        """Return the name of a channel that is received in this process."""
        await self._bus.open()
        return f"{prefix}.{self.client_prefix}!{uuid4().hex}"

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        """Send a message to a channel; raises ``ChannelFull``, or ``TransportUnavailable`` without a broker."""
        kind = await self._kind(channel)
        if not await kind.send(channel, self.serialize(message)):
            raise ChannelFull(channel)

    async def receive(self, channel: str) -> Any:
        """Return the next message of a channel; each goes to one of its receivers, in whatever process."""
        kind = await self._kind(channel)
        return self.deserialize(await kind.receive(channel))

    async def group_add(self, group: str, channel: str) -> None:
        """Add a channel to a group; returns once messages that are sent to the group from now on reach it."""
        kind = await self._kind(channel)
        await kind.add(channel, self._topic(group))

    async def group_discard(self, group: str, channel: str) -> None:
        """Remove a channel from a group; does nothing if it is not there."""
        kind = await self._kind(channel)
        await kind.discard(channel, self._topic(group))

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        """Send a message to all channels of a group but those that are full."""
        topic, raw = self._topic(group), self.serialize(message)
        await self._bus.open()
        await self._specific.publish(topic, raw)

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

    async def _kind(self, channel: str) -> GeneralChannels | SpecificChannels:
        """Return the channels among which *channel* is, once the bus is open."""
        self._check_channel(channel)
        await self._bus.open()
        return self._specific if "!" in channel else self._general

    def _address(self, name: str) -> str:
        return f"{self.prefix}/{name}"

    def _topic(self, group: str) -> str:
        self.require_valid_group_name(group)
        return f"{self.prefix}.group.{quote(group)}"
