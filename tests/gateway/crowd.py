"""Many visitors at once, each a websocket that connects again elsewhere, and what they sent and got."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from contextlib import suppress
from time import monotonic
from typing import Any, Final

import anyio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.gateway.servers import Gateway

HINT: Final = re.compile(r"retry-after=([\d.]+)")
PAUSE: Final = 0.25
"""Seconds after which a visitor without a hint connects again, as the page does at first."""


class Guest:
    """
    A visitor who writes to others, and moves on when its server says so or breaks the connection.

    Attributes:
        at: the name of the server that it is connected to, or nothing.
        sent: the ids of messages that a server has accepted.
        got: how often each message came.
        refused: why servers refused messages.
        arrivals: when it came to which server, and how long it had been without one beyond the hint it was given.
        closes: how servers closed its connection: the code, and whether they gave a hint when to connect again.
    """

    def __init__(self, workspace: str, name: str, gateways: list[Gateway], home: Gateway) -> None:
        self.workspace = workspace
        self.name = name
        self.at = ""
        self.sent: list[str] = []
        self.got: Counter[str] = Counter()
        self.refused: list[str] = []
        self.arrivals: list[tuple[float, str, float]] = []
        self.closes: list[tuple[int, bool]] = []
        self._gateways = gateways
        self._home = home
        self._waiting: dict[str, tuple[str, str]] = {}
        self._socket: ClientConnection | None = None
        self._numbers = 0

    async def run(self) -> None:
        """Be connected until cancelled."""
        expected = monotonic()
        while True:
            hint = 0.0
            try:
                url = f"{self._home.ws}/ws/{self.workspace}/{self.name}?away=0"
                async with connect(url, max_queue=None, compression=None, open_timeout=60) as socket:
                    await self._read(socket, expected)
            except ConnectionClosed as error:
                code, reason = (error.rcvd.code, error.rcvd.reason) if error.rcvd else (1006, "")
                found = HINT.search(reason)
                self.closes.append((code, found is not None))
                hint = float(found.group(1)) if found else PAUSE
            except (OSError, InvalidHandshake, TimeoutError):
                hint = PAUSE
            self._socket, self.at = None, ""
            expected = monotonic() + hint
            await anyio.sleep(hint)
            self._home = random.choice([gateway for gateway in self._gateways if gateway is not self._home])

    async def say(self, to: str) -> None:
        """Write to *to*; until a server accepts it, it is repeated with each connection."""
        self._numbers += 1
        id = f"{self.name}-{self._numbers}"
        self._waiting[id] = to, id
        if self._socket is not None:
            await self._tell(self._socket, id)

    @property
    def settled(self) -> bool:
        """Whether a server has accepted or refused each message."""
        return not self._waiting

    async def _read(self, socket: ClientConnection, expected: float) -> None:
        ready = False
        async for text in socket:
            frame: dict[str, Any] = json.loads(text)
            if not ready:
                ready, self._socket, self.at = True, socket, self._home.name
                self.arrivals.append((monotonic(), self.at, monotonic() - expected))
                for id in list(self._waiting):
                    await self._tell(socket, id)
            if frame["kind"] == "message":
                self.got[frame["id"]] += 1
            elif frame["kind"] == "accepted" and self._waiting.pop(frame["id"], None):
                self.sent.append(frame["id"])
            elif frame["kind"] == "refused" and not frame.get("later") and self._waiting.pop(frame["id"], None):
                self.refused.append(frame["text"])

    async def _tell(self, socket: ClientConnection, id: str) -> None:
        to, text = self._waiting[id]
        with suppress(ConnectionClosed):  # then it is repeated with the next connection
            await socket.send(json.dumps({"kind": "say", "id": id, "scope": "person", "to": to, "text": text}))
