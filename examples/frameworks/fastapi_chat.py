"""
A chat room on several server processes, with FastAPI: websockets that write, and server-sent events for readers.

    pip install 'eventbus[starlette,redis]' fastapi uvicorn websockets
    EVENTBUS_URI=redis://localhost:6379/0 uvicorn fastapi_chat:app --workers 3

Open a websocket to ``/chat/alice``, or read ``curl -N http://127.0.0.1:8000/listen/bob``.
"""

import os
from typing import Annotated

from fastapi import Depends, FastAPI, Path, WebSocket

import eventbus
from eventbus_core.integrations.starlette import ClientEventStream, get_bus, lifespan, serve_websocket

ROOM = "chat.lobby"
Bus = Annotated[eventbus.Bus, Depends(get_bus)]
Name = Annotated[str, Path(pattern=r"^[\w-]{1,24}$")]
app = FastAPI(lifespan=lifespan(os.environ.get("EVENTBUS_URI", "memory://"), drain=5.0))


@app.websocket("/chat/{name}")
async def chat(socket: WebSocket, name: Name, bus: Bus) -> None:
    client = bus.client(f"acme/{name}", linger=30.0)

    async def say(text: str | bytes) -> None:
        await client.publish(ROOM, text if isinstance(text, str) else text.decode(errors="replace"))

    await serve_websocket(socket, client, say, topics=[ROOM])


@app.get("/listen/{name}")
async def listen(name: Name, bus: Bus) -> ClientEventStream:
    return ClientEventStream(bus.client(f"acme/{name}", linger=30.0), topics=[ROOM])


@app.post("/tell/{name}")
async def tell(name: Name, text: str, bus: Bus) -> dict[str, bool]:
    try:
        await bus.send(f"acme/{name}", "chat.told", text)
    except eventbus.ClientNotFound:
        return {"told": False}
    return {"told": True}
