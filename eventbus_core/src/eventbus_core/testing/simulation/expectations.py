"""
The reference model: the bus as a few sets, simple enough to be checked by reading.

:mod:`eventbus_core.testing.simulation.world` applies each operation to the model and to real buses.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, TypeAlias

import attrs

Receiver: TypeAlias = str
"""``handler 3``, or ``alice 7`` for the handle that the seventh claim made."""


def matches(pattern: str, topic: str) -> bool:
    """Return whether *pattern* matches *topic*: ``*`` is one token, a final ``>`` one or more."""
    wanted, given = pattern.split("."), topic.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(given) <= len(wanted):
            return False
        given = given[: len(wanted)]
    return len(wanted) == len(given) and all(want in ("*", token) for want, token in zip(wanted, given, strict=True))


@attrs.frozen
class Letter:
    """One event as every receiver must get it; *node* is its sender."""

    number: int
    node: str
    source: str
    target: str
    type: str
    value: Any


@attrs.define
class Handle:
    """A claim that was granted, and the patterns of its client."""

    receiver: Receiver
    node: str
    patterns: set[str] = attrs.field(factory=set)


@attrs.frozen
class RegisteredHandler:
    """A function that a node has registered."""

    receiver: Receiver
    node: str
    pattern: str
    local: bool


@attrs.define
class Model:
    """
    The open nodes, the clients and handlers of each, and the events that each receiver must have got.

    Attributes:
        nodes: the open nodes.
        handles: by client.
        handlers: in the order of registration.
        mail: the events that each receiver must have got, in the order in which they were sent.
        ends: how the former handles must have ended: ``taken over`` or ``closed``.
        visited: the nodes that ever held a client; other nodes may still remember them as its owner.
    """

    nodes: set[str] = attrs.field(factory=set)
    handles: dict[str, Handle] = attrs.field(factory=dict)
    handlers: list[RegisteredHandler] = attrs.field(factory=list)
    mail: dict[Receiver, list[Letter]] = attrs.field(factory=lambda: defaultdict(list))
    ends: dict[Receiver, str] = attrs.field(factory=dict)
    visited: dict[str, set[str]] = attrs.field(factory=lambda: defaultdict(set))
    _claims: int = 0
    _registered: int = 0
    _letters: int = 0

    def open(self, node: str) -> None:
        """Open *node*."""
        self.nodes.add(node)

    def close(self, node: str) -> None:
        """Close *node*, with its clients and handlers."""
        self.nodes.discard(node)
        for client in [client for client, handle in self.handles.items() if handle.node == node]:
            self._end(client, "closed")
        self.handlers = [handler for handler in self.handlers if handler.node != node]

    def claim(self, node: str, client: str) -> Handle:
        """Move *client* to *node*."""
        if client in self.handles:
            self._end(client, "taken over")
        self._claims += 1
        self.visited[client].add(node)
        handle = self.handles[client] = Handle(f"{client} {self._claims}", node)
        return handle

    def release(self, client: str) -> None:
        """Release *client*."""
        self._end(client, "closed")

    def on(self, node: str, pattern: str, local: bool) -> RegisteredHandler:
        """Add a handler."""
        self._registered += 1
        handler = RegisteredHandler(f"handler {self._registered}", node, pattern, local)
        self.handlers.append(handler)
        return handler

    def letter(self, node: str, source: str, target: str, type: str, value: Any) -> Letter:
        """Return the next event."""
        self._letters += 1
        return Letter(self._letters, node, source, target, type, value)

    def send(self, letter: Letter) -> bool:
        """Deliver to the client that is the target; return whether a node holds it."""
        handle = self.handles.get(letter.target)
        if handle is not None:
            self.mail[handle.receiver].append(letter)
        return handle is not None

    def send_node(self, letter: Letter, to: str) -> int:
        """Deliver to the handlers of a node; return how many there are."""
        return self._deliver(letter, self._handlers(letter.type, at={to}))

    def publish(self, letter: Letter) -> int:
        """Deliver to every subscriber; return how many there are."""
        handles = [
            handle.receiver
            for handle in self.handles.values()
            if any(matches(pattern, letter.type) for pattern in handle.patterns)
        ]
        here = self._locals(letter)
        return self._deliver(letter, handles + self._handlers(letter.type, at=self.nodes) + here)

    def broadcast(self, letter: Letter, include_self: bool) -> int:
        """Deliver to the handlers of every node; return how many there are."""
        at = self.nodes if include_self else self.nodes - {letter.node}
        return self._deliver(
            letter, self._handlers(letter.type, at=at) + (self._locals(letter) if include_self else [])
        )

    def emit(self, letter: Letter) -> int:
        """Deliver to the handlers of the sending node; return how many there are."""
        return self._deliver(letter, self._handlers(letter.type, at={letter.node}) + self._locals(letter))

    def _end(self, client: str, how: str) -> None:
        self.ends[self.handles.pop(client).receiver] = how

    def _handlers(self, type: str, at: set[str]) -> list[Receiver]:
        return [
            handler.receiver
            for handler in self.handlers
            if handler.node in at and not handler.local and matches(handler.pattern, type)
        ]

    def _locals(self, letter: Letter) -> list[Receiver]:
        return [
            handler.receiver
            for handler in self.handlers
            if handler.node == letter.node and handler.local and matches(handler.pattern, letter.type)
        ]

    def _deliver(self, letter: Letter, receivers: list[Receiver]) -> int:
        for receiver in receivers:
            self.mail[receiver].append(letter)
        return len(receivers)
