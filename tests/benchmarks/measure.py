"""One run: a server, the processes of the nodes, and what came of it."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import zip_longest
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from time import monotonic, monotonic_ns, process_time, sleep
from typing import Any, Final

from eventbus_core.cli.demo.latency_histogram import LatencyHistogram
from tests.benchmarks.brokers import Broker, broker
from tests.benchmarks.cases import Case
from tests.benchmarks.machine import Speed, busy, describe, versions
from tests.benchmarks.peers import MODULE_NAMES, load_peer
from tests.benchmarks.record import SHARES, Record
from tests.benchmarks.worker import Account, Setup, Worker, main

LIMIT: Final = 120.0
HEAD_START: Final = 200_000_000
MIB: Final = 2**20
LATE: Final = 0.2  # for doubles that come after all


class RunFailed(Exception):
    """Raised when a run came to no result."""


class Workers:
    """The processes of a run; phases are gone through by all of them at once."""

    def __init__(self, stack: ExitStack, setups: Sequence[Setup]) -> None:
        context = multiprocessing.get_context("forkserver")  # which has imported everything once
        context.set_forkserver_preload([Worker.__module__, *MODULE_NAMES])
        self._connections: list[Connection] = []
        self._limit = monotonic() + LIMIT
        for setup in setups:
            ours, theirs = context.Pipe()
            process = context.Process(target=main, args=(theirs, setup), daemon=True)
            process.start()
            theirs.close()
            stack.callback(_end, process)
            self._connections.append(ours)

    def tell(self, data: Any = None) -> None:
        """Let all go on to their next phase."""
        for connection in self._connections:
            connection.send(data)
        self._limit = monotonic() + LIMIT

    def hear(self, phase: str) -> list[Any]:
        """Return what each says at the end of *phase*."""
        return [self._hear(connection, phase) for connection in self._connections]

    def _hear(self, connection: Connection, phase: str) -> Any:
        if not connection.poll(max(0.0, self._limit - monotonic())):
            raise RunFailed(f"no '{phase}' within {LIMIT:g} s")
        try:
            said, data = connection.recv()
        except EOFError:
            raise RunFailed(f"a process ended before '{phase}'") from None
        if said != phase:
            raise RunFailed(f"instead of '{phase}': {said} {data}")
        return data


def _end(process: BaseProcess) -> None:
    process.join(10)
    if process.is_alive():
        process.kill()
        process.join()


def measure(case: Case, peer: str, seconds: float, senders: int, phase: str = "measured", *, on: str = "") -> Record:
    """
    Run *case* on *peer*'s side for so many *seconds*, with so many *senders* at a time on each node.

    Its broker is its own, or that which *on* names.

    Raises:
        RunFailed: it came to no result.
        ServerError: the server does not start.
    """
    kind = load_peer(peer)
    numbers = range(case.nodes)
    shares = [tuple(numbers)] if kind.broker == "memory" else [(node,) for node in numbers]
    with broker(on or kind.broker) as server, ExitStack() as stack:
        workers = Workers(stack, [Setup(case, peer, server.uri, share, senders) for share in shares])
        workers.hear("ready")
        workers.tell()
        if missing := [name for names in workers.hear("warm") for name in names]:
            raise RunFailed(f"events did not come before the run began: {missing[:5]}")
        return _run(case, peer, seconds, senders, phase, server, workers)


def _run(case: Case, peer: str, seconds: float, senders: int, phase: str, server: Broker, workers: Workers) -> Record:
    kind = load_peer(peer)
    sleep(LATE)
    before, busy_before, own_before, began = server.counters(), busy(), process_time(), monotonic()
    start = monotonic_ns() + HEAD_START
    with Speed() as speed:
        workers.tell((start, start + int(seconds * 1e9)))
        accepted = [number for share in workers.hear("sent") for node in share for number in node]
        workers.tell(accepted)
        workers.hear("settled")
    counted = server.counters().since(before)
    used, own, elapsed = busy() - busy_before, process_time() - own_before, monotonic() - began
    sleep(LATE)
    workers.tell()
    accounts: list[Account] = workers.hear("account")
    found = [node for account in accounts for node in account.found]
    took = max(1e-9, (max(node.last for node in found) - start) / 1e9)
    cpu = sum(account.cpu for account in accounts)
    refused: Counter[str] = Counter()
    every, remote, undisturbed = LatencyHistogram(), LatencyHistogram(), LatencyHistogram()
    for account in accounts:
        refused.update(account.refused)
    for node in found:
        every.include(LatencyHistogram(node.local_latencies.items()))
        every.include(LatencyHistogram(node.remote_latencies.items()))
        remote.include(LatencyHistogram(node.remote_latencies.items()))
        undisturbed.include(LatencyHistogram(node.undisturbed_latencies.items()))

    def total(name: str) -> int:
        return sum(getattr(node, name) for node in found)

    return Record(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        peer=peer,
        label=kind.label,
        case=case,
        phase=phase,
        senders=senders,
        seconds=seconds,
        sent=sum(accepted),
        delivered=total("delivered"),
        lost=max(0, total("lost") - refused.total()),
        duplicated=total("duplicated"),
        misrouted=total("misrouted"),
        reordered=total("reordered"),
        damaged=total("damaged"),
        refused=dict(refused),
        failures=[failure for account in accounts for failure in account.failures],
        rate=total("delivered") / took,
        remote_rate=total("remote") / took,
        cpu=cpu,
        server=counted,
        foreign=max(0.0, used - cpu - counted.cpu - own) / elapsed,
        speed=speed.value,
        rss=[sum(sizes) // MIB for sizes in zip_longest(*(account.rss for account in accounts), fillvalue=0)],
        latencies=_shares(every),
        remote_latencies=_shares(remote),
        undisturbed_latencies=_shares(undisturbed),
        versions={**versions(kind.libraries), **_server_version(server)},
        machine=describe(),
    )


def _shares(histogram: LatencyHistogram) -> list[float]:
    found = (histogram.quantile(share) for share in SHARES)
    return [float(f"{milliseconds:.4g}") for milliseconds in found if milliseconds is not None]


def _server_version(server: Broker) -> dict[str, str]:
    name, _, number = server.version.partition(" ")
    return {name: number} if name else {}
