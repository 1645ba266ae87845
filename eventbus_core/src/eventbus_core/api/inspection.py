"""What the bus tells about itself, other nodes, and the clients of the namespace."""

from __future__ import annotations

from collections.abc import AsyncIterator

from eventbus_core.backend import Node, Owner, Partition, lane_partition
from eventbus_core.concurrency.closing_iterator import closing_iterator
from eventbus_core.errors import OptionError
from eventbus_core.model.event import Event
from eventbus_core.model.names import check_client, check_identifier, check_topic
from eventbus_core.model.topics import lane_of
from eventbus_core.node.explanation import Explanation, explain
from eventbus_core.node.node import LocalNode
from eventbus_core.node.snapshot import Snapshots
from eventbus_core.observability.stats import Stats


class Inspection:
    """Tells about the node of the bus, and asks the directory and other nodes."""

    _node: LocalNode
    _snapshots: Snapshots

    @property
    def node(self) -> str:
        """The id of this node."""
        return self._node.id

    @property
    def address(self) -> str:
        """The address of this node, ``@node``, as other nodes can send to it."""
        return self._node.channel.address

    @property
    def state(self) -> str:
        """
        ``new``, ``open``, ``disconnected``, ``alone``, ``draining``, ``drained`` or ``closed``.

        When *disconnected* it is open, but cannot read, write or renew its lease. *Alone* it is open too, but the
        broker was not there at the start and ``wait_for_broker`` is off: it has not joined the others
        yet. Then sends, topics and broadcasts work within this node, and nothing of them is kept for
        others; what would ask about others raises :class:`TransportUnavailable`. From *draining* on it gives up its
        clients and claims none (see :meth:`Bus.drain`); all else works until it is closed.
        """
        return self._node.shown_state()

    @property
    def namespace(self) -> str:
        """The namespace that this node is in."""
        return self._node.options.namespace

    @property
    def max_event_size(self) -> int:
        """The bytes that the data and headers of an event may take: more raises :class:`EventTooLarge`."""
        return self._node.options.max_event_size

    async def locate(self, client: str) -> Owner | None:
        """Return the node that holds *client*, by the directory's word, or ``None``."""
        check_client(client)
        self._node.state.check_waiting()
        with self._node.deadlines.within(None):
            return await self._node.locator.locate(client)

    async def nodes(self) -> list[Node]:
        """Return the live nodes of the namespace, by id."""
        self._node.state.check_waiting()
        self._node.ownership.check_entered()
        with self._node.deadlines.within(None):
            return sorted(await self._node.directory.nodes(), key=lambda node: node.id)

    async def history(self, topic: str, *, limit: int = 100) -> list[Event]:
        """
        Return the latest *limit* events of a retained topic, oldest first, each with its position.

        Raises:
            TopicNotRetained: *topic* is not.
            OptionError: *limit* is not a positive number.
            TransportUnavailable: the history cannot be read now.
        """
        self._node.state.check_waiting()
        if limit < 1:
            raise OptionError.bad_value("limit", limit, "a whole number of at least 1")
        return await self._node.topics(topic).latest(topic, limit)

    def partition_of(self, topic: str) -> Partition:
        """
        Return the partition, a lane, by which events of *topic* go to other nodes.

        Raises:
            InvalidName: *topic* is none.
        """
        return lane_partition(lane_of(check_topic(topic), self._node.options.lanes))

    async def explain(self, client: str) -> Explanation:
        """Return where *client* is by the directory's word, and what this node believes."""
        check_client(client)
        self._node.state.check_waiting()
        with self._node.deadlines.within(None):
            return await explain(self._node, client)

    async def node_stats(self, node: str, *, timeout: float = 5.0) -> Stats:
        """
        Return what another *node* has counted so far.

        Raises:
            ClientNotFound: there is no such node.
            RequestTimeout: it did not answer in time.
        """
        return await self._snapshots.of(check_identifier("node", node), timeout)

    async def clients(self, node: str | None = None, *, prefix: str = "") -> AsyncIterator[str]:
        """
        Yield the names of all clients (of *node*) that begin with *prefix*, page by page.

        Clients claimed or released meanwhile may be missing.
        """
        self._node.state.check_waiting()
        self._node.ownership.check_entered()
        if node is not None:
            check_identifier("node", node)
        async with closing_iterator(self._node.directory.clients(node)) as found:
            while True:
                with self._node.deadlines.within(None):  # not around the yield: there the caller may do anything
                    client = await anext(found, None)
                if client is None:
                    return
                if client.startswith(prefix):
                    yield client

    def stats(self) -> Stats:
        """Return what the bus has counted so far."""
        return self._snapshots.take()
