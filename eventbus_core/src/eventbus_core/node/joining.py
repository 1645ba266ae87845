"""Joining: learns the position of each session to the partitions that this node has just joined."""

from __future__ import annotations

from collections.abc import Sequence

from eventbus_core.backend import ALL_NODES, Directory, Partition, node_partition
from eventbus_core.concurrency.deadlines import Deadlines
from eventbus_core.concurrency.notifier import Notifier
from eventbus_core.membership.ownership import Ownership
from eventbus_core.membership.peer_directory.peer_directory import PeerDirectory
from eventbus_core.model.state import NodeState
from eventbus_core.routing.subscriptions import Subscriptions
from eventbus_core.session.registry import Sessions


class Joining:
    """Waits until events of other nodes arrive."""

    def __init__(
        self,
        state: NodeState,
        directory: Directory,
        ownership: Ownership,
        sessions: Sessions,
        subscriptions: Subscriptions,
        deadlines: Deadlines,
    ) -> None:
        self._state = state
        self._directory = directory
        self._ownership = ownership
        self._sessions = sessions
        self._subscriptions = subscriptions
        self._deadlines = deadlines
        self._own = [node_partition(ownership.node), ALL_NODES]
        self._asked = False
        self._answered = Notifier()
        sessions.when_answered(self._answered.notify)

    async def joined(self, partitions: Sequence[Partition]) -> None:
        """
        Return once nothing that is sent to *partitions*, which the transport has joined, is missed in silence.

        The first call waits for the partition of this node and that of all nodes, too. A node that hangs is asked for
        its positions for some seconds.

        Raises:
            TransportUnavailable: this node has not entered, or the directory cannot be reached.
        """
        self._ownership.check_entered()
        if isinstance(self._directory, PeerDirectory):
            await self._directory.met.wait()
        nodes = await self._directory.nodes()
        if not self._asked:
            self._asked = True
            partitions = [*self._own, *partitions]
        self._sessions.joined(partitions, nodes)
        while not all(map(self._sessions.knows_positions, partitions or self._own)):
            await self._answered.wait()

    async def subscribed(self, pattern: str | None = None) -> None:
        """
        Return once events that match *pattern*, or every pattern so far, arrive from other nodes.

        Raises:
            BusClosed: the bus is not open, or closes first.
        """
        self._state.check_waiting()
        if not self._ownership.entered:
            return  # there are no others, and this node waits for every lane before it joins them
        with self._deadlines.within(None):
            if pattern is None:
                await self._subscriptions.lanes.joined()
            else:
                await self._subscriptions.joined(pattern)
