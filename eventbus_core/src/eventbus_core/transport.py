"""What a backend implements: a transport that moves frames, and, if it can, a directory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, NamedTuple, NewType, Self

import anyio
import attrs
import msgspec

from eventbus_core.options import parse_options
from eventbus_core.uri import TransportURI

if TYPE_CHECKING:
    from eventbus_core.diagnosis import Finding

Partition = NewType("Partition", str)
"""
A lane of the transport: ``n:<node>``, ``l:<number>`` or ``all``.

A backend makes its channel's name of it and needs to know no more; the characters are
those of node ids (``A-Z a-z 0-9 _ - .``) and the one colon.
"""

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


class Interrupted(NamedTuple):
    """What a transport yields when frames may have been lost, for example after it connected anew."""

    reason: str


@attrs.frozen
class Capabilities:
    """
    What a transport promises beyond the least; the core and the conformance suite go by it.

    Attributes:
        ordered: frames of one sender to one partition arrive in the order they were published.
        durable: a frame that was published is not lost when a connection or the broker is.
        counts_receivers: :meth:`Transport.publish` tells how many receivers each frame had.
        cross_process: nodes of other processes can be reached.
        max_frame_size: bytes that a frame may have at the most.
    """

    ordered: bool = False
    durable: bool = False
    counts_receivers: bool = False
    cross_process: bool = True
    max_frame_size: int = 64 * 1024 * 1024


@attrs.frozen
class NoOptions:
    """The options of a transport that has none of its own."""


@attrs.frozen
class Terms:
    """What all nodes of a namespace must agree on; the first that enters sets them."""

    wire_version: int
    lanes: int


@attrs.frozen
class Owner:
    """The node, in its incarnation, that holds a client by its claim's epoch."""

    node: str
    incarnation: Annotated[int, msgspec.Meta(ge=0, le=2**62)]
    epoch: Annotated[int, msgspec.Meta(ge=0, le=2**62)]


@attrs.frozen
class Claim:
    """A claim that was granted: *client* is ours by *epoch*; *previous* held it last, and may be dead."""

    client: str
    epoch: int
    previous: Owner | None = None


@attrs.frozen
class Node:
    """A live node: its id, its incarnation, and the seconds its lease has left."""

    id: str
    incarnation: int
    lease_left: float


class Transport(ABC):
    """
    Moves frames between nodes by partition.

    It knows nothing of events, clients or topics, and promises little: a frame may be lost,
    doubled or overtaken (see :class:`Capabilities`), for the sessions above repair that. It
    heals its own connection and says with :class:`Interrupted` when it had to.

    Used as an async context manager, once. ``publish`` is never called while another
    ``publish`` runs, nor ``join`` or ``leave`` while another of the two does; ``receive`` is
    iterated once. Every method may be cancelled at every await, and may raise
    :class:`TransportUnavailable` when the broker is not there.

    Attributes:
        uri: where to connect; options that are none of the core's are in ``uri.options``.
        node: the id of the node that this transport serves.
        options: ``uri.options`` as an object of the class ``Options``.
        directory: who owns which client; ``None`` if the backend keeps no such record.
    """

    capabilities: ClassVar[Capabilities] = Capabilities()
    Options: ClassVar[type[Any]] = NoOptions
    directory: Directory | None = None

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
        """Return once every frame that is published to *partitions* from now on will arrive."""

    @abstractmethod
    async def leave(self, partitions: Sequence[Partition]) -> None:
        """End the arrival of frames from *partitions*; those under way may still come."""

    @abstractmethod
    async def publish(self, frames: Sequence[Frame]) -> Sequence[int] | None:
        """
        Hand *frames* to the broker, those of one partition in their order.

        Returns how many receivers each frame had, or ``None`` if that cannot be known. Zero is
        a fact; any other number is no receipt.

        Raises:
            TransportUnavailable: the broker may have taken any number of the frames, none included.
        """

    @abstractmethod
    def receive(self) -> AsyncIterator[Frame | Interrupted]:
        """Yield the frames of the joined partitions, our own included or not, until ``aclose``."""

    async def diagnose(self) -> list[Finding]:
        """
        Look whether the broker can serve us well, for ``eventbus doctor``; called instead of ``open``.

        As it stands it connects and measures the round trip of frames; a backend puts before that
        what only it can know. What is wrong is found, not raised.
        """
        from eventbus_core.diagnosis import try_out

        return await try_out(self)


class Directory(ABC):
    """
    Who owns which client, and which nodes are alive.

    Bulk calls answer in the order of what was asked, atomically per client. Liveness belongs
    to the node's lease, by the directory's own clock: the claims of a node end with its lease,
    and a claim has no life of its own. Every method may raise :class:`TransportUnavailable`.
    """

    @abstractmethod
    async def enter(self, node: str, lease: float, terms: Terms) -> int:
        """
        Enter *node* with a lease of so many seconds, and return its incarnation.

        Incarnations grow over the whole namespace: no two entries ever share one.

        Raises:
            NodeAlreadyPresent: a node of this id is alive.
            NamespaceMismatch: the namespace was founded with other terms.
        """

    @abstractmethod
    async def renew(self) -> bool:
        """Extend the lease; return ``False`` if it had ended, and all our claims with it."""

    @abstractmethod
    async def leave(self) -> None:
        """Release all that this node holds and end its lease; does nothing on successive calls."""

    @abstractmethod
    async def claim(self, clients: Sequence[str], takeover: bool) -> Sequence[Claim | Owner]:
        """
        Claim each client for this node with an epoch larger than any before.

        Returns a :class:`Claim` for each that is now ours. Without *takeover* a client that a live
        node holds, this one included, stays as it is, and its :class:`Owner` is returned instead.
        """

    @abstractmethod
    async def release(self, claims: Sequence[Claim]) -> None:
        """Give up each claim that is still ours by its epoch; others are left alone."""

    @abstractmethod
    async def locate(self, clients: Sequence[str]) -> Sequence[Owner | None]:
        """Return the live owner of each client, or ``None``."""

    @abstractmethod
    async def nodes(self) -> Sequence[Node]:
        """Return the live nodes."""

    @abstractmethod
    def clients(self, node: str | None = None) -> AsyncIterator[str]:
        """
        Yield the names of claimed clients (of *node*), a page at a time.

        What is claimed or released meanwhile may or may not be seen; nothing is yielded twice.
        """
