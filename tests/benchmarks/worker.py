"""A process of a run, with one node, or with all of them where there is no broker."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import traceback
from collections.abc import Awaitable, Callable, Hashable
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic, monotonic_ns
from typing import Any, Final

import msgspec

from tests.benchmarks.cases import Case
from tests.benchmarks.ledger import Found, Ledger
from tests.benchmarks.payload import WARM, payload
from tests.benchmarks.peers import load_peer
from tests.benchmarks.peers.base import Context
from tests.benchmarks.sending import (
    Sending,
    client_name,
    clients_of,
    joins_late,
    owners_of,
    receivers,
    streams_per_node,
    undisturbed,
)

WARM_ROUNDS: Final = 100
WARM_PAUSE: Final = 0.1
QUIET: Final = 2.0  # with nothing coming for so long, what is missing is lost
POLL: Final = 0.01
RSS_INTERVAL: Final = 0.25


class Setup(msgspec.Struct, frozen=True):
    """What a worker is: its nodes, and what they do."""

    case: Case
    peer: str
    uri: str
    nodes: tuple[int, ...]
    senders: int


class Account(msgspec.Struct, frozen=True):
    """What a worker found; memory in bytes every quarter of a second, CPU time in seconds."""

    found: list[Found]
    refused: dict[str, int]
    failures: list[str]
    cpu: float
    rss: list[int]


class Node:
    """One node: the peer, what it sends and what comes to it."""

    def __init__(self, setup: Setup, node: int) -> None:
        case = setup.case
        clients = [client_name(client) for client in clients_of(case, node)]
        self._case = case
        self._node = node
        self.peer = load_peer(setup.peer)(Context(setup.uri, node, clients, owners_of(case), case, setup.senders))
        expected = receivers(case, node, setup.senders)
        per_node = streams_per_node(case, setup.senders)
        self.late = joins_late(case, node)
        self.ledger = Ledger(payload(case.size), node, per_node, expected, undisturbed(case, node, setup.senders))
        if case.traffic in ("paced", "request", "slow"):
            self.ledger.time_every_event()
        self.sending = Sending(case, node, setup.senders, self.peer, self.ledger.take)
        here: set[Hashable] = {None} if case.traffic == "broadcast" else set(clients)
        early = [sender for sender in range(case.nodes) if not joins_late(case, sender)]
        self._due = {(receiver, sender) for receiver in here for sender in early}

    async def start(self) -> None:
        """Connect, unless the node joins later."""
        if not self.late:
            await self.peer.start(self.ledger.take)

    async def warm(self) -> list[str]:
        """Open all ways, as connections and owner look-ups are not what is measured; return what did not come."""
        if self.late:
            return []
        data = payload(self._case.size).make(WARM, self._node, 0)
        left = [client_name(client) for client in range(self._case.clients)]
        for _ in range(WARM_ROUNDS):
            left = await self._warm_once(left, data)
            if not left and self.ledger.warm >= self._due:
                return []
            if not left and self._case.traffic in ("broadcast", "topic"):
                left = [""]
            await asyncio.sleep(WARM_PAUSE)
        return [*left, *sorted(map(str, self._due - self.ledger.warm))][:5]

    async def _warm_once(self, left: list[str], data: Any) -> list[str]:
        """Send to each of *left*; return those that could not be reached yet."""
        if self._case.traffic in ("broadcast", "topic"):
            await (self.peer.broadcast(data) if self._case.traffic == "broadcast" else self.peer.publish(data))
            return []
        failed: list[str] = []
        for first in range(0, len(left), 128):
            names = left[first : first + 128]
            outcomes = await asyncio.gather(*(self.peer.send(name, data) for name in names), return_exceptions=True)
            failed += [
                name for name, outcome in zip(names, outcomes, strict=True) if isinstance(outcome, BaseException)
            ]
        return failed


class Worker:
    """Does what the parent says, phase by phase."""

    def __init__(self, connection: Connection, setup: Setup) -> None:
        self._connection = connection
        self._nodes = [Node(setup, node) for node in setup.nodes]
        self._rss: list[int] = []

    async def run(self) -> None:
        """Go through all phases."""
        await self._each(Node.start)
        self._say("ready", None)
        await self._hear()
        missing = [name for names in await self._each(Node.warm) for name in names]
        self._say("warm", missing)
        start, end = await self._hear()
        began = _cpu()
        watch = asyncio.create_task(self._watch_memory(start))
        await self._each(lambda node: node.sending.run(start, end))
        self._say("sent", [node.sending.accepted for node in self._nodes])
        accepted: dict[int, int] = dict(enumerate(await self._hear()))
        await self._settle(accepted)
        cpu = _cpu() - began
        watch.cancel()
        self._say("settled", None)
        await self._hear()  # late doubles have had their time
        self._say("account", self._account(accepted, cpu))
        await self._each(lambda node: node.peer.close())

    def _account(self, accepted: dict[int, int], cpu: float) -> Account:
        refused: dict[str, int] = {}
        for node in self._nodes:
            for error, number in node.sending.refused.items():
                refused[error] = refused.get(error, 0) + number
        failures = [failure for node in self._nodes for failure in node.peer.failures]
        return Account([node.ledger.find(accepted) for node in self._nodes], refused, failures, cpu, self._rss)

    async def _settle(self, accepted: dict[int, int]) -> None:
        """Wait until all has come that was *accepted* for us, or nothing came for a while."""
        expected = sum(node.ledger.expected(accepted) for node in self._nodes)
        before, since = -1, monotonic()
        while (came := sum(node.ledger.delivered for node in self._nodes)) < expected and monotonic() < since + QUIET:
            if came != before:
                before, since = came, monotonic()
            await asyncio.sleep(POLL)

    async def _watch_memory(self, start: int) -> None:
        await asyncio.sleep(max(0, start - monotonic_ns()) / 1e9)
        while True:
            self._rss.append(_rss())
            await asyncio.sleep(RSS_INTERVAL)

    async def _each(self, work: Callable[[Node], Awaitable[Any]]) -> list[Any]:
        return await asyncio.gather(*(work(node) for node in self._nodes))

    def _say(self, phase: str, data: Any) -> None:
        self._connection.send((phase, data))

    async def _hear(self) -> Any:
        return await asyncio.get_running_loop().run_in_executor(None, self._connection.recv)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _rss() -> int:
    """Return the memory that the process holds; 0 where the system does not say it in this way."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def main(connection: Connection, setup: Setup) -> None:
    """Be a worker process."""
    logging.basicConfig(level=logging.ERROR)
    run: Callable[..., None] = import_module("uvloop").run if setup.case.uvloop else asyncio.run
    try:
        run(_run(connection, setup))
    except BaseException:
        connection.send(("failed", traceback.format_exc()))
    os._exit(0)  # a peer's unclean close is not measured


async def _run(connection: Connection, setup: Setup) -> None:
    await Worker(connection, setup).run()
