"""A browser's part of the conversation, without the browser."""

from __future__ import annotations

import itertools
import json
import socket
import struct
import time
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote, urlencode

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.gateway.servers import DEADLINE, Gateway, until

_numbers: Final = itertools.count(1)


class Visitor:
    """A websocket to a gateway; within ``with`` it is open, and its client is on the bus."""

    def __init__(
        self, gateway: Gateway, workspace: str, name: str, *rooms: str, away: float = 0.0, since: str = ""
    ) -> None:
        query = urlencode([*(("room", room) for room in rooms), ("away", away), ("since", since)])
        self.name = name
        self.messages: list[dict[str, Any]] = []
        self.position = ""
        self.resumed: dict[str, Any] = {}
        url = f"{gateway.ws}/ws/{quote(workspace)}/{quote(name, safe='')}?{query}"
        self._connecting = connect(url, max_queue=None)  # reads and answers pings, however long the test reads nothing

    def __enter__(self) -> Self:
        self._socket = self._connecting.__enter__()
        try:
            self.state = self.next("state")
            if not self.resumed:
                self.next("resumed")
        except BaseException:
            self._socket.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connecting.__exit__(kind, error, trace)

    def send(self, text: str | bytes) -> None:
        self._socket.send(text)

    def ask(self, kind: str, **fields: object) -> None:
        self.send(json.dumps({"kind": kind, **fields}))

    def say(self, text: str, scope: str, to: str = "") -> dict[str, Any]:
        """Say it, and return the server's answer."""
        id = f"{self.name}-{next(_numbers)}"
        self.ask("say", id=id, scope=scope, to=to, text=text)
        while (answer := self.next("accepted", "refused")).get("id") != id:
            pass
        return answer

    def asks_in_vain(self, kind: str, **fields: object) -> bool:
        """Ask, and return whether the server refuses."""
        self.ask(kind, **fields)
        return bool(self.next("accepted", "refused")["kind"] == "refused")

    def next(self, *kinds: str) -> dict[str, Any]:
        """The next frame of one of *kinds*."""
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            frame: dict[str, Any] = json.loads(self._socket.recv(timeout=DEADLINE))
            self.position = frame.get("position") or self.position
            if frame["kind"] == "resumed":
                self.resumed = frame
            if frame["kind"] == "message":
                self.messages.append(frame)
            if frame["kind"] in kinds:
                return frame
        raise AssertionError(f"{self.name} waits for {kinds}; so far: {[message['text'] for message in self.messages]}")

    def read(self, *texts: str) -> list[str]:
        """Read until all of *texts* have come, and return the texts of all messages so far, sorted."""
        while not set(texts) <= {message["text"] for message in self.messages}:
            self.next("message")
        return sorted(message["text"] for message in self.messages)

    def sees(self, **where: set[str]) -> None:
        """Wait until exactly these people are shown on servers that answer; a server is written ``server_1``."""
        expected = {server.replace("_", "-"): people for server, people in where.items()}

        def shown() -> bool:
            servers = self.next("state")["servers"]
            return {node: set(here["clients"]) for node, here in servers.items() if not here["silent"]} == expected

        until(shown, f"{self.name} sees {expected}")

    def breaks(self) -> None:
        """Reset the connection, without a closing frame."""
        self._socket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.socket.close()

    def closed(self) -> tuple[int, str]:
        """The code and the reason with which the server closes."""
        try:
            self.next("nothing that comes")
        except ConnectionClosed as error:
            return _reason(error)
        raise AssertionError("the connection was not closed")


def turned_away(gateway: Gateway, workspace: str, name: str, *rooms: str, away: float = 0.0, since: str = "") -> int:
    """The code with which the server closes at once."""
    try:
        with Visitor(gateway, workspace, name, *rooms, away=away, since=since):
            return 0
    except ConnectionClosed as error:
        return _reason(error)[0]


def _reason(error: ConnectionClosed) -> tuple[int, str]:
    return (error.rcvd.code, error.rcvd.reason) if error.rcvd else (1006, "")
