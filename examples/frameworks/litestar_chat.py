"""
A chat room on several servers, with the channels of Litestar.

    pip install 'eventbus[litestar,redis]' uvicorn websockets
    EVENTBUS_URI=redis://localhost:6379/0 uvicorn litestar_chat:app --port 8001
    EVENTBUS_URI=redis://localhost:6379/0 uvicorn litestar_chat:app --port 8002

Open a websocket to ``/`` of each server: what one sends, all receive.
"""

import os
from typing import Any

from litestar import Litestar, WebSocket, websocket
from litestar.channels import ChannelsPlugin
from litestar.di import NamedDependency
from litestar.exceptions import WebSocketDisconnect

from eventbus_core.integrations.litestar import EventBusChannelsBackend


@websocket("/")
async def chat(socket: WebSocket[Any, Any, Any], channels: NamedDependency[ChannelsPlugin]) -> None:
    await socket.accept()
    async with channels.start_subscription("chatroom") as subscriber, subscriber.run_in_background(socket.send_text):
        await socket.send_text("you are in")
        try:
            while True:
                await channels.wait_published(await socket.receive_text(), "chatroom")
        except WebSocketDisconnect:
            pass


backend = EventBusChannelsBackend(os.environ.get("EVENTBUS_URI", "memory://"))
app = Litestar([chat], plugins=[ChannelsPlugin(backend, channels=["chatroom"])])
