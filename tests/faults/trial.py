"""One scenario: a server, three nodes in processes of their own, load, and the account of it all."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any, Final

import anyio
import redis

from eventbus import Gap
from eventbus_core.backend import node_partition
from eventbus_core.cli.demo.plan import Plan, node_name
from tests.benchmarks.brokers import CUT
from tests.faults import table
from tests.faults.audit import Book, Figures, audit, lanes_of
from tests.faults.form import FORM
from tests.faults.journal import length, read
from tests.processes.support import NodeProcess, Refused
from tests.servers import HOST, RedisServer
from tests.support import fresh_namespace, until

NODES: Final = 3
CLIENTS: Final = 15
LANES: Final = 64
PROGRAM: Final = "tests.faults.node"
AGAIN: Final = "again"  # where a node that was started again keeps its journals
QUIET: Final = 20.0  # seconds without anything new after which nothing more is waited for
POLL: Final = 0.05
SAMPLE: Final = 0.25
MIB: Final = 2**20


class Trial:
    """
    Three nodes under load at *server*.

    Attributes:
        plan: who sends what to whom.
        nodes: their processes.
        figures: what came of it, once it is over.
        memory: bytes of each node and of the server, sampled while the load went on.
        dead: the numbers of those that were killed.
        left: the numbers of those that left in good order.
        refused: sends that raised and clients that came and went, by kind.
    """

    def __init__(self, name: str, server: RedisServer, uri: str, plan: Plan, folder: Path) -> None:
        self.name = name
        self.server = server
        self.plan = plan
        self.figures = Figures()
        self.memory: list[list[int]] = []
        self.refused: list[dict[str, int]] = []
        self._folder = folder
        self._uri = uri
        self.nodes = [NodeProcess(uri, node_name(node), program=PROGRAM) for node in range(plan.nodes)]
        self.dead: set[int] = set()
        self.left: set[int] = set()
        self._successors: list[NodeProcess] = []

    async def open(self, delay: float) -> None:
        """Return once all nodes are on the bus, and hold their clients."""
        for number, node in enumerate(self.nodes):
            await node.opened()
            await node.ask("begin", folder=str(self._folder), clients=self.plan.clients, nodes=self.plan.nodes)
            await node.ask("hold", clients=[*self.plan.clients_of(number)], delay=delay)
        for node in self.nodes:
            await node.ask("listen")

    async def load(self, rate: float | None) -> None:
        """Have all nodes send to all receivers, *rate* events a second in all."""
        spread = [*range(self.plan.clients, self.plan.receivers)]
        groups = [[*self.plan.clients_of(node)] for node in range(self.plan.nodes)]
        for node in self.nodes:
            await node.ask("load", rate=rate and rate / len(self.nodes), groups=[*groups, spread])

    async def heat(self, receiver: int) -> None:
        """Have all nodes send as fast as they can to the clients of the node *receiver*."""
        for node in self.nodes:
            await node.ask("load", rate=None, groups=[[*self.plan.clients_of(receiver)]])

    async def pace(self, rate: float) -> None:
        """Go on with *rate* events a second in all."""
        for node in self.nodes:
            await node.ask("pace", rate=rate / len(self.nodes))

    async def flowing(self, *nodes: int, at: Collection[int] = ()) -> None:
        """Return once each of *nodes*, or all, is heard again by each of them, or of *at*, and a calm time after."""
        numbers = set(nodes or range(len(self.nodes)))
        marks = {node: length(self._path(node, "handled")) for node in at or numbers}

        def heard(node: int) -> set[int]:
            return {self.plan.ends(stream)[0] for stream, _, _ in read(self._path(node, "handled"), marks[node])}

        await until(lambda: all(heard(node) >= numbers for node in marks), "the nodes hear each other again")
        await anyio.sleep(FORM.calm)

    def kill(self, node: int) -> None:
        """End the process of *node* as ``kill -9`` does."""
        self.nodes[node].kill()
        self.dead.add(node)

    async def restart(self, node: int) -> None:
        """Kill *node*, and start it again as a supervisor does; return once it holds its clients. It sends nothing."""
        self.kill(node)
        folder = self._folder / AGAIN
        folder.mkdir()
        while True:
            process = NodeProcess(self._uri, self.nodes[node].node, program=PROGRAM)
            self._successors.append(process)
            try:
                await process.opened()
                break
            except Refused as refused:
                if refused.name != "NodeAlreadyPresent":
                    raise
        await process.ask("begin", folder=str(folder), clients=self.plan.clients, nodes=self.plan.nodes)
        await process.ask("hold", clients=[*self.plan.clients_of(node)])

    async def leave(self, node: int) -> None:
        """Have *node*, which has stopped sending, leave the bus in good order; return once its process has ended."""
        self.left.add(node)
        self.nodes[node].end()
        assert await self.nodes[node].exit() == 0, repr(self.nodes[node])

    def close(self) -> None:
        """End every process that is left."""
        for node in (*self.nodes, *self._successors):
            node.close()

    @property
    def running(self) -> list[NodeProcess]:
        """The nodes that were neither killed nor have left."""
        return [node for number, node in enumerate(self.nodes) if number not in self.dead | self.left]

    @property
    def cuts(self) -> int:
        """How many subscribers the server has cut for their output buffers."""
        return self.server.log.read_text(errors="replace").count(CUT)

    def command(self, *arguments: str | bytes | int) -> Any:
        """Return what the server answers to a command."""
        with redis.Redis(HOST, self.server.port) as connection:
            return connection.execute_command(*arguments)

    async def burst(self, node: int, size: int) -> None:
        """Have the server send *size* bytes to the partition of *node* at once, more than it lets wait for anyone."""
        pattern = f"*:{node_partition(node_name(node))}"

        def reached() -> bool:
            return any(
                self.command("PUBLISH", name, bytes(size)) for name in self.command("PUBSUB", "CHANNELS", pattern)
            )

        await until(reached, "the node, which may just have been cut for another burst, listens again")

    async def stop(self) -> None:
        """End the load; return once every event is accounted for, or nothing comes any more."""
        self.refused = [await node.ask("stop") for node in self.running]
        due = sum(self.plan.nodes if s % self.plan.receivers >= self.plan.clients else 1 for s in self._sent())
        known, since = -1, monotonic()
        while known < due and monotonic() - since < QUIET:
            before, known = known, self._known()
            if known != before:
                since = monotonic()
            await anyio.sleep(POLL)

    def account(self, *, moved: bool, absent: Collection[int]) -> None:
        """Work out the figures, and say them."""
        books = {
            node: Book(
                read(self._path(node, "sent")),
                read(self._path(node, "handled")) + read(self._path(node, "handled", AGAIN)),
                read(self._path(node, "reported")),
                [Gap(said["source"], said["partition"], said["missed"]) for said in process.all("gap")],
            )
            for node, process in enumerate(self.nodes)
        }
        lanes = lanes_of(self.plan, LANES)
        self.figures = audit(self.plan, lanes, books, dead=self.dead, left=self.left, moved=moved, absent=absent)
        print(f"\n{table.line(self.name, self.figures)}")

    async def watch(self) -> None:
        """Sample the memory of nodes and server."""
        while True:
            self.memory.append([_anonymous(pid) for pid in (*(node.pid for node in self.nodes), self.server.pid)])
            await anyio.sleep(SAMPLE)

    def growth(self) -> list[float]:
        """Return by how many MiB the peak of each process in the second half is above that in the first."""
        half = len(self.memory) // 2
        return [
            (max(samples[half:]) - max(samples[:half])) / MIB for samples in map(list, zip(*self.memory, strict=True))
        ]

    def _sent(self) -> list[int]:
        return [stream for node in range(len(self.nodes)) for stream, _, _ in read(self._path(node, "sent"))]

    def _known(self) -> int:
        entries = sum(
            length(self._path(node, kind, folder))
            for node in range(len(self.nodes))
            for kind in ("handled", "reported")
            for folder in ("", AGAIN)
        )
        gaps: int = sum(said["missed"] for node in self.nodes for said in node.all("gap"))
        return entries + gaps

    def _path(self, node: int, kind: str, folder: str = "") -> Path:
        return self._folder / folder / f"{node_name(node)}.{kind}"


@asynccontextmanager
async def trial(
    name: str,
    server: RedisServer,
    *,
    port: int = 0,
    place: str = "",
    delay: float = 0.0,
    moved: bool = False,
    absent: Collection[int] = (),
    **options: Any,
) -> AsyncIterator[Trial]:
    """
    Have a trial at *server*; when its block ends the load ends, and there are figures.

    Args:
        port, place: where the nodes connect to, if that is not the server itself: a port, or a URI without options.
        delay: what the handlers of clients take for each event.
        moved, absent: see :func:`audit`.
        options: of the buses.
    """
    namespace = fresh_namespace()
    query = "&".join(f"{key}={value}" for key, value in {"namespace": namespace, "lanes": LANES, **options}.items())
    with TemporaryDirectory() as folder:
        uri = f"{place or f'redis://{HOST}:{port or server.port}/0'}?{query}"
        here = Trial(name, server, uri, Plan(namespace, NODES, CLIENTS, 0.0), Path(folder))
        try:
            await here.open(delay)
            yield here
            await here.stop()
            for node in here.running:
                print(node.node, await node.ask("stats"))
                node.end()
            for node in here.running:
                assert await node.exit() == 0, repr(node)
            for node in here.nodes:
                assert node.all("damaged", "dropped", "failed") == []
            here.account(moved=moved, absent=absent)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(here.close)
        table.record(name, here.figures, version(server))


def nothing_lost(figures: Figures) -> None:
    """Assert that every event arrived, once and in order, and that no loss was reported."""
    assert figures.sent > 0
    assert (figures.lost, figures.doubled, figures.reordered, figures.gaps, figures.reported) == (0, 0, 0, 0, 0)
    assert figures.silent == 0


def all_reported(here: Trial) -> None:
    """What was lost was reported; it may be, too, what was handled by a node that had no time to say so."""
    assert here.figures.sent > 0
    assert here.figures.silent == 0
    assert here.figures.doubled == 0


def version(server: RedisServer) -> str:
    """Return the name and version of the server's program."""
    shown = subprocess.run([server.program, "--version"], capture_output=True, text=True, check=True).stdout
    words = shown.split()
    return f"{words[0]} {next(word[2:] for word in words if word.startswith('v='))}"


def _anonymous(pid: int) -> int:
    """Return the bytes of memory of a process that are its own, without what it has mapped."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found: Sequence[str] = [row for row in status.splitlines() if row.startswith("RssAnon")]
    return int(found[0].split()[1]) * 1024 if found else 0
