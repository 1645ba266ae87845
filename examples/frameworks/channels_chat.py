"""
A chat room on several servers, with Django Channels.

    pip install 'eventbus[channels,redis]' uvicorn websockets
    EVENTBUS_URI=redis://localhost:6379/0 uvicorn channels_chat:app --port 8001
    EVENTBUS_URI=redis://localhost:6379/0 uvicorn channels_chat:app --port 8002

Open a websocket to ``/`` of each server: what one sends, all receive.
"""

import os

import django
from django.conf import settings

# In a project, this is in its settings.
settings.configure(
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    ROOT_URLCONF=__name__,
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": "eventbus_core.integrations.channels.EventBusChannelLayer",
            "CONFIG": {"uri": os.environ.get("EVENTBUS_URI", "memory://")},
        }
    },
)
django.setup()

from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.urls import path  # noqa: E402


class Chat(AsyncWebsocketConsumer):  # type: ignore[misc]
    groups = ("chatroom",)

    async def connect(self) -> None:
        await self.accept()
        await self.send("you are in")

    async def receive(self, text_data: str = "", bytes_data: bytes = b"") -> None:
        await self.channel_layer.group_send("chatroom", {"type": "said", "text": text_data})

    async def said(self, message: dict[str, str]) -> None:
        await self.send(message["text"])


urlpatterns: list[object] = []
app = ProtocolTypeRouter({"http": get_asgi_application(), "websocket": URLRouter([path("", Chat.as_asgi())])})
