"""
An MCP server on several replicas: a client of any of them learns that a resource has changed.

    pip install 'eventbus[mcp,redis]' uvicorn
    EVENTBUS_URI=redis://localhost:6379/0 uvicorn mcp_server:app --port 8001
    EVENTBUS_URI=redis://localhost:6379/0 uvicorn mcp_server:app --port 8002
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mcp.server.mcpserver import Context, MCPServer

import eventbus
from eventbus_core.integrations.mcp import EventBusSubscriptionBus

bus = eventbus.connect(os.environ.get("EVENTBUS_URI", "memory://"))


@asynccontextmanager
async def lifespan(server: MCPServer) -> AsyncIterator[None]:
    async with bus:
        yield


server = MCPServer("weather", lifespan=lifespan, subscriptions=EventBusSubscriptionBus(bus))


@server.resource("weather://today")
def today() -> str:
    return "rain"


@server.tool()
async def look_again(ctx: Context) -> str:
    await ctx.notify_resource_updated("weather://today")
    return "done"


app = server.streamable_http_app()
