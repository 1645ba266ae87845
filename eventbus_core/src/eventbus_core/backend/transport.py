"""The transport of a backend: it moves frames, and has a directory and a history if the backend can keep them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, ClassVar, Final, Literal, NamedTuple, NewType, Self, TypeAlias

import anyio
import attrs

from eventbus_core.backend.directory import Directory
from eventbus_core.backend.finding import Finding
from eventbus_core.backend.history import History
from eventbus_core.backend.uri import TransportURI
from eventbus_core.errors import ConfigurationError
from eventbus_core.options import parse_options

Partition = NewType("Partition", str)
"""
A lane of the transport: ``n:<node>``, ``l:<number>`` or ``all``.

A backend derives the name of a channel from it, and need not know more. The characters are
those of node ids (``A-Z a-z 0-9 _ - .``) and the one colon.
"""

Outcome: TypeAlias = Callable[[], Awaitable[Sequence[int] | None]]
"""Waits for the outcome of a write: returns and raises what :meth:`Transport.publish` does. Called once."""

Role: TypeAlias = Literal["node", "observer", "doctor"]
"""What a user of the broker does: runs a node, looks at the bus by commands, or checks the broker."""

MIN_FRAME_SIZE: Final = 4096
"""The smallest ``max_frame_size``; some of the bus's own messages take most of it."""

ALL_NODES: Final = Partition("all")


def node_partition(node: str) -> Partition:
    """Return the partition that *node* alone joins."""
    return Partition(f"n:{node}")


def lane_partition(lane: int) -> Partition:
    """Return the partition of a topic lane."""
    return Partition(f"l:{lane}")


class Frame(NamedTuple):
    """The bytes that go to, or came from, a partition; opaque to a transport."""

    partition: Partition
    data: bytes


class Disconnected(NamedTuple):
    """
    What a transport may yield when it cannot read for now; :class:`Interrupted` follows once it can.

    A backend that never yields it is correct, but its nodes do not know that they receive nothing.

    Attributes:
        reason: why, for the application.
        partitions: those that cannot be read; ``None``: all that are joined.
    """

    reason: str
    partitions: Sequence[Partition] | None = None


class Interrupted(NamedTuple):
    """
    Yielded by a transport when frames may have been lost, for example after it connected again.

    Attributes:
        reason: why, for logs.
        partitions: those of which frames may have been lost, and which can be read again; ``None``: all that are
            joined. The core treats all others as undisturbed.
    """

    reason: str
    partitions: Sequence[Partition] | None = None


@attrs.frozen
class Capabilities:
    """
    The promises of a transport beyond the minimum; the core and the conformance suite rely on them.

    Attributes:
        ordered: frames of one sender to one partition arrive in the order they were published.
        durable: a frame that was published is not lost when a connection or the broker is.
        counts_receivers: :meth:`Transport.publish` tells how many receivers each frame had.
        cross_process: nodes of other processes can be reached.
        history: the transport has a :class:`History`.
        max_frame_size: the largest frame in bytes that the transport can carry, at least 4,096. An event's data and
            headers may take 2,048 bytes less.
    """

    ordered: bool = False
    durable: bool = False
    counts_receivers: bool = False
    cross_process: bool = True
    history: bool = False
    max_frame_size: int = 64 * 1024 * 1024


@attrs.frozen
class NoOptions:
    """The options of a transport that has none of its own."""


class Transport(ABC):
    """
    Moves frames between nodes by partition.

    It knows nothing of events, clients or topics, and promises little: a frame may be lost,
    doubled or overtaken (see :class:`Capabilities`), for the sessions above repair that. It
    heals its own connection and says with :class:`Interrupted` when it had to.

    Used as an async context manager, once. ``publish`` is never called while another
    ``publish`` of the same :meth:`route` runs, nor ``join`` or ``leave`` while another of the two
    does; ``receive`` is iterated once. Every method may be cancelled at every await, and may raise
    :class:`TransportUnavailable` when the broker is not there, and
    :class:`ConfigurationError` while it refuses until its configuration changes. If it
    refuses only some partitions, ``join`` and ``publish`` may raise
    :class:`PartitionRefused` from ``eventbus_core.errors``: the core goes on with the others.

    Attributes:
        uri: where to connect; options that are none of the core's are in ``uri.options``.
        node: the id of the node that this transport serves.
        options: ``uri.options`` as an object of the class ``Options``.
        directory: who owns which client; ``None`` if the backend keeps no such record.
        history: the latest events of retained streams; ``None`` if the backend keeps none.
    """

    capabilities: ClassVar[Capabilities] = Capabilities()
    Options: ClassVar[type[Any]] = NoOptions
    directory: Directory | None = None
    history: History | None = None

    def __init__(self, uri: TransportURI, node: str) -> None:
        self.uri = uri
        self.node = node
        self.options: Any = parse_options(self.Options, uri.options)

    async def __aenter__(self) -> Self:
        try:
            await self.open()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    @abstractmethod
    async def open(self) -> None:
        """
        Connect; ``aclose`` follows whether or not this succeeds.

        With ``wait_for_broker=False`` a transport that finds no broker is closed, and others of its
        class are made and opened until one does.

        Raises:
            TransportUnavailable: the broker cannot be reached.
            ConfigurationError: it can, but never will serve us: a wrong password, too old a version.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Disconnect and end ``receive``; does nothing on successive calls. Works while others are blocked."""

    @abstractmethod
    async def join(self, partitions: Sequence[Partition]) -> None:
        """
        Return once every frame that is published to *partitions* from now on will arrive.

        Raises:
            PartitionRefused: the broker refuses some of *partitions*; none of them was joined by this call.
        """

    @abstractmethod
    async def leave(self, partitions: Sequence[Partition]) -> None:
        """End the arrival of frames from *partitions*; frames in flight may still arrive."""

    @abstractmethod
    async def publish(self, frames: Sequence[Frame]) -> Sequence[int] | None:
        """
        Hand *frames* to the broker, those of one partition in their order.

        All *frames* are of one :meth:`route`, as it is when the call is made. Calls for different routes run beside
        each other; a call that raised is repeated, for each route that its partitions have then.

        Returns how many receivers each frame had, or ``None`` if that cannot be known. Zero is
        a fact; any other number is no receipt.

        Raises:
            TransportUnavailable: the broker may have taken any number of the frames, none included.
            PartitionRefused: the broker refuses the frames whose entry in ``receivers`` is -1, and has taken the
                others.
        """

    def begin_publish(self, frames: Sequence[Frame]) -> Outcome | None:
        """
        Write *frames* now, and return what waits for the outcome; ``None`` if :meth:`publish` must be called instead.

        Does not suspend and raises nothing. Called instead of ``publish``, under the same conditions, for the frame of
        a single event while no other event is to be published on the route: so that event does not wait for a turn of
        the event loop. A write that has begun runs until its outcome is known.
        """
        return None

    def route(self, partition: Partition) -> str:
        """
        Return the name of the server that carries *partition* now; does no I/O and raises nothing.

        A transport with several servers overrides this. The core queues and publishes the frames of each route apart,
        so that a server that hangs or is down stalls its own partitions only. The answer may change at any time, also
        while a ``publish`` runs; ``publish`` should raise then, unless the former server takes the frames. Before
        ``open``, any name will do. Operators are shown the name, so it should hold the address of the server.
        """
        return ""

    @abstractmethod
    def receive(self) -> AsyncIterator[Frame | Interrupted | Disconnected]:
        """Yield the frames of the joined partitions, our own included or not, until ``aclose``."""

    def access_rules(self, role: Role, node: str) -> Mapping[str, str]:
        """
        Return the least rights of a user, as the broker's access list says them, by the servers that they are for.

        Does no I/O; called on a transport that is not opened. *node* is the id of the user's node, in which ``*``
        stands for any text.

        Raises:
            ConfigurationError: this backend has no access list.
        """
        raise ConfigurationError(f"{self.uri.scheme}:// has no users, and so no rights to grant")

    async def diagnose(self) -> list[Finding]:
        """
        Return what only this backend can find out about its broker, for ``eventbus doctor``.

        Called instead of ``open``, on a transport that is not used for anything else. What is wrong with the broker is
        a finding; only a failed connection is raised. The command itself measures the round trip of frames.

        Raises:
            TransportUnavailable, ConfigurationError: see :meth:`open`.
        """
        return []
