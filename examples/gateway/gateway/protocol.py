"""What pages and servers say to each other, and the one place where addresses are made."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

import eventbus

ROOMS: Final = 16
AWAY: Final = 60.0

Name = Annotated[str, Meta(pattern=r"\A[\w-]{1,24}\Z")]
Names = Annotated[set[Name], Meta(max_length=ROOMS)]
Scope = Literal["person", "room", "workspace"]


class Visit(Struct, eq=False):
    """Who connects, the rooms they are in, and for how many seconds they heard nothing before."""

    workspace: Name
    name: Name
    rooms: Names
    away: Annotated[float, Meta(ge=0, le=AWAY)]

    def address(self, scope: Scope, to: str = "") -> str:
        """Return where a message goes: whatever *to* is, never out of the workspace."""
        if scope == "person":
            return f"{self.workspace}/{to}"
        return f"room.{self.workspace}.{to}" if scope == "room" else f"workspace.{self.workspace}"

    @property
    def client(self) -> str:
        """What the visitor is called on the bus."""
        return self.address("person", self.name)

    @property
    def topics(self) -> set[str]:
        """What the visitor is subscribed to."""
        return {self.address("workspace"), *(self.address("room", room) for room in self.rooms)}


class Ask(Struct, tag=str.lower, tag_field="kind", forbid_unknown_fields=True):
    """What a page sends."""


class Say(Ask):
    """A page wants to send; what it does not hear to be accepted it sends again under the same id."""

    id: Annotated[str, Meta(pattern=r"\A[\w-]{1,40}\Z")]
    scope: Scope
    text: Annotated[str, Meta(min_length=1, max_length=2000)]
    to: Annotated[str, Meta(pattern=r"\A[\w-]{0,24}\Z")] = ""


class Rooms(Ask):
    """A page wants to be in these rooms, and in no other."""

    rooms: Names


class Tell(Struct, tag=str.lower, tag_field="kind"):
    """What a page is sent."""


class Message(Tell):
    """What was said; the server that accepted it stamps who sent it, the one that hands it out how it got there."""

    id: str
    scope: Scope
    to: str
    text: str
    sender: Name
    node: str
    at: float
    again: bool = False
    partition: str = ""


class Delivered(Tell):
    """A receipt for the sender of a message to a person: who gave it to the browser, and how it got there."""

    id: str
    node: str
    partition: str


class Accepted(Tell):
    """The bus has taken what the page said."""

    id: str


class Refused(Tell, omit_defaults=True):
    """What the page asked for is not done, and why; *later* it may be."""

    text: str
    id: str = ""
    later: bool = False


class Missed(Tell):
    """So many messages did not reach this server."""

    count: int


class Seen(Struct):
    """A server as a page sees it: where it is reached, and its visitors in the page's workspace with their rooms."""

    url: str
    clients: dict[str, set[str]]


class State(Tell):
    """How things are, as the server *node* sees them."""

    node: str
    bus: str
    servers: dict[str, Seen]
    stats: eventbus.Stats


class Here(Struct):
    """What a server tells all, twice a second: where browsers reach it, and the rooms of its visitors by workspace."""

    url: str
    workspaces: dict[str, dict[str, set[str]]]


ASKS: Final = msgspec.json.Decoder(Say | Rooms)
EVENTS: Final = msgspec.msgpack.Decoder(Message | Delivered)
