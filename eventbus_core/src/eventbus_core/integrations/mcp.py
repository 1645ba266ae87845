"""
Change notifications of the MCP Python SDK, on several replicas: ``pip install 'eventbus[mcp]'``.

    server = MCPServer("weather", subscriptions=EventBusSubscriptionBus(bus))
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

from eventbus import Bus, Event

try:
    from mcp.server.subscriptions import (
        InMemorySubscriptionBus,
        PromptsListChanged,
        ResourcesListChanged,
        ResourceUpdated,
        ServerEvent,
        ToolsListChanged,
    )
except ImportError as error:
    raise ImportError(
        "eventbus_core.integrations.mcp needs mcp 2 or later: pip install 'eventbus[mcp]'", name=error.name
    ) from error

__all__ = ("EventBusSubscriptionBus",)

_KINDS: Final[dict[str, type[ServerEvent]]] = {
    kind.__name__: kind for kind in (ToolsListChanged, PromptsListChanged, ResourcesListChanged, ResourceUpdated)
}


class EventBusSubscriptionBus(InMemorySubscriptionBus):
    """
    Delivers the events of ``subscriptions/listen`` to the streams of every replica.

    A listener of the same replica has been called when :meth:`publish` returns, as with the SDK's own bus. The others
    follow in the order in which each replica published.

    Args:
        bus: the bus of this process; the application opens it before the server serves, and closes it afterwards.
        topic: the topic that carries the events; servers with different content on one bus need one each.
    """

    def __init__(self, bus: Bus, *, topic: str = "mcp.changed") -> None:
        super().__init__()
        self._bus = bus
        self._topic = topic
        bus.on(topic)(self._receive)

    async def publish(self, event: ServerEvent) -> None:
        """
        Deliver *event* to the listeners here, and publish it to the other replicas.

        Raises:
            BusClosed: the bus is not open; the listeners here have the event.
            TransportUnavailable: the broker takes nothing; the listeners here have the event.
        """
        await super().publish(event)
        await self._bus.publish(self._topic, (type(event).__name__, asdict(event)))

    async def _receive(self, event: Event) -> None:
        if event.source == self._bus.address:
            return  # delivered when it was published
        kind, fields = event.data
        if kind in _KINDS:  # a replica with a newer SDK may publish others
            await super().publish(_KINDS[kind](**fields))
