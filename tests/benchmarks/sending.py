"""What a node sends: by its traffic, and so many sends at a time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from itertools import cycle
from time import monotonic_ns
from typing import Any, Final

from tests.benchmarks.cases import MIXED, Case
from tests.benchmarks.payload import Mixed, payload
from tests.benchmarks.peers.base import Peer

SENDS_PER_TURN: Final = 64
PERIODS: Final = {"paced": 2_000_000, "slow": 1_000_000}  # nanoseconds between events of a node
AFTER_REFUSAL: Final = 0.001


def client_name(client: int) -> str:
    """Return the name of a client, one that every peer takes."""
    return f"client-{client:06d}"


def clients_of(case: Case, node: int) -> range:
    """Return the clients that *node* holds."""
    holders = case.nodes - 1 if case.traffic == "joined" else case.nodes
    return range(node, case.clients, holders) if node < holders else range(0)


def owners_of(case: Case) -> dict[str, int]:
    """Return the node that holds each client."""
    return {client_name(client): node for node in range(case.nodes) for client in clients_of(case, node)}


def joins_late(case: Case, node: int) -> bool:
    """Return whether *node* joins when half of the time is over; it holds no clients, and sends from then on."""
    return case.traffic == "joined" and node == case.nodes - 1


def client_number(name: str) -> int:
    """Return the client of that *name*."""
    return int(name.rpartition("-")[2])


def is_slow(case: Case, client: int) -> bool:
    """Return whether *client* takes its time for each event: one in three on each node."""
    return case.traffic == "slow" and client // case.nodes % 3 == 0


def is_hot(case: Case, client: int) -> bool:
    """Return whether *client* is one of the fifth that gets four fifths of the events."""
    return case.traffic == "skewed" and client < case.clients // 5


def undisturbed(case: Case, node: int, senders: int) -> Callable[[int, int], bool] | None:
    """
    Return what says of a stream and a number whether that event is of those that others shall not delay.

    These are the ones to the clients that are neither hot nor slow, the small ones, and those of nodes that were there
    before; ``None`` if the case has no such distinction.
    """
    per_node = streams_per_node(case, senders)
    if case.size == MIXED:
        return Mixed.is_small
    match case.traffic:
        case "skewed":
            return lambda stream, _number: not is_hot(case, stream % per_node)
        case "slow":
            return lambda stream, _number: not is_slow(case, stream % per_node)
        case "joined":
            return lambda stream, _number: not joins_late(case, stream // per_node)
        case _:
            return None


def targets(case: Case, node: int) -> Sequence[int]:
    """Return the clients to which *node* sends in turn."""
    everyone = range(case.clients)
    match case.traffic:
        case "addressed" | "slow" | "joined":
            return [*everyone[node:], *everyone[:node]]
        case "skewed":
            return _skewed(case)
        case "across":
            return [client for client in everyone if client % case.nodes != node]
        case "hot":
            return clients_of(case, 0) if node else []
        case "busy":
            return clients_of(case, 0)
        case "paced":
            return [] if node else [1]
        case "request":
            return [] if node else clients_of(case, 1)
        case "broadcast" | "topic":
            return []


def _skewed(case: Case) -> Sequence[int]:
    """Return the clients in a turn of which four of five sends go to those that are hot."""
    hot = [client for client in range(case.clients) if is_hot(case, client)]
    cold = [client for client in range(case.clients) if not is_hot(case, client)]
    among_hot = cycle(hot)
    return [client for one in cold * len(hot) for client in (*(next(among_hot) for _ in range(4)), one)]


def streams_per_node(case: Case, senders: int) -> int:
    """Return how many streams of events each node sends."""
    if case.traffic in ("broadcast", "topic"):
        return 1
    return senders if case.traffic == "request" else case.clients


def receivers(case: Case, node: int, senders: int) -> Mapping[Hashable, Sequence[int]]:
    """Return who receives on *node*, and from which streams."""
    per_node = streams_per_node(case, senders)
    match case.traffic:
        case "broadcast":
            return {None: range(case.nodes)}
        case "topic":
            return {client_name(client): range(case.nodes) for client in clients_of(case, node)}
        case "request":  # answers come back to those who asked
            return {slot: [slot] for slot in range(senders)} if node == 0 else {}
        case _:
            return {
                client_name(client): range(client, case.nodes * per_node, per_node) for client in clients_of(case, node)
            }


class Sending:
    """
    Sends from one node until a given time.

    Attributes:
        accepted: events of each of the node's streams.
        refused: sends that raised, by what they said.
    """

    def __init__(self, case: Case, node: int, senders: int, peer: Peer, take: Callable[[Hashable, Any], None]) -> None:
        self.accepted = [0] * streams_per_node(case, senders)
        self.refused: Counter[str] = Counter()
        self._case = case
        self._node = node
        self._senders = senders
        self._peer = peer
        self._take = take
        self._make = payload(case.size).make
        self._late = joins_late(case, node)
        self._targets = [(client, client_name(client)) for client in targets(case, node)]
        self._first_stream = node * len(self.accepted)

    async def run(self, start: int, end: int) -> None:
        """
        Send from *start* to *end*, in monotonic nanoseconds; a node that joins late does both from the middle on.

        If the process gets to it later, as on a busy machine, it sends for as long.
        """
        if self._late:
            start = (start + end) // 2
        await asyncio.sleep(max(0, start - monotonic_ns()) / 1e9)
        late = max(0, monotonic_ns() - start)
        start, end = start + late, end + late
        if self._late:
            await self._peer.start(self._take)
        traffic = self._case.traffic
        if traffic in ("broadcast", "topic"):
            send = self._peer.broadcast if traffic == "broadcast" else self._peer.publish
            await self._together(lambda _: self._spread(send, end))
        elif not self._targets:
            return
        elif traffic in PERIODS:
            await self._pace(start, end)
        elif traffic == "request":
            await self._together(lambda slot: self._ask(slot, end))
        else:
            turns = cycle(self._targets)
            await self._together(lambda _: self._address(turns, end))

    async def _together(self, one: Callable[[int], Awaitable[object]]) -> None:
        """Run so many senders; a peer that windows its own sends has one."""
        asks = self._case.traffic == "request"
        number = 1 if self._peer.windowed and not asks else self._senders
        await asyncio.gather(*(one(slot) for slot in range(number)))

    async def _address(self, turns: cycle[tuple[int, str]], end: int) -> None:
        send, make, accepted, first = self._peer.send, self._make, self.accepted, self._first_stream
        for count, (client, name) in enumerate(turns, start=1):
            now = monotonic_ns()
            if now >= end:
                return
            number = accepted[client]
            accepted[client] = number + 1
            try:
                await send(name, make(first + client, number, now))
            except Exception as error:
                await self._refuse(error)
            if not count % SENDS_PER_TURN:
                await asyncio.sleep(0)  # a send that never suspends must not starve the readers

    async def _spread(self, send: Callable[[Any], Awaitable[object]], end: int) -> None:
        make, accepted, stream = self._make, self.accepted, self._first_stream
        while (now := monotonic_ns()) < end:
            number = accepted[0]
            accepted[0] = number + 1
            try:
                await send(make(stream, number, now))
            except Exception as error:
                await self._refuse(error)
            if not accepted[0] % SENDS_PER_TURN:
                await asyncio.sleep(0)

    async def _pace(self, start: int, end: int) -> None:
        dues = range(start, end, PERIODS[self._case.traffic])
        for due, (client, name) in zip(dues, cycle(self._targets), strict=False):
            await asyncio.sleep(max(0, due - monotonic_ns()) / 1e9)
            number = self.accepted[client]
            self.accepted[client] += 1
            try:
                await self._peer.send(name, self._make(self._first_stream + client, number, monotonic_ns()))
            except Exception as error:
                await self._refuse(error)

    async def _ask(self, slot: int, end: int) -> None:
        _, name = self._targets[slot % len(self._targets)]
        while (now := monotonic_ns()) < end:
            number = self.accepted[slot]
            self.accepted[slot] += 1
            try:
                answer = await self._peer.request(name, self._make(self._first_stream + slot, number, now))
            except Exception as error:
                await self._refuse(error)
            else:
                self._take(slot, answer)

    async def _refuse(self, error: Exception) -> None:
        self.refused[f"{type(error).__name__}: {error}"[:200]] += 1
        await asyncio.sleep(AFTER_REFUSAL)
