"""The messages between the conductor of a run and its nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec
from anyio.streams.memory import MemoryObjectReceiveStream

from eventbus_core.cli.demo.plan import Plan
from eventbus_core.cli.demo.tally import Tally


class DemoMessage(msgspec.Struct, frozen=True, tag=True):
    """The base of all messages; its tag is the name of the class."""


class Begin(DemoMessage, frozen=True):
    """The first message to a child process: the run, and the number of its node."""

    uri: str
    plan: Plan
    node: int

    def __repr__(self) -> str:  # without the URI, which may contain a password
        return f"Begin(plan={self.plan!r}, node={self.node!r})"


class Go(DemoMessage, frozen=True):
    """To all nodes: start to send at this monotonic time, in nanoseconds."""

    start: int


class Stop(DemoMessage, frozen=True):
    """To all nodes: stop sending; the later phases follow as usual."""


class Expect(DemoMessage, frozen=True):
    """To all nodes: how many events each node accepted for each receiver; wait for those of your receivers."""

    accepted: list[list[int]]


class Finish(DemoMessage, frozen=True):
    """To all nodes: no more events are awaited; report and close."""


class NodeReady(DemoMessage, frozen=True):
    """From a node: its clients are claimed and its subscriptions are active."""


class Progress(DemoMessage, frozen=True):
    """From a node, at intervals: the events that it has sent and received so far."""

    sent: int
    delivered: int


class Sent(DemoMessage, frozen=True):
    """From a node: it has stopped sending; its bus accepted this many events for each receiver."""

    accepted: list[int]


class Settled(DemoMessage, frozen=True):
    """From a node: all expected events have arrived, or no event arrived for a while."""


class NodeResult(DemoMessage, frozen=True):
    """The last message from a node: the result of its checks."""

    tally: Tally


class Failed(DemoMessage, frozen=True):
    """From a node: it cannot take part; *error* is the message of an EventBusError."""

    error: str


class Ended(DemoMessage, frozen=True):
    """In place of a node whose process ended: its exit status."""

    status: int


Command: TypeAlias = Begin | Go | Stop | Expect | Finish
Report: TypeAlias = NodeReady | Progress | Sent | Settled | NodeResult | Failed | Ended
Commands: TypeAlias = MemoryObjectReceiveStream[Command]
Tell: TypeAlias = Callable[[Report], None]
