"""
The bus as a few sets: what it must do, said so plainly that it can be checked by reading.

Programs of operations are drawn by :data:`programs`, told to a :class:`Model`, and carried out on
real buses by :mod:`eventbus_core.testing.world`. Whatever a program names that is not there (a closed node, a
client that nobody holds) makes the operation do nothing, so that every list of operations is one.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, TypeAlias

import attrs
from hypothesis import strategies as st

NODES = ("n0", "n1", "n2", "n3")
CLIENTS = ("alice", "bob", "acme/alice", "acme/bob")
TOPICS = ("a", "b", "a.b", "a.c", "a.b.c", "b.a")
PATTERNS = (*TOPICS, "*", ">", "a.*", "*.b", "a.>", "*.*", "a.*.c", "*.>", "z")

Receiver: TypeAlias = str
"""``handler 3``, or ``alice 7`` for the handle that the seventh claim made."""


@attrs.frozen
class Open:
    """A node comes."""

    node: str


@attrs.frozen
class Close:
    """A node goes in good order."""

    node: str


@attrs.frozen
class Claim:
    """A node claims a client."""

    node: str
    client: str
    takeover: bool


@attrs.frozen
class Release:
    """The handle of a client is closed."""

    client: str


@attrs.frozen
class Subscribe:
    """A client subscribes to a pattern."""

    client: str
    pattern: str


@attrs.frozen
class Unsubscribe:
    """A client ends a subscription."""

    client: str
    pattern: str


@attrs.frozen
class On:
    """A node registers a handler."""

    node: str
    pattern: str
    local: bool


@attrs.frozen
class Off:
    """A node removes a handler: that of this index."""

    which: int


@attrs.frozen
class Send:
    """To a client; in the name of a client of the sending node, if there is one and *as_client* says so."""

    node: str
    client: str
    as_client: bool
    value: Any


@attrs.frozen
class SendNode:
    """To a node."""

    node: str
    to: str
    type: str
    value: Any


@attrs.frozen
class Publish:
    """To a topic; *as_client* as for :class:`Send`."""

    node: str
    topic: str
    as_client: bool
    value: Any


@attrs.frozen
class Broadcast:
    """To every node."""

    node: str
    type: str
    include_self: bool
    value: Any


@attrs.frozen
class Emit:
    """To the handlers of the node itself."""

    node: str
    type: str
    value: Any


@attrs.frozen
class Ask:
    """A request to a client."""

    node: str
    client: str
    value: Any


@attrs.frozen
class AskNode:
    """A request to a node."""

    node: str
    to: str
    type: str
    value: Any


@attrs.frozen
class Burst:
    """All nodes at once send to all clients and publish the topic, *count* times."""

    topic: str
    count: int


Operation: TypeAlias = (
    Open
    | Close
    | Claim
    | Release
    | Subscribe
    | Unsubscribe
    | On
    | Off
    | Send
    | SendNode
    | Publish
    | Broadcast
    | Emit
    | Ask
    | AskNode
    | Burst
)

_nodes = st.sampled_from(NODES[:3]) | st.sampled_from(NODES)
_clients = st.sampled_from(CLIENTS)
_topics = st.sampled_from(TOPICS)
_patterns = st.sampled_from(PATTERNS)
_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.binary(max_size=20)
)
_values: st.SearchStrategy[Any] = st.none() | st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text("abcdé", max_size=4) | st.integers(-100, 100), inner, max_size=4)
    ),
    max_leaves=12,
)
_rare = (
    st.builds(Open, _nodes)
    | st.builds(Close, _nodes)
    | st.builds(Release, _clients)
    | st.builds(Unsubscribe, _clients, _patterns)
    | st.builds(Off, st.integers(0, 7))
    | st.builds(Burst, _topics, st.integers(1, 5))
)
_growth = (
    st.builds(Claim, _nodes, _clients, st.booleans() | st.just(True))
    | st.builds(Subscribe, _clients, _patterns)
    | st.builds(On, _nodes, _patterns, st.booleans())
)
_traffic = (
    st.builds(Send, _nodes, _clients, st.booleans(), _values)
    | st.builds(SendNode, _nodes, _nodes, _topics, _values)
    | st.builds(Publish, _nodes, _topics, st.booleans(), _values)
    | st.builds(Broadcast, _nodes, _topics, st.booleans(), _values)
    | st.builds(Emit, _nodes, _topics, _values)
    | st.builds(Ask, _nodes, _clients, _values)
    | st.builds(AskNode, _nodes, _nodes, _topics, _values)
)
programs: st.SearchStrategy[list[Operation]] = st.lists(_growth | _traffic | _rare, min_size=1, max_size=40)
"""Lists of operations, for buses of which ``n0`` and ``n1`` are open."""


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
