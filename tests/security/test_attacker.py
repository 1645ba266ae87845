"""
An attacker with raw access to the broker and this source code, but without the secret.

Nothing is handled that was not sent, nothing is reported lost that was not, no handle ends, and all is counted.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import attrs
import pytest
import redis.asyncio

import eventbus
from eventbus import Bus, Retention
from eventbus_core.api.discovery import load_backend
from eventbus_core.backend import Frame, Owner, Partition, Transport, TransportURI
from eventbus_core.wrappers import sealed
from eventbus_memory.directory import MemoryDirectory
from eventbus_memory.hub import Hub
from tests.fuzz.mutation import Mutator
from tests.node.test_bad_frames import Outsider, event, own_event
from tests.security.test_seals import FOREIGN, FORMS, OLD, seals
from tests.support import DEADLINE, Inbox, buses, fence, fresh_namespace, take, until


@attrs.frozen
class Attacker(Outsider):
    """Reads and writes frames, rows and entries as they are."""

    uri: str
    server: Any

    async def rows(self) -> dict[str, Owner]:
        """Return the rows of clients, by the names that they have in the broker."""
        if self.server is None:
            return dict(self._hub.owners)
        found = await self.server.hgetall(f"eventbus:{self.namespace}:owners")
        parts = {name.decode(): row.decode().split(" ") for name, row in found.items() if name}
        return {name: Owner(node, int(inc), int(epoch), *seal) for name, (epoch, inc, node, *seal) in parts.items()}

    async def set_row(self, name: str, owner: Owner) -> None:
        if self.server is None:
            self._hub.owners[name] = owner
        else:
            row = f"{owner.epoch} {owner.incarnation} {owner.node} {owner.seal}".rstrip()
            await self.server.hset(f"eventbus:{self.namespace}:owners", name, row)

    async def alter_entries(self) -> int:
        """Turn one bit of the body of every retained entry; return how many there are."""
        if self.server is None:
            count = 0
            for stream in self._hub.streams.values():
                for place, (ends, entry) in enumerate(stream._entries):
                    stream._entries[place] = (ends, entry._replace(body=turned(entry.body)))
                    count += 1
            return count
        (key,) = [key async for key in self.server.scan_iter(f"*{self.namespace}*:e")]
        rows = await self.server.xrange(key)
        await self.server.delete(key)
        for id, fields in rows:
            await self.server.xadd(key, {**fields, b"b": turned(fields[b"b"])}, id)
        return len(rows)

    @property
    def _hub(self) -> Hub:
        assert isinstance(self.transport.directory, MemoryDirectory)
        return self.transport.directory._hub


def turned(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@asynccontextmanager
async def attacked(uri: str, count: int = 2, **options: Any) -> AsyncIterator[tuple[list[Bus], Attacker]]:
    namespace = fresh_namespace()
    parsed = attrs.evolve(TransportURI.parse(uri), namespace=namespace)
    async with (
        buses(uri, count, namespace=namespace, lease=DEADLINE, secret=OLD, **options) as opened,
        load_backend(parsed.scheme)(parsed, "outsider") as transport,
    ):
        server = redis.asyncio.from_url(uri) if uri.startswith("redis") else None
        try:
            yield opened, Attacker(transport, namespace, uri, server)
        finally:
            if server is not None:
                await server.aclose()


def rejected(bus: Bus) -> int:
    return sum(bus.stats().refused.values())


def unharmed(*nodes: Bus) -> None:
    for bus in nodes:
        stats = bus.stats()
        assert (stats.missed, stats.undeliverable, stats.dropped, stats.leases_lost) == (0, 0, 0, 0)


async def recorded(transport: Transport, into: list[Frame]) -> None:
    async for item in transport.receive():
        if isinstance(item, Frame):
            into.append(item)  # noqa: PERF401  # it never ends


@FORMS
async def test_g12_no_forged_frame_is_handled(uri: str, encrypt: bool) -> None:
    """Every kind of frame and note, in the name of a node; broken ones; and those of another secret or namespace."""
    async with attacked(uri, encrypt=encrypt) as ((a, b), attacker), a.client("alice") as alice:
        a.on("forged")(inbox := Inbox())
        await fence([b], [a])
        claims = [
            own_event(kind, {"client": "alice", "epoch": 2**60, "node": "n1"})
            for kind in ("$sys.taken-over", "$sys.moved", "$sys.handed-over", "$sys.superseded")
        ]
        plain = [
            *Mutator(1).frames(300),
            attacker.frame(event(), event("forged", "alice"), incarnation=b.stats().incarnation),
            attacker.frame(*claims, partition="n:n0", incarnation=b.stats().incarnation),
        ]
        others = [seals(FOREIGN, encrypt=encrypt), seals(OLD, encrypt=encrypt, namespace="another")]
        contexts = {to: sealed._context(Partition(to)) for to in ("n:n0", "all")}
        wrong = [other.seal(contexts["n:n0"], frame) for other in others for frame in plain]
        before = rejected(a)
        assert not before
        for to in contexts:
            await attacker.write(to, *plain)
            await attacker.write(to, *wrong)
        expected = 2 * (len(plain) + len(wrong))
        await until(lambda: rejected(a) >= expected, "all are counted")
        assert a.stats().refused == {"unsealed": 2 * len(plain), "wrong seal": 2 * len(wrong)}
        await fence([b], [a])
        await b.send("alice", "real", 1)
        assert [each.data for each in await take(alice, 1)] == [1]
        assert len(inbox) == 0
        unharmed(a, b)


@FORMS
async def test_g12_copies_of_frames_are_handled_once_and_elsewhere_never(uri: str, encrypt: bool) -> None:
    """Replayed, reordered, cut and altered, in the same partition and in every other one."""
    async with attacked(uri, encrypt=encrypt) as ((a, b), attacker), a.client("alice", handler=(inbox := Inbox())):
        a.on("news")(news := Inbox())
        copies: list[Frame] = []
        own, everyone = Partition("n:n0"), Partition("all")
        await attacker.transport.join([own, everyone])
        async with _reading(attacker.transport, copies):
            for number in range(20):
                await b.send("alice", "number", number)
                await b.broadcast("news", number)
            await inbox.got(20)
            await news.got(20)
        await fence([b], [a])
        copies = copies[:100]
        before = a.stats()
        random.Random(1).shuffle(copies)
        wrong = 0
        for to, data in copies:
            other = own if to == everyone else everyone
            for partition, bytes_ in ((to, data), (other, data), (to, data[:-1]), (to, turned(data))):
                await attacker.write(partition, bytes_)
            wrong += 3
        await until(lambda: a.stats().refused.get("wrong seal", 0) == wrong, "all are counted")
        await fence([b], [a])
        assert inbox.data == list(range(20))
        assert news.data == list(range(20))
        assert a.stats().duplicates > before.duplicates
        unharmed(a, b)


@asynccontextmanager
async def _reading(transport: Transport, into: list[Frame]) -> AsyncIterator[None]:
    async with anyio.create_task_group() as group:
        group.start_soon(partial(recorded, transport, into))
        yield
        await until(lambda: bool(into))
        group.cancel_scope.cancel()


async def test_g12_a_node_that_restarts_takes_no_copies_from_before(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed, "CLOCK_TOLERANCE", 0)
    async with attacked(uri, 1) as ((a,), attacker):
        own = Partition("n:again")
        copies: list[Frame] = []
        await attacker.transport.join([own])
        connect = partial(eventbus.connect, uri, node="again", namespace=a.namespace, secret=OLD)
        async with _reading(attacker.transport, copies), connect() as before:
            before.on("order")(inbox := Inbox())
            await a.send(before.address, "order", 1)
            await inbox.got(1)
        async with connect() as after:
            after.on("order")(inbox := Inbox())
            await attacker.write(own, *[frame.data for frame in copies])
            await until(lambda: after.stats().refused == {"stale seal": len(copies)}, "all are counted")
            await a.send(after.address, "order", 2)
            await inbox.got(1)
            assert inbox.data == [2]


def forgeries(owner: Owner, other: Owner) -> Iterator[Owner]:
    """Yield rows that an attacker may write in place of *owner*, who knows the row *other* of another client too."""
    for node, incarnation in ((owner.node, owner.incarnation), (other.node, other.incarnation), ("ghost", 1)):
        for epoch in (owner.epoch - 1, owner.epoch, owner.epoch + 1, 2**52):
            for seal in ("", "x", owner.seal, other.seal, owner.seal[:-4] + "AAAA"):
                forged = Owner(node, incarnation, epoch, seal)
                if forged != owner:
                    yield forged


@FORMS
async def test_g12_no_forged_row_moves_a_client_or_ends_its_handle(uri: str, encrypt: bool) -> None:
    async with attacked(uri, encrypt=encrypt) as ((a, b), attacker):
        async with a.client("acme/alice") as alice, b.client("acme/bob"):
            rows = await attacker.rows()
            assert ("acme/alice" in rows) is not encrypt
            assert all(owner.seal for owner in rows.values())
            (name,) = [name for name, owner in rows.items() if owner.node == "n0"]
            (owner,) = [owner for owner in rows.values() if owner.node == "n0"]
            (other,) = [owner for owner in rows.values() if owner.node == "n1"]
            rng = random.Random(2)
            for forged in rng.sample(list(forgeries(owner, other)), 12):
                epoch = alice.epoch
                await attacker.set_row(name, forged)
                found = await b.locate("acme/alice")
                assert found in (None, Owner("n0", owner.incarnation, alice.epoch))
                assert "acme/alice" not in [client async for client in b.clients("n1")]
                a._node.lease.hasten()
                await until(partial(_is_owner, b, "n0"), "the row is right again")
                assert alice.epoch >= epoch
                await b.send("acme/alice", "n", 1)
                assert [each.data for each in await take(alice, 1)] == [1]
            assert sorted([client async for client in b.clients()]) == ["acme/alice", "acme/bob"]
            assert sum(bus.stats().refused.get(kind, 0) for bus in (a, b) for kind in ("unsealed", "wrong seal"))
        unharmed(a, b)


async def _is_owner(bus: Bus, node: str) -> bool:
    owner = await bus.locate("acme/alice")
    return owner is not None and owner.node == node


@FORMS
async def test_g12_a_client_that_only_a_forged_row_claims_is_free(uri: str, encrypt: bool) -> None:
    async with attacked(uri, encrypt=encrypt) as ((a, b), attacker), b.client("acme/bob"):
        (other,) = (await attacker.rows()).values()
        (name, *_) = seals(OLD, encrypt=encrypt, namespace=a.namespace).hide("acme/alice")
        for seal in ("", other.seal, "x"):
            await attacker.set_row(name, attrs.evolve(other, epoch=2**50, seal=seal))
            assert await a.locate("acme/alice") is None
            assert [client async for client in a.clients()] == ["acme/bob"]
            with pytest.raises(eventbus.ClientNotFound):
                await a.send("acme/alice", "n")
            async with a.client("acme/alice", takeover=False) as alice:
                await b.send("acme/alice", "n", 1)
                assert [each.data for each in await take(alice, 1)] == [1]


@FORMS
async def test_g12_no_altered_entry_is_handed_out(uri: str, encrypt: bool) -> None:
    """Of a retained topic that was altered in the broker, its later entries are, and the others are a gap."""
    async with attacked(uri, encrypt=encrypt, retain={"chat.>": Retention()}) as ((a, b), attacker):
        for number in range(3):
            await a.publish("chat.1", number, durable=True)
        token = (await b.history("chat.1"))[0].position
        count = await attacker.alter_entries()
        assert count
        await a.publish("chat.1", 3, durable=True)
        assert [each.data for each in await b.history("chat.1")] == [3]
        async with b.client("back") as back:
            await back.subscribe("chat.1", since=token)
            gap, last = [each.data for each in await take(back, 2)]
            assert (gap.source, gap.missed, last) == ("#chat.1", 2, 3)
        assert b.stats().refused["wrong seal"] >= count
