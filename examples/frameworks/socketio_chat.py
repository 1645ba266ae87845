"""
A chat room on several servers, with python-socketio.

    pip install 'eventbus[socketio,redis]' uvicorn websockets
    EVENTBUS_URI=redis://localhost:6379/0 uvicorn socketio_chat:app --port 8001
    EVENTBUS_URI=redis://localhost:6379/0 uvicorn socketio_chat:app --port 8002

Connect Socket.IO clients to both servers and emit ``say``: all receive ``said``.
"""

import os

import socketio

from eventbus_core.integrations.socketio import EventBusManager

manager = EventBusManager(os.environ.get("EVENTBUS_URI", "memory://"))
server = socketio.AsyncServer(async_mode="asgi", client_manager=manager)
app = socketio.ASGIApp(server, on_shutdown=manager.aclose)


async def connect(sid: str, environ: dict[str, object], auth: object) -> None:
    await server.enter_room(sid, "chatroom")


async def say(sid: str, text: str) -> None:
    await server.emit("said", text, room="chatroom")


server.on("connect", connect)
server.on("say", say)
