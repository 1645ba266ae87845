"""The directory in Redis: small Lua scripts over a few keys."""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from time import monotonic
from typing import Any, Final, TypeVar

import attrs

from eventbus_core.backend import Claim, Directory, Node, Owner, Terms
from eventbus_core.errors import (
    LANES_TERM,
    RETAIN_TERM,
    SEAL_TERM,
    NamespaceMismatch,
    NodeAlreadyPresent,
    TransportUnavailable,
)
from eventbus_redis.commands import Commands
from eventbus_redis.packing import Argument, load_script, pack

T = TypeVar("T")

# A script blocks the server: about 6 us for each client.
SCRIPT_CLIENTS: Final = 200
CALL_CLIENTS: Final = 10 * SCRIPT_CLIENTS
SWEEP_CLIENTS: Final = 500
SWEEP_SHARE: Final = 0.1
"""Part of a lease that each renewal may spend on removing clients of dead nodes."""
PAGE: Final = 500
MAX_NUMBER: Final = 2**53
"""The scripts ignore larger numbers, which Lua cannot hold exactly; this backend issues none."""
KEEP: Final = 24 * 60 * 60 * 1000
TERMS: Final = {
    "wire_version": "wire version",
    "lanes": LANES_TERM,
    "retain": RETAIN_TERM,
    "shards": "the servers",
    "seal": SEAL_TERM,
}

# Rows that other programs wrote are ignored, as are numbers too large for a frame.
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_ROW: Final = re.compile(rb"(\d{1,18}) (\d{1,18}) ([A-Za-z0-9._-]{1,64})(?: ([A-Za-z0-9_=-]{1,600}))?")
_MEMBER: Final = re.compile(rb"([A-Za-z0-9._-]{1,64}) (\d{1,18})")


@attrs.frozen
class Keys:
    """
    The keys of a namespace; all are on one server.

    Attributes:
        meta: hash of the terms, the last number issued, the time of the directory, and its grace.
        nodes: sorted set of ``node incarnation`` by the end of the lease.
        owners: hash of client to ``epoch incarnation node``, with a seal behind it if there is a secret; the empty name
            has the incarnation that created the key.
    """

    root: str

    @property
    def meta(self) -> str:
        return f"{self.root}:meta"

    @property
    def nodes(self) -> str:
        return f"{self.root}:nodes"

    @property
    def owners(self) -> str:
        return f"{self.root}:owners"

    def node(self, node: str) -> str:
        """The hash of a node."""
        return f"{self.root}:node:{node}"

    def held(self, incarnation: int | str) -> str:
        """
        The set of clients of an incarnation; it has one more member, the empty text.

        Clients that were taken over may still be in it: the row in :attr:`owners` decides.
        """
        return f"{self.root}:held:{incarnation}"


class RedisDirectory(Directory):
    """
    Keeps owners and leases in Redis, by the server's clock.

    A claim after the end of the node's own lease would be void, so it raises :class:`TransportUnavailable`; the next
    renewal makes the node enter again.

    A server may lose its latest data, by a fail-over for example. So each entry, renewal and claim tells it the largest
    incarnation or epoch that this node has met, and the time as this node last knew it: the numbers that it issues are
    larger. And each renewal tells it the number of the last change that it confirmed: the lease ends if it is lost.

    Args:
        root: prefix of all keys; with a hash tag, all are in one slot of a cluster. Scripts use no other key than those
            that are declared.

    Attributes:
        shards: the servers that carry the partitions, if there are several: all nodes must have the same.
    """

    keeps_seals = True

    def __init__(self, commands: Commands, root: str, namespace: str) -> None:
        self.shards = ""
        self._commands = commands
        self._namespace = namespace
        self._keys = Keys(root)
        self._token = secrets.token_hex(8)
        self._node = ""
        self._incarnation = 0
        self._generation = b""
        self._lease = 0
        self._changes = self._confirmed = 0  # numbers of the last change, and of the last that was answered
        self._largest = 0
        self._last_loss: int | None = None
        self._clock = (0, 0.0)
        self._forgotten: dict[int, list[str]] = {}  # clients that were taken over, by their former incarnation

    @property
    def last_loss(self) -> int | None:
        return self._last_loss

    async def enter(self, node: str, lease: float, terms: Terms) -> int:
        keys = self._keys
        microseconds = int(lease * 1_000_000)
        host, process = socket.gethostname(), os.getpid()
        mine = (node, self._token, microseconds, terms.wire_version, terms.lanes, host, process, KEEP)
        names = [keys.meta, keys.nodes, keys.node(node), keys.owners]
        shared = (terms.retain, self.shards, " ".join(terms.seals))
        outcome, *facts = await self._run("enter", names, *mine, self._floor(), self._confirmed, *shared)
        if outcome == b"present":
            raise NodeAlreadyPresent(node)
        if outcome == b"mismatch":
            term, theirs = (fact.decode(errors="replace") for fact in facts)
            value = int(theirs) if term in ("wire_version", "lanes") and _NUMBER.fullmatch(theirs) else theirs
            ours = self.shards if term == "shards" else getattr(terms, term)
            raise NamespaceMismatch(self._namespace, TERMS[term], value, ours)
        incarnation, now, self._generation = facts
        held = keys.held(int(incarnation))
        await self._commands.call(pack("SADD", held, ""), pack("PEXPIRE", held, KEEP))
        self._node, self._incarnation, self._lease, self._last_loss = node, int(incarnation), microseconds, 0
        self._met(self._incarnation)
        self._clock = (int(now), monotonic())
        return self._incarnation

    async def renew(self) -> bool:
        if not self._incarnation:
            return False
        keys, node, incarnation = self._keys, self._node, self._incarnation
        kept = [keys.meta, keys.nodes, keys.node(node), keys.owners, keys.held(incarnation)]
        mine = (node, incarnation, self._lease, self._confirmed)
        alive, now, dead, loss = await self._run("renew", kept, *mine, self._floor(), self._generation, KEEP)
        self._last_loss = None if loss is None else int(loss)
        self._clock = (int(now), monotonic())
        until = monotonic() + self._lease / 1_000_000 * SWEEP_SHARE
        await self._forget()
        while dead is not None and monotonic() < until:
            dead = await self._sweep(dead)
        return bool(alive)

    async def leave(self) -> None:
        if not self._incarnation:
            return
        keys, entry = self._keys, f"{self._node} {self._incarnation}".encode()
        await self._run("leave", [keys.meta, keys.nodes, keys.node(self._node)], self._node, self._incarnation)
        self._incarnation = 0
        while await self._sweep(entry) == entry:
            pass

    async def claim(self, clients: Sequence[str], takeover: bool) -> Sequence[Claim | Owner]:
        keys, incarnation = self._keys, self._incarnation
        names = [keys.meta, keys.nodes, keys.owners, keys.node(self._node), keys.held(incarnation)]
        claims: list[Claim | Owner] = []
        for part in _parts(clients, CALL_CLIENTS):
            chunks = list(_parts(part, SCRIPT_CLIENTS))
            numbers = self._number(chunks)
            mine = (self._node, incarnation, self._lease)
            rest = (self._floor(), int(takeover))
            calls: list[tuple[Argument, ...]] = [
                (*mine, number, *rest, *chunk) for number, chunk in zip(numbers, chunks, strict=True)
            ]
            answers = await self._run_all("claim", names, calls)
            for chunk, answer in zip(chunks, answers, strict=True):
                if answer is None:
                    raise TransportUnavailable(f"the lease of node {self._node!r} has ended; it has to enter again")
                claims += map(self._claim, chunk, answer[::2], answer[1::2])
            self._confirmed = max(self._confirmed, numbers[-1])
            if sum(map(len, self._forgotten.values())) >= CALL_CLIENTS:
                await self._forget()
        return claims

    async def release(self, claims: Sequence[Claim]) -> None:
        keys, incarnation = self._keys, self._incarnation
        names = [keys.meta, keys.owners, keys.node(self._node), keys.held(incarnation)]
        for part in _parts(claims, CALL_CLIENTS):
            chunks = list(_parts(part, SCRIPT_CLIENTS))
            numbers = self._number(chunks)
            calls = [(incarnation, number, *_facts(chunk)) for number, chunk in zip(numbers, chunks, strict=True)]
            await self._run_all("release", names, calls)
            self._confirmed = max(self._confirmed, numbers[-1])

    async def attach(self, claims: Sequence[Claim], seals: Sequence[str]) -> None:
        names = [self._keys.meta, self._keys.owners, self._keys.node(self._node)]
        for part in _parts(list(zip(claims, seals, strict=True)), CALL_CLIENTS):
            chunks = list(_parts(part, SCRIPT_CLIENTS))
            numbers = self._number(chunks)
            calls: list[tuple[Argument, ...]] = [
                (self._incarnation, number, *(fact for claim, seal in chunk for fact in (*_facts([claim]), seal)))
                for number, chunk in zip(numbers, chunks, strict=True)
            ]
            await self._run_all("attach", names, calls)
            self._confirmed = max(self._confirmed, numbers[-1])

    async def locate(self, clients: Sequence[str]) -> Sequence[Owner | None]:
        owners: list[Owner | None] = []
        for part in _parts(clients, CALL_CLIENTS):
            chunks = list(_parts(part, SCRIPT_CLIENTS))
            names = [self._keys.meta, self._keys.nodes, self._keys.owners]
            for rows in await self._run_all("locate", names, chunks):
                owners += map(self._owner, rows)
        return owners

    async def nodes(self) -> Sequence[Node]:
        now, members = await self._run("nodes", [self._keys.meta, self._keys.nodes])
        found = zip(map(_MEMBER.fullmatch, members[::2]), map(float, members[1::2]), strict=True)
        nodes = [Node(match[1].decode(), int(match[2]), (end - int(now)) / 1_000_000) for match, end in found if match]
        for node in nodes:
            self._met(node.incarnation)
        return [node for node in nodes if node.lease_left > 0]

    async def clients(self, node: str | None = None) -> AsyncIterator[str]:
        alive = {entry.id: entry.incarnation for entry in await self.nodes()}
        if node is None:
            pages = self._owned(alive)
        elif node in alive:
            pages = self._owned_by(alive[node])
        else:
            return
        seen = {b""}  # a scan may return a member twice
        async for page in pages:
            for client in page:
                if client not in seen:
                    seen.add(client)
                    yield client.decode(errors="replace")

    async def _owned(self, alive: dict[str, int]) -> AsyncIterator[list[bytes]]:
        async for page in self._scan("HSCAN", self._keys.owners):
            rows = zip(page[::2], map(_ROW.fullmatch, page[1::2]), strict=True)
            yield [client for client, row in rows if row and alive.get(row[3].decode()) == int(row[2])]

    async def _owned_by(self, incarnation: int) -> AsyncIterator[list[bytes]]:
        async for page in self._scan("SSCAN", self._keys.held(incarnation)):
            [rows] = await self._commands.call(pack("HMGET", self._keys.owners, *page)) if page else [[]]
            found = zip(page, (row and _ROW.fullmatch(row) for row in rows), strict=True)
            yield [client for client, row in found if row and int(row[2]) == incarnation]

    async def _scan(self, command: str, key: str) -> AsyncIterator[list[bytes]]:
        cursor = b"0"
        while True:
            [(cursor, page)] = await self._commands.call(pack(command, key, cursor, "COUNT", PAGE))
            yield page
            if cursor == b"0":
                return

    def _owner(self, row: bytes | None) -> Owner | None:
        match = None if row is None else _ROW.fullmatch(row)
        if match is None:
            return None
        owner = Owner(match[3].decode(), int(match[2]), int(match[1]), (match[4] or b"").decode())
        self._met(owner.epoch)
        return owner

    def _claim(self, client: str, epoch: int, previous: bytes | None) -> Claim | Owner:
        owner = self._owner(previous)
        self._met(epoch)
        if not epoch and owner is not None:
            return owner
        if owner is not None and owner.incarnation != self._incarnation:
            self._forgotten.setdefault(owner.incarnation, []).append(client)
        return Claim(client, epoch, owner)

    def _met(self, number: int) -> None:
        if self._largest < number < MAX_NUMBER:
            self._largest = number

    def _floor(self) -> int:
        """Return a number that the directory has reached: no number from before now is larger, as far as we know."""
        now, at = self._clock
        return max(self._largest, now and now + int((monotonic() - at) * 1_000_000))

    def _number(self, chunks: Sequence[object]) -> range:
        """Return a new number for each of *chunks*."""
        first = self._changes + 1
        self._changes += len(chunks)
        return range(first, self._changes + 1)

    async def _forget(self) -> None:
        """Take clients out of the sets of their former owners."""
        while self._forgotten:
            former, clients = self._forgotten.popitem()
            names = [self._keys.meta, self._keys.owners, self._keys.held(former)]
            for part in _parts(clients, CALL_CLIENTS):
                await self._run_all("forget", names, [(former, *chunk) for chunk in _parts(part, SCRIPT_CLIENTS)])

    async def _sweep(self, dead: bytes) -> bytes | None:
        """Free some clients of *dead*, a member of the nodes; return the next one to sweep, or the same."""
        node, incarnation = dead.decode().rsplit(" ", 1)
        keys = self._keys
        names = [keys.meta, keys.nodes, keys.owners, keys.held(incarnation), keys.node(node)]
        following: bytes | None = await self._run("sweep", names, dead, incarnation, SWEEP_CLIENTS)
        return following

    async def _run(self, name: str, keys: Sequence[str], *arguments: Argument) -> Any:
        return (await self._run_all(name, keys, [arguments]))[0]

    async def _run_all(self, name: str, keys: Sequence[str], calls: Iterable[Iterable[Argument]]) -> list[Any]:
        script = load_script(name)
        return await self._commands.run(script, [script.call(keys, *arguments) for arguments in calls])


def _parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _facts(claims: Iterable[Claim]) -> Iterator[Argument]:
    for claim in claims:
        yield claim.client
        yield claim.epoch
