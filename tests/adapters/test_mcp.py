"""The subscription bus of the MCP SDK on two replicas, on memory and on Redis."""

from __future__ import annotations

from uuid import uuid4

import pytest
from mcp.server.subscriptions import PromptsListChanged, ResourcesListChanged, ResourceUpdated, ToolsListChanged
from mcp.shared.subscriptions import ServerEvent

import eventbus
from eventbus_core.integrations.mcp import EventBusSubscriptionBus
from eventbus_core.testing import until


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["memory", "redis"])
def uri(request: pytest.FixtureRequest) -> str:
    base = "memory://" if request.param == "memory" else request.getfixturevalue("redis_uri")
    return f"{base}?namespace=mcp-{uuid4().hex}"


async def test_each_replica_has_every_change_once_and_in_order(uri: str) -> None:
    changes: list[ServerEvent] = [ToolsListChanged(), PromptsListChanged(), ResourcesListChanged()]
    changes += [ResourceUpdated(f"r://{number}") for number in range(100)]
    async with eventbus.connect(uri) as one, eventbus.connect(uri) as two:
        here, there = EventBusSubscriptionBus(one), EventBusSubscriptionBus(two)
        seen_here: list[ServerEvent] = []
        seen_there: list[ServerEvent] = []
        here.subscribe(seen_here.append)
        there.subscribe(seen_there.append)
        await two.ready()
        for change in changes:
            await here.publish(change)
        assert seen_here == changes
        await until(lambda: len(seen_there) >= len(changes))
        await there.publish(ToolsListChanged())
        await until(lambda: len(seen_here) > len(changes))
        assert seen_there == seen_here == [*changes, ToolsListChanged()]


async def test_a_kind_of_a_newer_sdk_is_ignored(uri: str) -> None:
    async with eventbus.connect(uri) as one, eventbus.connect(uri) as two:
        bus = EventBusSubscriptionBus(two)
        seen: list[ServerEvent] = []
        bus.subscribe(seen.append)
        await two.ready()
        await one.publish("mcp.changed", ("SomethingChanged", {"path": "/"}))
        await one.publish("mcp.changed", ("ToolsListChanged", {}))
        await until(lambda: seen == [ToolsListChanged()])


async def test_listeners_here_have_what_could_not_be_published() -> None:
    bus = EventBusSubscriptionBus(eventbus.connect())
    seen: list[ServerEvent] = []
    bus.subscribe(seen.append)
    with pytest.raises(eventbus.BusClosed):
        await bus.publish(ToolsListChanged())
    assert seen == [ToolsListChanged()]
