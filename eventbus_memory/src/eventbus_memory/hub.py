"""What the nodes of one in-memory namespace share."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from time import monotonic

import attrs

from eventbus_core.backend import Frame, Owner, Partition, Terms
from eventbus_core.errors import ConfigurationError
from eventbus_memory.stream import Stream


@attrs.define
class Lease:
    """The lease of a node: for how long it was taken, when it ends, and the latest claim that took a client from it."""

    incarnation: int
    seconds: float
    ends: float
    last_loss: int = 0

    @property
    def left(self) -> float:
        """The seconds that are left, negative once it has ended."""
        return self.ends - monotonic()


@attrs.define(eq=False)
class Hub:
    """
    One namespace in this process.

    Attributes:
        thread: the one that all its nodes run in.
        members: who receives the frames of a partition.
        leases: of nodes that have not left, live or not.
        owners: by the latest claim of each client, of live nodes or not.
        terms: of the namespace.
        numbers: for incarnations and epochs.
        streams: the retained ones, those first to which nothing was appended for longest.
        users: transports that are open.
    """

    thread: int = attrs.field(factory=threading.get_ident)
    members: dict[Partition, dict[Callable[[Frame], None], None]] = attrs.field(factory=dict)
    leases: dict[str, Lease] = attrs.field(factory=dict)
    owners: dict[str, Owner] = attrs.field(factory=dict)
    terms: Terms | None = None
    numbers: itertools.count[int] = attrs.field(factory=lambda: itertools.count(1))
    streams: dict[str, Stream] = attrs.field(factory=dict)
    users: int = 0

    def alive(self, owner: Owner) -> bool:
        """Return whether *owner* is a live node, in the incarnation that made the claim."""
        lease = self.leases.get(owner.node)
        return lease is not None and lease.incarnation == owner.incarnation and lease.left > 0


_hubs: dict[tuple[str, str], Hub] = {}
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_hubs.clear)  # their nodes are in the parent


def enter_hub(name: str, namespace: str) -> Hub:
    """
    Return the hub of that name, made if this is its first user.

    Raises:
        ConfigurationError: its nodes run in another thread.
    """
    hub = _hubs.setdefault((name, namespace), Hub())
    if hub.thread != threading.get_ident():
        raise ConfigurationError(
            f"the nodes of memory://{name} run in another thread; "
            f"use one event loop for them all, or another name, or a broker"
        )
    hub.users += 1
    return hub


def leave_hub(name: str, namespace: str) -> None:
    """End one use of the hub; the last one ends the hub."""
    hub = _hubs[name, namespace]
    hub.users -= 1
    if not hub.users:
        del _hubs[name, namespace]
