"""Upheavals: nodes freeze, go on and die, while clients move and events are sent to them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TypeAlias

import attrs
from anyio.abc import TaskGroup
from hypothesis import strategies as st

from eventbus_core.errors import ClientNotFound, ClientTakenOver, TransportUnavailable
from eventbus_core.losses import Undeliverable
from eventbus_core.testing.inbox import Reader, read
from eventbus_core.testing.severed import Severable, severable_buses
from eventbus_core.testing.waiting import tasks, until

SHORT_LEASE = 1.0
LONG_LEASE = 60.0


@attrs.frozen
class Claim:
    """A node claims a client, from whoever has it."""

    node: int
    client: str


@attrs.frozen
class Freeze:
    """A node is cut off from the broker."""

    node: int


@attrs.frozen
class Thaw:
    """It is back."""

    node: int


@attrs.frozen
class Send:
    """The first node, which never freezes, sends to a client."""

    client: str


Step: TypeAlias = Claim | Freeze | Thaw | Send

_nodes = st.integers(1, 3)
_clients = st.sampled_from(("alice", "bob"))
upheavals: st.SearchStrategy[list[Step]] = st.lists(
    st.builds(Claim, _nodes, _clients)
    | st.builds(Freeze, _nodes)
    | st.builds(Thaw, _nodes)
    | st.builds(Send, _clients)
    | st.builds(Send, _clients),
    min_size=4,
    max_size=14,
)
"""Lists of steps, for four nodes of which the second holds a client, and the first knows it."""
deaths = st.sets(_nodes, max_size=2)
"""Which nodes die in the end."""


class Upheaval:
    """
    Four nodes that go through a list of steps, and what came of it; see :func:`carry_out`.

    With *deaths* leases are short, so that frozen nodes lose theirs, and clients may be nobody's for a while. What a
    node that dies has taken in and was passing on, since the client had moved, may die with it.
    """

    def __init__(self, nodes: Sequence[Severable], group: TaskGroup, deaths: set[int]) -> None:
        self._nodes = nodes
        self._group = group
        self._deaths = deaths
        self._readers: dict[str, list[Reader]] = defaultdict(list)  # of each claim, in their order
        self._holders: dict[str, list[int]] = defaultdict(list)  # the nodes that made them
        self._sent: dict[int, tuple[str, int]] = {}  # to which client, and how many claims of it had been made by then
        self._reported: list[Undeliverable] = []
        nodes[0].bus.on_undeliverable(self._reported.append)

    async def do(self, step: Step) -> None:
        """Carry out *step*; a node that is frozen claims nothing, and to whom nobody has claimed nobody sends."""
        if isinstance(step, Send):
            await self._send(step.client)
            return
        node = self._nodes[step.node]
        if isinstance(step, Thaw) and node.transport.line.cut:
            node.transport.mend()
        elif isinstance(step, Freeze):
            node.transport.sever()
        elif isinstance(step, Claim) and not node.transport.line.cut:
            try:
                client = await node.bus.client(step.client).__aenter__()
            except TransportUnavailable:
                assert self._deaths, "a claim was refused"
                return
            self._readers[step.client].append(read(self._group, client))
            self._holders[step.client].append(step.node)

    async def finish(self) -> None:
        """Let those die who are to, and the others go on; check that all was handled as it has to be, or reported."""
        for number, node in enumerate(self._nodes):
            if number in self._deaths:
                node.transport.sever()
            elif node.transport.line.cut:
                node.transport.mend()
        await until(lambda: not self._missing(), f"all of {sorted(self._sent)} were handled or reported: {self}")
        if not self._deaths:
            for readers in self._readers.values():
                for reader in readers[:-1]:
                    assert isinstance(await reader.over(), ClientTakenOver), f"a former handle goes on: {self}"
        self._check()
        for number in self._deaths:
            self._nodes[number].transport.mend()

    async def _send(self, client: str) -> None:
        number = len(self._sent)
        if readers := self._readers[client]:
            try:
                await self._nodes[0].bus.send(client, f"number.{number}", number)
            except ClientNotFound:
                transport = self._nodes[self._holders[client][-1]].transport
                is_unknown = transport.directory is None and transport.line.cut  # nobody else knows who holds it
                assert is_unknown or self._deaths, f"{client!r} was not found: {self}"
            else:
                self._sent[number] = client, len(readers)

    def _handled(self) -> dict[int, list[tuple[str, int]]]:
        """Return by which client and which claim of it each number was handled."""
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


async def carry_out(uri: str, steps: list[Step], deaths: set[int]) -> None:
    """Take four nodes at *uri* through *steps*, and let those of *deaths* die in the end."""
    lease = SHORT_LEASE if deaths else LONG_LEASE
    async with severable_buses(uri, 4, lease=lease) as nodes, tasks() as group:
        upheaval = Upheaval(nodes, group, deaths)
        for step in (Claim(1, "alice"), Send("alice"), *steps):
            await upheaval.do(step)
        await upheaval.finish()
