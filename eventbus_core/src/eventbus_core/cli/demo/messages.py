"""What the conductor of a demo and its nodes tell each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec
from anyio.streams.memory import MemoryObjectReceiveStream

from eventbus_core.cli.demo.plan import Plan
from eventbus_core.cli.demo.tally import Tally


class Message(msgspec.Struct, frozen=True, tag=True):
    """What they all have in common: the name of the class tells them apart."""


class Begin(Message, frozen=True):
    """To a child process, first of all: which node it is."""

    uri: str
    plan: Plan
    node: int

    def __repr__(self) -> str:  # without the URI, which may hold a password
        return f"Begin(plan={self.plan!r}, node={self.node!r})"


class Go(Message, frozen=True):
    """To all nodes: start sending at this monotonic time, in nanoseconds."""

    start: int


class Stop(Message, frozen=True):
    """To all nodes: stop sending, if you are; all else goes on as ever."""


class Expect(Message, frozen=True):
    """To all nodes: so many events each node has accepted for each receiver; wait for yours."""

    accepted: list[list[int]]


class Finish(Message, frozen=True):
    """To all nodes: everything has come, or will not come any more; report and leave."""


class Ready(Message, frozen=True):
    """From a node: its clients are claimed and its subscriptions are in place."""


class Progress(Message, frozen=True):
    """From a node, now and then: what it has sent and received so far."""

    sent: int
    delivered: int


class Sent(Message, frozen=True):
    """From a node: it has stopped, and accepted so many events for each receiver."""

    accepted: list[int]


class Settled(Message, frozen=True):
    """From a node: all that it expected has come, or nothing came for a while."""


class Result(Message, frozen=True):
    """From a node, last of all: what its checks have found."""

    tally: Tally


class Failed(Message, frozen=True):
    """From a node: it cannot take part, for an error that eventbus raised on purpose."""

    error: str


class Ended(Message, frozen=True):
    """In place of a node whose process has ended without a result."""

    status: int


Command: TypeAlias = Begin | Go | Stop | Expect | Finish
Report: TypeAlias = Ready | Progress | Sent | Settled | Result | Failed | Ended
Commands: TypeAlias = MemoryObjectReceiveStream[Command]
Tell: TypeAlias = Callable[[Report], None]
