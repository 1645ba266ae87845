"""Has the tests of the MCP SDK's in-memory bus test ours, on a bus that is open for each test."""

import asyncio
import os
from collections.abc import AsyncIterator

import mcp.server.subscriptions
import pytest

import eventbus
from eventbus_core.integrations.mcp import EventBusSubscriptionBus

_open: list[eventbus.Bus] = []


class StandIn(EventBusSubscriptionBus):
    """Takes no arguments, as the class that it replaces; a test without an event loop gets a bus that is not open."""

    def __init__(self) -> None:
        in_loop = asyncio._get_running_loop() is not None
        super().__init__(_open[-1] if in_loop else eventbus.connect())


mcp.server.subscriptions.InMemorySubscriptionBus = StandIn  # type: ignore[misc]


@pytest.fixture(params=["asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(autouse=True)
async def _bus(anyio_backend: str) -> AsyncIterator[None]:
    async with eventbus.connect(os.environ["EVENTBUS_URI"], namespace=f"mcp-{os.urandom(6).hex()}") as bus:
        _open.append(bus)
        yield
        _open.remove(bus)
