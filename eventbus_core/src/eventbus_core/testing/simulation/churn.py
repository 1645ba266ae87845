"""Churn: nodes freeze, recover and die, while clients move and events are sent to them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TypeAlias

import attrs
from anyio.abc import TaskGroup
from hypothesis import strategies as st

from eventbus_core.errors import ClientNotFound, ClientTakenOver, TransportUnavailable
from eventbus_core.model.reports import Undeliverable
from eventbus_core.testing.inbox import Reader, read
from eventbus_core.testing.simulation.cut_links import CuttableNode, cuttable_buses
from eventbus_core.testing.waiting import tasks, until

EXPIRING_LEASE = 1.0
LASTING_LEASE = 60.0
STALLING = 5  # deadlines: a machine that stalls for longer than a lease ends leases again and again


@attrs.frozen
class TakeClient:
    """A node claims a client, from its present owner if it has one."""

    node: int
    client: str


@attrs.frozen
class FreezeNode:
    """A node is cut off from the broker."""

    node: int


@attrs.frozen
class ThawNode:
    """A frozen node reaches the broker again."""

    node: int


@attrs.frozen
class SendNext:
    """The first node, which never freezes, sends the next number to a client."""

    client: str


Step: TypeAlias = TakeClient | FreezeNode | ThawNode | SendNext

_nodes = st.integers(1, 3)
_clients = st.sampled_from(("alice", "bob"))
churn_steps: st.SearchStrategy[list[Step]] = st.lists(
    st.builds(TakeClient, _nodes, _clients)
    | st.builds(FreezeNode, _nodes)
    | st.builds(ThawNode, _nodes)
    | st.builds(SendNext, _clients)
    | st.builds(SendNext, _clients),
    min_size=4,
    max_size=14,
)
"""Lists of steps for four nodes; at their start the second node holds a client, and the first node knows it."""
deaths = st.sets(_nodes, max_size=2)
"""The nodes that die in the end."""


class Churn:
    """
    Four nodes that go through a list of steps, with a record of the results; see :func:`carry_out_steps`.

    With *deaths* leases are short. Frozen nodes lose their leases, and a client may have no owner for a while. If a
    client had moved, events that a dying node was about to forward may die with it.
    """

    def __init__(self, nodes: Sequence[CuttableNode], group: TaskGroup, deaths: set[int]) -> None:
        self._nodes = nodes
        self._group = group
        self._deaths = deaths
        self._readers: dict[str, list[Reader]] = defaultdict(list)  # of each claim, in their order
        self._holders: dict[str, list[int]] = defaultdict(list)  # the nodes that made them
        self._sent: dict[int, tuple[str, int]] = {}  # to which client, and how many claims of it had been made by then
        self._reported: list[Undeliverable] = []
        nodes[0].bus.on_undeliverable(self._reported.append)

    async def do(self, step: Step) -> None:
        """Carry out *step*; a frozen node claims nothing, and nothing is sent to a client that was never claimed."""
        if isinstance(step, SendNext):
            await self._send(step.client)
            return
        node = self._nodes[step.node]
        if isinstance(step, ThawNode) and node.transport.link.is_cut:
            node.transport.restore()
        elif isinstance(step, FreezeNode):
            node.transport.cut()
        elif isinstance(step, TakeClient) and not node.transport.link.is_cut:
            try:
                client = await node.bus.client(step.client).__aenter__()
            except TransportUnavailable:
                assert self._deaths, "a claim was refused"
                return
            self._readers[step.client].append(read(self._group, client))
            self._holders[step.client].append(step.node)

    async def finish(self) -> None:
        """End the nodes that have to die, restore the others, and check that each event was handled or reported."""
        for number, node in enumerate(self._nodes):
            if number in self._deaths:
                node.transport.cut()
            elif node.transport.link.is_cut:
                node.transport.restore()
        fates = f"all of {sorted(self._sent)} were handled or reported: {self}"
        await until(lambda: not self._missing(), fates, times=STALLING)
        if not self._deaths:
            for readers in self._readers.values():
                for reader in readers[:-1]:
                    assert isinstance(await reader.over(), ClientTakenOver), f"a former handle goes on: {self}"
        self._check()
        for number in self._deaths:
            self._nodes[number].transport.restore()

    async def _send(self, client: str) -> None:
        number = len(self._sent)
        if readers := self._readers[client]:
            try:
                await self._nodes[0].bus.send(client, f"number.{number}", number)
            except ClientNotFound:
                transport = self._nodes[self._holders[client][-1]].transport
                # Without a directory, only the frozen node knows that it holds the client.
                is_unknown = transport.directory is None and transport.link.is_cut
                assert is_unknown or self._deaths, f"{client!r} was not found: {self}"
            else:
                self._sent[number] = client, len(readers)

    def _handled(self) -> dict[int, list[tuple[str, int]]]:
        """Return for each number the client that handled it, and the claim of that client."""
        handled: dict[int, list[tuple[str, int]]] = defaultdict(list)
        for client, readers in self._readers.items():
            for claim, reader in enumerate(readers, 1):
                for number in reader.data:
                    handled[number].append((client, claim))
        return handled

    def _missing(self) -> set[int]:
        due = {
            number for number, (client, _) in self._sent.items() if self._deaths.isdisjoint(self._holders[client][:-1])
        }
        return due - self._handled().keys() - {int(fate.type[7:]) for fate in self._reported}

    def _check(self) -> None:
        for number, places in self._handled().items():
            client, claims = self._sent[number]
            assert len(places) == 1, f"{number} was handled more than once: {self}"
            assert places[0][0] == client, f"{number} was handled by another client: {self}"
            assert places[0][1] >= claims or self._deaths, f"{number} was handled by a former owner: {self}"
        reports = Counter(fate.id for fate in self._reported)
        assert set(reports.values()) <= {1}, f"an event was reported more than once: {self}"

    def __str__(self) -> str:
        sent = {number: f"{client} after claim {claims}" for number, (client, claims) in self._sent.items()}
        return f"sent {sent}, handled {dict(self._handled())}, reported {self._reported}"


async def carry_out_steps(uri: str, steps: list[Step], deaths: set[int]) -> None:
    """Take four nodes at *uri* through *steps*; the nodes of *deaths* die in the end."""
    lease = EXPIRING_LEASE if deaths else LASTING_LEASE
    async with cuttable_buses(uri, 4, lease=lease) as nodes, tasks() as group:
        churn = Churn(nodes, group, deaths)
        for step in (TakeClient(1, "alice"), SendNext("alice"), *steps):
            await churn.do(step)
        await churn.finish()
