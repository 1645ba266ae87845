"""The optional half of a backend: which node owns which client, and which nodes are alive."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence

import attrs

from eventbus_core.model.numbers import Number


@attrs.frozen
class Terms:
    """
    The settings that all nodes of a namespace must share; the first node that enters sets them.

    Attributes:
        wire_version: the version of the frames.
        lanes: the number of topic lanes.
        retain: the retained topics as text; a directory whose backend has no history need not keep it.
        seals: texts without spaces that stand for the secrets of the entering node, at most a few; empty for a node
            without a secret. The directory keeps ``seal``, refuses a node to which :meth:`may_follow` does not
            apply, and then keeps the seal of the node that has entered: so a secret can be replaced by another while
            nodes have both. A directory that ignores all this is correct too: nodes with different secrets then find
            out by the frames of the others, which they reject and log.
    """

    wire_version: int
    lanes: int
    retain: str = ""
    seals: tuple[str, ...] = ()

    @property
    def seal(self) -> str:
        """The first of ``seals``, or nothing."""
        return self.seals[0] if self.seals else ""

    def may_follow(self, kept: str) -> bool:
        """Return whether a node with these terms may enter where the directory keeps the seal *kept*."""
        return kept in self.seals if self.seals else not kept


@attrs.frozen
class Owner:
    """
    The node, in its incarnation, that holds a client by its claim's epoch.

    Attributes:
        node, incarnation, epoch: the claim.
        seal: what :meth:`Directory.attach` stored with it, or nothing.
    """

    node: str
    incarnation: Number
    epoch: Number
    seal: str = ""


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


class Directory(ABC):
    """
    The record of which node owns which client, and of the live nodes.

    Bulk calls answer in the order of what was asked, atomically per client. Liveness belongs
    to the node's lease, by the directory's own clock: the claims of a node end with its lease,
    and a claim has no life of its own. Every method may raise :class:`TransportUnavailable`.

    Attributes:
        keeps_seals: whether :meth:`attach` is implemented. If not, the rows of a namespace with a secret are believed
            as they are.
    """

    keeps_seals: bool = False

    @property
    def last_loss(self) -> int | None:
        """
        The epoch of the latest claim that took a client from this node since it entered, as of the last renewal.

        0 if no client was taken from it; ``None`` if the directory does not know. A node that may have missed messages
        renews its lease, and asks for its clients only if this has changed: so a directory that knows spares it many
        questions.
        """
        return None

    @abstractmethod
    async def enter(self, node: str, lease: float, terms: Terms) -> int:
        """
        Enter *node* with a lease of so many seconds, and return its incarnation.

        Incarnations grow over the whole namespace: no two entries ever share one.

        Raises:
            NodeAlreadyPresent: a node of this id is alive.
            NamespaceMismatch: the first node of the namespace entered with other terms.
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

    async def attach(self, claims: Sequence[Claim], seals: Sequence[str]) -> None:
        """
        Store each of *seals* with its claim, if it is still ours by its epoch; others are left alone.

        From then on the claim's :class:`Owner` has it, in every answer. A seal is text of at most 600 characters of
        ``A-Z a-z 0-9 _ - =``. It replaces an earlier one, and ends with the claim. Called in namespaces with a secret
        only, and only if ``keeps_seals`` is true.
        """
        raise NotImplementedError

    @abstractmethod
    async def locate(self, clients: Sequence[str]) -> Sequence[Owner | None]:
        """Return the live owner of each client, or ``None``."""

    async def confirm(self, claims: Sequence[Claim]) -> Sequence[bool]:
        """
        Return for each claim of this node whether the client is still ours by it.

        Nodes ask for each client that they hold, about once in two leases. Override it if there is a cheaper way than
        :meth:`locate`, which answers here.
        """
        owners = await self.locate([claim.client for claim in claims])
        return [owner is not None and owner.epoch == claim.epoch for claim, owner in zip(claims, owners, strict=True)]

    @abstractmethod
    async def nodes(self) -> Sequence[Node]:
        """Return the live nodes."""

    @abstractmethod
    def clients(self, node: str | None = None) -> AsyncIterator[str]:
        """
        Yield the names of claimed clients (of *node*), a page at a time.

        What is claimed or released meanwhile may or may not be seen; nothing is yielded twice.
        """
