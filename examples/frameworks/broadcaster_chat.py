"""
A chat room on several servers, with broadcaster and Starlette.

    pip install 'eventbus[broadcaster,redis]' starlette uvicorn websockets
    EVENTBUS_URI=redis://localhost:6379/0 uvicorn broadcaster_chat:app --port 8001
    EVENTBUS_URI=redis://localhost:6379/0 uvicorn broadcaster_chat:app --port 8002

Open a websocket to ``/`` of each server: what one sends, all receive.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from broadcaster import Broadcast
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from eventbus_core.integrations.broadcaster import EventBusBackend

broadcast = Broadcast(backend=EventBusBackend(os.environ.get("EVENTBUS_URI", "memory://")))


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with broadcast:
        yield


async def chat(socket: WebSocket) -> None:
    await socket.accept()
    async with broadcast.subscribe("chatroom") as subscriber, anyio.create_task_group() as tasks:

        async def write() -> None:
            while True:
                event = await subscriber.get()
                await socket.send_text(event.message)

        tasks.start_soon(write)
        await socket.send_text("you are in")
        async for text in socket.iter_text():
            await broadcast.publish("chatroom", text)
        tasks.cancel_scope.cancel()


app = Starlette(routes=[WebSocketRoute("/", chat)], lifespan=lifespan)
