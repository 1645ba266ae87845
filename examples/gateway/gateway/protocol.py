"""The messages between pages and servers, and the only place that builds addresses."""

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
    """
    A visitor.

    Attributes:
        away: seconds since the page last heard a server.
        since: the position of the last message to everyone that the page has.
    """

    workspace: Name
    name: Name
    rooms: Names
    away: Annotated[float, Meta(ge=0, le=AWAY)]
    since: Annotated[str, Meta(max_length=64)] = ""

    def address(self, scope: Scope, to: str = "") -> str:
        """Return the address of a message; it stays in the workspace for every *to*."""
        if scope == "person":
            return f"{self.workspace}/{to}"
        return f"room.{self.workspace}.{to}" if scope == "room" else f"workspace.{self.workspace}"

    @property
    def client(self) -> str:
        """The visitor's client on the bus."""
        return self.address("person", self.name)

    @property
    def everyone(self) -> str:
        """The topic of the workspace, which is retained."""
        return self.address("workspace")

    @property
    def topics(self) -> set[str]:
        """The topics of the visitor's rooms."""
        return {self.address("room", room) for room in self.rooms}


class Ask(Struct, tag=str.lower, tag_field="kind", forbid_unknown_fields=True):
    """A message from a page."""


class Say(Ask):
    """A page sends a message; until the server accepts it, the page repeats it under the same id."""

    id: Annotated[str, Meta(pattern=r"\A[\w-]{1,40}\Z")]
    scope: Scope
    text: Annotated[str, Meta(min_length=1, max_length=2000)]
    to: Annotated[str, Meta(pattern=r"\A[\w-]{0,24}\Z")] = ""


class Rooms(Ask):
    """A page enters these rooms and leaves all others."""

    rooms: Names


class Tell(Struct, tag=str.lower, tag_field="kind"):
    """A message to a page."""


class Message(Tell):
    """A visitor's message; its first server stamps sender, node and time, its last server the partition."""

    id: str
    scope: Scope
    to: str
    text: str
    sender: Name
    node: str
    at: float
    again: bool = False
    partition: str = ""
    position: str = ""

    def receipt(self, node: str) -> Delivered:
        """Return what the sender gets once *node* has passed the message on."""
        return Delivered(self.id, node, self.partition)


class Delivered(Tell):
    """A receipt for the sender of a message to a person: the server that passed it on, and its partition."""

    id: str
    node: str
    partition: str


class Accepted(Tell):
    """The bus has accepted the page's message."""

    id: str


class Refused(Tell, omit_defaults=True):
    """A request was refused, and why; if *later* is set, the page may repeat it."""

    text: str
    id: str = ""
    later: bool = False


class Missed(Tell):
    """The number of messages that did not reach this server."""

    count: int


class Resumed(Tell):
    """
    What a page missed of the messages to everyone.

    Attributes:
        events: that many follow.
        missed: that many are gone, if *reason* is ``trimmed``; for others it cannot be known.
        position: where the page is, if nothing follows.
    """

    events: int = 0
    missed: int = 0
    reason: str = ""
    position: str = ""

    @classmethod
    def of(cls, answer: eventbus.Resumed | eventbus.Gap) -> Resumed:
        """Return what a page is told of *answer*; its position is in the messages that follow, if any do."""
        if isinstance(answer, eventbus.Resumed):
            return cls(answer.events, position="" if answer.events else answer.position)
        return cls(0, answer.missed, answer.reason, "" if answer.earliest else answer.position or "")


class Seen(Struct):
    """A server for a page: its address, its visitors in the workspace with their rooms, and whether it is silent."""

    url: str
    clients: dict[str, set[str]]
    silent: bool


class State(Tell):
    """The servers and visitors that the server *node* knows of, the state of its bus, and its counters."""

    node: str
    bus: str
    servers: dict[str, Seen]
    stats: eventbus.Stats


class Here(Struct):
    """What a server broadcasts twice a second: its address for browsers, and its visitors' rooms by workspace."""

    url: str
    workspaces: dict[str, dict[str, set[str]]]


ASKS: Final = msgspec.json.Decoder(Say | Rooms)
EVENTS: Final = msgspec.msgpack.Decoder(Message | Delivered)
