"""What pages and servers say to each other, and the one place where addresses are made."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

ROOMS: Final = 16
AWAY: Final = 60.0

Name = Annotated[str, Meta(pattern=r"\A[\w-]{1,24}\Z")]
Scope = Literal["person", "room", "workspace"]


class Visit(Struct):
    """Who connects, the rooms they are in, and for how many seconds they heard nothing before."""

    workspace: Name
    name: Name
    rooms: Annotated[set[Name], Meta(max_length=ROOMS)]
    away: Annotated[float, Meta(ge=0, le=AWAY)]

    def address(self, scope: Scope, to: str = "") -> str:
        """Return where a message goes: whatever *to* is, never out of the workspace."""
        if scope == "person":
            return f"{self.workspace}/{to}"
        return f"room.{self.workspace}.{to}" if scope == "room" else f"workspace.{self.workspace}"


class Say(Struct, tag="say", tag_field="kind", forbid_unknown_fields=True):
    """A page wants to send; what it does not hear to be accepted it sends again under the same id."""

    id: Annotated[str, Meta(pattern=r"\A[\w-]{1,40}\Z")]
    scope: Scope
    text: Annotated[str, Meta(min_length=1, max_length=2000)]
    to: Annotated[str, Meta(pattern=r"\A[\w-]{0,24}\Z")] = ""


class Join(Struct, tag="join", tag_field="kind", forbid_unknown_fields=True):
    """A page wants to be in a room."""

    room: Name


class Leave(Struct, tag="leave", tag_field="kind", forbid_unknown_fields=True):
    """A page wants to be in a room no more."""

    room: Name


class Message(Struct, frozen=True):
    """What was said; all but *id*, *scope*, *to* and *text* is stamped by the server that accepted it."""

    id: str
    scope: Scope
    to: str
    text: str
    sender: str
    node: str
    at: float
    again: bool = False


class Receipt(Struct):
    """What the sender of a message to a person is told: who gave it to the browser, and how it got there."""

    id: str
    node: str
    partition: str


class Missed(Struct):
    """What a server asks all: send to *client* again what went to *addresses* in the last *away* seconds."""

    client: str
    addresses: list[str]
    away: float


class Here(Struct):
    """What a server tells all, every second: where browsers reach it, and its clients with their rooms."""

    url: str
    clients: dict[str, set[str]]


decode: Final = msgspec.json.Decoder(Say | Join | Leave).decode


def frame(kind: str, **fields: Any) -> str:
    """Return what a page is sent."""
    return msgspec.json.encode({"kind": kind, **fields}).decode()
