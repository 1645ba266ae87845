"""The directory in Redis: small scripts over a few keys."""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from time import monotonic
from typing import Any, Final, TypeVar

import attrs

from eventbus_core import (
    Claim,
    Directory,
    NamespaceMismatch,
    Node,
    NodeAlreadyPresent,
    Owner,
    Terms,
    TransportUnavailable,
)
from eventbus_redis.commands import Argument, Commands, load_script, pack

T = TypeVar("T")

# Nothing else happens in the server while a script runs: about 6 us for each client.
SCRIPT_CLIENTS: Final = 200
CALL_CLIENTS: Final = 10 * SCRIPT_CLIENTS
SWEEP_CLIENTS: Final = 500
SWEEP_SHARE: Final = 0.1
"""The part of a lease that each renewal may take to clean up after dead nodes."""
PAGE: Final = 500
KEEP: Final = 24 * 60 * 60 * 1000
TERMS: Final = {"wire_version": "wire version", "lanes": "a lane count of"}

# What anybody else wrote there is passed over, numbers that would not fit into a frame too.
_ROW: Final = re.compile(rb"(\d{1,18}) (\d{1,18}) ([A-Za-z0-9._-]{1,64})")
_MEMBER: Final = re.compile(rb"([A-Za-z0-9._-]{1,64}) (\d{1,18})")


@attrs.frozen
class Keys:
    """
    The keys of a namespace.

    All are in one place, and each script sees the whole: on a cluster this is what one shard
    would be, with a hash tag around ``root`` and the shard's number. A client belongs to the shard
    of its crc32, and a node enters, renews and leaves in every one; the scripts stay as they are.

    Attributes:
        meta: hash of the terms, and the last number issued.
        nodes: sorted set of ``node incarnation`` by the end of the lease.
        owners: hash of client to ``epoch incarnation node``.
        node, held: what begins the keys of one node's hash, and of one incarnation's set of clients.
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

    @property
    def node(self) -> str:
        return f"{self.root}:node:"

    @property
    def held(self) -> str:
        return f"{self.root}:held:"


class RedisDirectory(Directory):
    """
    Keeps owners and leases in Redis, by the server's clock.

    A claim that is made while our own lease has ended would be void, so it raises
    :class:`TransportUnavailable`; the node is about to enter again then.
    """

    def __init__(self, commands: Commands, prefix: str, namespace: str) -> None:
        self._commands = commands
        self._namespace = namespace
        self._keys = Keys(f"{prefix}:{namespace}")
        self._token = secrets.token_hex(8)
        self._node = ""
        self._incarnation = 0
        self._lease = 0
        self._changes = 0

    async def enter(self, node: str, lease: float, terms: Terms) -> int:
        keys = self._keys
        microseconds = int(lease * 1_000_000)
        host, process = socket.gethostname(), os.getpid()
        outcome, *facts = await self._run(
            "enter",
            [keys.meta, keys.nodes, keys.node + node],
            *(node, self._token, microseconds, terms.wire_version, terms.lanes, host, process, KEEP),
        )
        if outcome == b"present":
            raise NodeAlreadyPresent(node)
        if outcome == b"mismatch":
            term, theirs = (fact.decode(errors="replace") for fact in facts)
            value = int(theirs) if theirs.isdecimal() and len(theirs) <= 18 else theirs
            raise NamespaceMismatch(self._namespace, TERMS[term], value, getattr(terms, term))
        self._node, self._incarnation, self._lease, self._changes = node, int(facts[0]), microseconds, 0
        return self._incarnation

    async def renew(self) -> bool:
        if not self._incarnation:
            return False
        keys = self._keys
        kept = [keys.nodes, keys.node + self._node, keys.meta, keys.owners, f"{keys.held}{self._incarnation}"]
        alive = await self._run("renew", kept, self._node, self._incarnation, self._lease, self._changes, KEEP)
        until = monotonic() + self._lease / 1_000_000 * SWEEP_SHARE
        while monotonic() < until and await self._sweep():
            pass
        return bool(alive)

    async def leave(self) -> None:
        if not self._incarnation:
            return
        incarnation = self._incarnation
        await self._run("leave", [self._keys.nodes, self._keys.node + self._node], self._node, incarnation)
        self._incarnation = 0
        while await self._sweep(f"{self._node} {incarnation}"):
            pass

    async def claim(self, clients: Sequence[str], takeover: bool) -> Sequence[Claim | Owner]:
        keys = self._keys
        names = [keys.nodes, keys.owners, keys.meta, keys.node + self._node]
        mine = (keys.held, self._node, self._incarnation, int(takeover))
        claims: list[Claim | Owner] = []
        for part in _parts(clients, CALL_CLIENTS):
            chunks = list(_parts(part, SCRIPT_CLIENTS))
            answers = await self._run_all("claim", names, [(*mine, *chunk) for chunk in chunks])
            for chunk, answer in zip(chunks, answers, strict=True):
                if answer is None:
                    raise TransportUnavailable(f"the lease of node {self._node!r} has ended; it has to enter again")
                self._changes += len(chunk)
                claims += map(_claim, chunk, answer[::2], answer[1::2])
        return claims

    async def release(self, claims: Sequence[Claim]) -> None:
        names = [self._keys.owners, self._keys.node + self._node]
        for part in _parts(claims, CALL_CLIENTS):
            chunks = [(self._keys.held, *_facts(chunk)) for chunk in _parts(part, SCRIPT_CLIENTS)]
            await self._run_all("release", names, chunks)
            self._changes += len(part)

    async def locate(self, clients: Sequence[str]) -> Sequence[Owner | None]:
        owners: list[Owner | None] = []
        for part in _parts(clients, CALL_CLIENTS):
            chunks = list(_parts(part, SCRIPT_CLIENTS))
            for rows in await self._run_all("locate", [self._keys.nodes, self._keys.owners], chunks):
                owners += map(_owner, rows)
        return owners

    async def nodes(self) -> Sequence[Node]:
        (seconds, microseconds), members = await self._commands.call(
            pack("TIME"), pack("ZRANGE", self._keys.nodes, 0, -1, "WITHSCORES")
        )
        now = int(seconds) + int(microseconds) / 1_000_000
        found = zip(map(_MEMBER.fullmatch, members[::2]), map(float, members[1::2]), strict=True)
        nodes = [Node(match[1].decode(), int(match[2]), end / 1_000_000 - now) for match, end in found if match]
        return [node for node in nodes if node.lease_left > 0]

    async def clients(self, node: str | None = None) -> AsyncIterator[str]:
        alive = {entry.id: entry.incarnation for entry in await self.nodes()}
        if node is None:
            pages = self._owned(alive)
        elif node in alive:
            pages = self._scan("SSCAN", f"{self._keys.held}{alive[node]}")
        else:
            return
        seen: set[bytes] = set()  # a scan may return a member again
        async for page in pages:
            for client in page:
                if client not in seen:
                    seen.add(client)
                    yield client.decode(errors="replace")

    async def _owned(self, alive: dict[str, int]) -> AsyncIterator[list[bytes]]:
        async for page in self._scan("HSCAN", self._keys.owners):
            rows = zip(page[::2], map(_ROW.fullmatch, page[1::2]), strict=True)
            yield [client for client, row in rows if row and alive.get(row[3].decode()) == int(row[2])]

    async def _scan(self, command: str, key: str) -> AsyncIterator[list[bytes]]:
        cursor = b"0"
        while True:
            [(cursor, page)] = await self._commands.call(pack(command, key, cursor, "COUNT", PAGE))
            yield page
            if cursor == b"0":
                return

    async def _sweep(self, *whose: str) -> bool:
        """Free some clients of a dead node; return whether there may be more to do."""
        keys = self._keys
        return bool(await self._run("sweep", [keys.nodes, keys.owners], keys.held, keys.node, SWEEP_CLIENTS, *whose))

    async def _run(self, name: str, keys: Sequence[str], *arguments: Argument) -> Any:
        return (await self._run_all(name, keys, [arguments]))[0]

    async def _run_all(self, name: str, keys: Sequence[str], calls: Iterable[Iterable[Argument]]) -> list[Any]:
        script = load_script(name)
        return await self._commands.run(script, [script.call(keys, *arguments) for arguments in calls])


def _parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _owner(row: bytes | None) -> Owner | None:
    match = None if row is None else _ROW.fullmatch(row)
    return None if match is None else Owner(match[3].decode(), int(match[2]), int(match[1]))


def _facts(claims: Iterable[Claim]) -> Iterator[Argument]:
    for claim in claims:
        yield claim.client
        yield claim.epoch


def _claim(client: str, epoch: int, previous: bytes | None) -> Claim | Owner:
    owner = _owner(previous)
    if epoch or owner is None:
        return Claim(client, epoch, owner)
    return owner
