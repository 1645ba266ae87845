"""
The bus as a few sets: what it must do, said so plainly that it can be checked by reading.

:mod:`eventbus_core.testing.world` tells it each operation, and carries the operation out on real buses.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, TypeAlias

import attrs

Receiver: TypeAlias = str
"""``handler 3``, or ``alice 7`` for the handle that the seventh claim made."""


def matches(pattern: str, topic: str) -> bool:
    """The rule: ``*`` is one token, a last ``>`` one or more."""
    wanted, given = pattern.split("."), topic.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(given) <= len(wanted):
            return False
        given = given[: len(wanted)]
    return len(wanted) == len(given) and all(want in ("*", token) for want, token in zip(wanted, given, strict=True))


@attrs.frozen
class Letter:
    """What one event must look like to each who gets it; *node* is the one that sent it."""

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
class Handler:
    """A function that a node has registered."""

    receiver: Receiver
    node: str
    pattern: str
    local: bool


@attrs.define
class Model:
    """
    Who is where, and who must have got what.

    Attributes:
        nodes: that are open.
        handles: by the client that each holds.
        handlers: in the order in which they were registered.
        mail: what each receiver must have got, in the order in which it was sent.
        ends: how the handles that are over must have ended: ``taken over`` or ``closed``.
        visited: by which nodes a client was ever held, so that others may still believe in them.
    """

    nodes: set[str] = attrs.field(factory=set)
    handles: dict[str, Handle] = attrs.field(factory=dict)
    handlers: list[Handler] = attrs.field(factory=list)
    mail: dict[Receiver, list[Letter]] = attrs.field(factory=lambda: defaultdict(list))
    ends: dict[Receiver, str] = attrs.field(factory=dict)
    visited: dict[str, set[str]] = attrs.field(factory=lambda: defaultdict(set))
    _claims: int = 0
    _registered: int = 0
    _letters: int = 0

    def open(self, node: str) -> None:
        """Let *node* come."""
        self.nodes.add(node)

    def close(self, node: str) -> None:
        """Let *node* go, with all that it holds."""
        self.nodes.discard(node)
        for client in [client for client, handle in self.handles.items() if handle.node == node]:
            self._end(client, "closed")
        self.handlers = [handler for handler in self.handlers if handler.node != node]

    def claim(self, node: str, client: str) -> Handle:
        """Give *client* to *node*, whoever held it."""
        if client in self.handles:
            self._end(client, "taken over")
        self._claims += 1
        self.visited[client].add(node)
        handle = self.handles[client] = Handle(f"{client} {self._claims}", node)
        return handle

    def release(self, client: str) -> None:
        """Let nobody hold *client*."""
        self._end(client, "closed")

    def on(self, node: str, pattern: str, local: bool) -> Handler:
        """Add a handler."""
        self._registered += 1
        handler = Handler(f"handler {self._registered}", node, pattern, local)
        self.handlers.append(handler)
        return handler

    def letter(self, node: str, source: str, target: str, type: str, value: Any) -> Letter:
        """Return the next event."""
        self._letters += 1
        return Letter(self._letters, node, source, target, type, value)

    def send(self, letter: Letter) -> bool:
        """Deliver to the client that is the target; return whether anybody holds it."""
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
