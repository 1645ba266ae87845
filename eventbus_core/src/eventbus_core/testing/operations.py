"""
What can be done with buses, and programs of it.

Whatever an operation names that is not there (a closed node, a client that nobody holds) makes it
do nothing, so that every list of operations is a program.
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
