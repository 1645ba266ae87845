"""The messages of nodes that have no directory."""

from __future__ import annotations

from time import time_ns
from typing import Annotated, Final

import attrs
import msgspec

HEARTBEAT: Final = "$sys.alive"
LEAVING_NODE: Final = "$sys.gone"
QUERY: Final = "$sys.question"
REPLY: Final = "$sys.answer"
SUPERSEDED: Final = "$sys.superseded"

Stamp = Annotated[int, msgspec.Meta(ge=0, le=2**61)]
"""A number that grows beyond every credible one that this node has heard of."""
Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]

FOLLOWED: Final = 10 * 366 * 86_400 * 10**6
"""How far ahead of our clock, in microseconds, a stamp may be for ours to exceed it: a forged one must not take ours
out of the range that others can read."""
MAX_PART: Final = 1000
"""Clients in one query or reply at most; small frames hold fewer."""
CLIENT_SIZE: Final = 550
"""Bytes that are enough for a client in a reply: held and claimed, each with its name and epoch."""
QUERY_OVERHEAD: Final = 1536
"""Bytes that are enough for the frame of a query or reply without clients."""


def clock() -> int:
    """Return the clock from which stamps are made, in microseconds."""
    return time_ns() // 1000


@attrs.frozen
class Heartbeat:
    """The description of a node that it sends regularly, and with each query and reply."""

    node: str
    incarnation: Stamp
    lease: Seconds
    wire_version: int
    lanes: int
    retain: str = ""


@attrs.frozen
class Query:
    """
    Asks for the holders of *clients*, or of all if there are none; a claim names its *epochs*.

    The nodes in *known* need not reply: they did when this was asked before.
    """

    me: Heartbeat
    number: Stamp
    clients: list[str]
    epochs: list[Stamp] | None = None
    takeover: bool = False
    known: list[str] = attrs.field(factory=list)


@attrs.frozen
class Reply:
    """The clients that a node holds of those it was asked for, with their epochs; *more* says that others follow."""

    me: Heartbeat
    number: Stamp
    held: dict[str, Stamp]
    claiming: dict[str, Stamp]
    more: bool = False


@attrs.frozen
class Superseded:
    """Tells a node that holds or claims *client* by a smaller epoch that *node* has it now."""

    client: str
    epoch: Stamp
    node: str
