"""
The operations on buses, and programs made of them.

An operation that names something absent (a closed node, a client without an owner) does nothing, so every list
of operations is a program.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import attrs
from hypothesis import strategies as st

NODES = ("n0", "n1", "n2", "n3")
CLIENTS = ("alice", "bob", "acme/alice", "acme/bob")
TOPICS = ("a", "b", "a.b", "a.c", "a.b.c", "b.a")
PATTERNS = (*TOPICS, "*", ">", "a.*", "*.b", "a.>", "*.*", "a.*.c", "*.>", "z")


@attrs.frozen
class Open:
    """A node opens."""

    node: str


@attrs.frozen
class Close:
    """A node closes in good order."""

    node: str


@attrs.frozen
class ClaimClient:
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
    """A node removes the handler with this index."""

    which: int


@attrs.frozen
class Send:
    """Sends to a client; with *as_client*, a client of the sending node is the source, if it has one."""

    node: str
    client: str
    as_client: bool
    value: Any


@attrs.frozen
class SendNode:
    """Sends to a node."""

    node: str
    to: str
    type: str
    value: Any


@attrs.frozen
class Publish:
    """Publishes to a topic; *as_client* as for :class:`Send`."""

    node: str
    topic: str
    as_client: bool
    value: Any


@attrs.frozen
class Broadcast:
    """Broadcasts to every node."""

    node: str
    type: str
    include_self: bool
    value: Any


@attrs.frozen
class Emit:
    """Emits to the handlers of the node itself."""

    node: str
    type: str
    value: Any


@attrs.frozen
class Ask:
    """Sends a request to a client."""

    node: str
    client: str
    value: Any


@attrs.frozen
class AskNode:
    """Sends a request to a node."""

    node: str
    to: str
    type: str
    value: Any


@attrs.frozen
class Burst:
    """All nodes concurrently send to all clients and publish to the topic, *count* times."""

    topic: str
    count: int


Operation: TypeAlias = (
    Open
    | Close
    | ClaimClient
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
    st.builds(ClaimClient, _nodes, _clients, st.booleans() | st.just(True))
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
"""Lists of operations; at their start ``n0`` and ``n1`` are open."""
