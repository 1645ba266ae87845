"""The suite bites: each of these backends is broken in one way, and fails the test of the guarantee that it breaks."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import AsyncIterator, Sequence
from functools import partial
from time import monotonic
from typing import ClassVar

import anyio
import attrs
import pytest
from anyio.lowlevel import checkpoint

from eventbus import register
from eventbus_core.backend import Claim, Frame, Interrupted, Node, Outcome, Owner, Partition, Terms, TransportURI
from eventbus_core.testing import BackendSuite, waiting
from eventbus_core.testing.suite.directory_suite import BRIEF_LEASE
from eventbus_memory import MemoryTransport
from eventbus_memory.directory import MemoryDirectory
from tests.sharded_memory import Sharded

SHORT_DEADLINE = BRIEF_LEASE + 0.5
"""Seconds until a test gives up that shall fail; those that shall pass have the usual deadline."""


class DeliversTwice(MemoryTransport):
    async def receive(self) -> AsyncIterator[Frame | Interrupted]:
        async for item in super().receive():
            yield item
            yield item


class IgnoresLeave(MemoryTransport):
    async def leave(self, partitions: Sequence[Partition]) -> None:
        await checkpoint()


class JoinsLate(MemoryTransport):
    """Its ``join`` takes effect with the next ``publish`` of anyone, after that."""

    late: ClassVar[list[tuple[MemoryTransport, Sequence[Partition]]]] = []

    async def join(self, partitions: Sequence[Partition]) -> None:
        await checkpoint()
        self.late.append((self, partitions))

    async def publish(self, frames: Sequence[Frame]) -> Sequence[int]:
        counts = await super().publish(frames)
        while self.late:
            transport, partitions = self.late.pop()
            await MemoryTransport.join(transport, partitions)
        return counts


class JoinsWhenReceiving(MemoryTransport):
    """Its ``join`` waits for a confirmation that only ``receive`` reads."""

    def __init__(self, uri: TransportURI, node: str) -> None:
        super().__init__(uri, node)
        self._reading = anyio.Event()

    async def join(self, partitions: Sequence[Partition]) -> None:
        await self._reading.wait()
        await super().join(partitions)

    async def receive(self) -> AsyncIterator[Frame | Interrupted]:
        self._reading.set()
        async for item in super().receive():
            yield item


class SwapsOrder(MemoryTransport):
    async def publish(self, frames: Sequence[Frame]) -> Sequence[int]:
        return await super().publish([*frames[2:], *frames[1::-1]])


class BeginsAndPublishes(MemoryTransport):
    """Its writes begin at once, and the call for their outcome makes them again."""

    def begin_publish(self, frames: Sequence[Frame]) -> Outcome | None:
        self._hand_over(frames)
        return partial(self.publish, frames)


class LosesTheLastOfABurst(MemoryTransport):
    async def publish(self, frames: Sequence[Frame]) -> Sequence[int]:
        counts = await super().publish(frames[:-1] if len(frames) > 100 else frames)
        return [*counts, 1][: len(frames)]


class LosesLargeFrames(MemoryTransport):
    async def publish(self, frames: Sequence[Frame]) -> Sequence[int]:
        return await super().publish([frame for frame in frames if len(frame.data) < 2**20])


class CountsWrongly(MemoryTransport):
    async def publish(self, frames: Sequence[Frame]) -> Sequence[int]:
        return [max(1, count) for count in await super().publish(frames)]


class SharesItsBuffer(MemoryTransport):
    async def publish(self, frames: Sequence[Frame]) -> Sequence[int]:
        return await super().publish([Frame(partition, bytearray(data)) for partition, data in frames])  # type: ignore[arg-type]


class OneNamespaceForAll(MemoryTransport):
    def __init__(self, uri: TransportURI, node: str) -> None:
        super().__init__(TransportURI(uri.scheme, uri.hosts), node)


class NeverCloses(MemoryTransport):
    async def receive(self) -> AsyncIterator[Frame | Interrupted]:
        async for item in super().receive():
            yield item
        await anyio.sleep_forever()


class StaysBrokenByACancelledPublish(MemoryTransport):
    _busy = False

    async def publish(self, frames: Sequence[Frame]) -> Sequence[int]:
        if self._busy:
            return [1] * len(frames)
        self._busy = True
        counts = await super().publish(frames)
        self._busy = False
        return counts


class StaysBrokenByACancelledJoin(MemoryTransport):
    def __init__(self, uri: TransportURI, node: str) -> None:
        super().__init__(uri, node)
        self._asked: set[Partition] = set()

    async def join(self, partitions: Sequence[Partition]) -> None:
        new = [partition for partition in partitions if partition not in self._asked]
        self._asked.update(partitions)
        await super().join(new)


class CutsLongPartitions(MemoryTransport):
    """As a broker does that reads the first 63 characters of a channel's name only."""

    async def join(self, partitions: Sequence[Partition]) -> None:
        await super().join([Partition(partition[:63]) for partition in partitions])

    async def publish(self, frames: Sequence[Frame]) -> Sequence[int]:
        return await super().publish([Frame(Partition(partition[:63]), data) for partition, data in frames])


class DropsFramesOfABusyReader(MemoryTransport):
    def _arrived(self, frame: Frame) -> None:
        if len(self._frames) < 500:
            super()._arrived(frame)


class MixesWritesOfDifferentRoutes(Sharded):
    """Keeps one buffer for the writes to all servers."""

    async def publish(self, frames: Sequence[Frame]) -> Sequence[int]:
        self._buffer = frames
        await checkpoint()
        return await MemoryTransport.publish(self, self._buffer)


class CutsLongKeys(MemoryDirectory):
    """As a database does whose keys, of the namespace and the client, have 300 characters at most."""

    def _key(self, client: str) -> str:
        return client[: 300 - len(self._namespace)]

    async def claim(self, clients: Sequence[str], takeover: bool) -> Sequence[Claim | Owner]:
        return await super().claim([self._key(client) for client in clients], takeover)

    async def locate(self, clients: Sequence[str]) -> Sequence[Owner | None]:
        return await super().locate([self._key(client) for client in clients])


class MeetsItsOwnEntry(MemoryDirectory):
    """An entry whose answer was lost keeps its node out, until its lease ends."""

    async def enter(self, node: str, lease: float, terms: Terms) -> int:
        incarnation = await super().enter(node, lease, terms)
        entered, self._lease = self._lease, None
        await checkpoint()
        self._lease = entered
        return incarnation


class LooksBeforeItClaims(MemoryDirectory):
    """No compare-and-set: others may claim between its look and its leap."""

    async def claim(self, clients: Sequence[str], takeover: bool) -> Sequence[Claim | Owner]:
        owners = await self.locate(clients)
        await checkpoint()
        return [
            self._claim(client, True) if takeover or owner is None else owner
            for client, owner in zip(clients, owners, strict=True)
        ]


class RepeatsEpochs(MemoryDirectory):
    async def claim(self, clients: Sequence[str], takeover: bool) -> Sequence[Claim | Owner]:
        self._hub.numbers = itertools.count(1)
        return await super().claim(clients, takeover)


class RepeatsIncarnations(MemoryDirectory):
    async def leave(self) -> None:
        await super().leave()
        self._hub.numbers = itertools.count(1)


class ReleasesTheClaimsOfOthers(MemoryDirectory):
    async def release(self, claims: Sequence[Claim]) -> None:
        await checkpoint()
        for claim in claims:
            self._hub.owners.pop(claim.client, None)


class LeaseNeverEnds(MemoryDirectory):
    async def nodes(self) -> Sequence[Node]:
        for lease in self._hub.leases.values():
            lease.ends = monotonic() + 1.0
        return await super().nodes()

    async def locate(self, clients: Sequence[str]) -> Sequence[Owner | None]:
        await self.nodes()
        return await super().locate(clients)


class SweepsWhatItSawBefore(MemoryDirectory):
    """Others may have claimed by now what was a dead node's when it looked."""

    async def renew(self) -> bool:
        dead = [client for client, owner in self._hub.owners.items() if not self._hub.alive(owner)]
        renewed = await super().renew()
        for client in dead:
            self._hub.owners.pop(client, None)
        return renewed


class SealsWhatOthersClaimed(MemoryDirectory):
    async def attach(self, claims: Sequence[Claim], seals: Sequence[str]) -> None:
        await checkpoint()
        for claim, seal in zip(claims, seals, strict=True):
            if owner := self._hub.owners.get(claim.client):
                self._hub.owners[claim.client] = attrs.evolve(owner, seal=seal)


class KeepsTheFirstSeal(MemoryDirectory):
    async def enter(self, node: str, lease: float, terms: Terms) -> int:
        founded = self._hub.terms
        incarnation = await super().enter(node, lease, terms)
        self._hub.terms = founded or self._hub.terms
        return incarnation


class ForgetsLosses(MemoryDirectory):
    async def renew(self) -> bool:
        renewed = await super().renew()
        if self._lease is not None:
            self._lease.last_loss = 0
        return renewed


class LeavesItsClients(MemoryDirectory):
    async def leave(self) -> None:
        await checkpoint()


def with_directory(directory: type[MemoryDirectory]) -> type[MemoryTransport]:
    class Mutant(MemoryTransport):
        def __init__(self, uri: TransportURI, node: str) -> None:
            super().__init__(uri, node)
            self.directory = self._records = directory(uri.namespace)

    return Mutant


@pytest.mark.parametrize(
    ("broken", "guarantee", "test"),
    [
        pytest.param(broken, guarantee.upper(), f"test_{guarantee}_{test}", id=broken.__name__)
        for broken, guarantee, test in [
            (DeliversTwice, "g2", "a_frame_arrives_once"),
            (IgnoresLeave, "g7", "frames_published_after_leave_do_not_arrive"),
            (JoinsLate, "g10", "frames_published_after_join_arrive"),
            (JoinsWhenReceiving, "g10", "frames_that_arrive_before_receive_are_kept"),
            (SwapsOrder, "g4", "frames_arrive_in_order"),
            (BeginsAndPublishes, "g4", "a_write_that_begins_at_once_is_a_write"),
            (LosesTheLastOfABurst, "g10", "bursts_arrive_whole"),
            (LosesLargeFrames, "g6", "the_largest_frame_arrives"),
            (CountsWrongly, "g5", "zero_receivers_is_a_fact"),
            (SharesItsBuffer, "g6", "any_bytes_arrive_equal_and_unshared"),
            (OneNamespaceForAll, "g12", "no_name_crosses_a_namespace"),
            (NeverCloses, "g9", "a_transport_closes_while_calls_wait"),
            (StaysBrokenByACancelledPublish, "g10", "frames_arrive_after_a_cancelled_publish"),
            (StaysBrokenByACancelledJoin, "g10", "a_cancelled_join_can_be_repeated"),
            (CutsLongPartitions, "g12", "names_of_full_length_are_kept_apart"),
            (DropsFramesOfABusyReader, "g10", "frames_that_arrive_while_the_reader_is_busy_are_kept"),
            (MixesWritesOfDifferentRoutes, "g10", "writes_of_different_routes_run_at_the_same_time"),
            (CutsLongKeys, "g12", "clients_of_full_length_are_kept_apart"),
            (MeetsItsOwnEntry, "g9", "an_entry_whose_answer_was_lost_can_be_repeated"),
            (LooksBeforeItClaims, "g8", "without_takeover_one_of_many_gets_the_client"),
            (RepeatsEpochs, "g8", "the_latest_claim_owns"),
            (RepeatsIncarnations, "g9", "incarnations_grow"),
            (ReleasesTheClaimsOfOthers, "g8", "a_release_keeps_the_claims_of_other_nodes"),
            (LeaseNeverEnds, "g9", "the_clients_of_a_dead_node_are_free_within_its_lease"),
            (SweepsWhatItSawBefore, "g9", "many_nodes_may_clean_up_after_a_dead_one_at_once"),
            (ForgetsLosses, "g8", "a_directory_that_knows_the_last_loss_tells_each"),
            (LeavesItsClients, "g9", "a_leave_frees_the_clients"),
            (SealsWhatOthersClaimed, "g12", "a_seal_stays_with_its_claim"),
            (KeepsTheFirstSeal, "g12", "seals_of_secrets_are_compared_at_entry"),
        ]
    ],
)
def test_a_broken_backend_fails_by_the_name_of_the_guarantee(
    broken: type[MemoryTransport] | type[MemoryDirectory], guarantee: str, test: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "DEADLINE", SHORT_DEADLINE)
    transport = broken if issubclass(broken, MemoryTransport) else with_directory(broken)
    register("mutant", transport)
    with pytest.raises(AssertionError, match=rf"(?s)^.*broken: {guarantee} \("):
        run(test, "mutant://conformance")


@pytest.mark.parametrize(
    ("broken", "capability", "test"),
    [
        (SwapsOrder, "ordered", "test_g4_frames_arrive_in_order"),
        (CountsWrongly, "counts_receivers", "test_g5_zero_receivers_is_a_fact"),
        (MemoryTransport, "durable", "test_g10_a_durable_frame_outlives_the_broker"),
    ],
)
def test_a_backend_is_not_held_to_what_it_does_not_declare(
    broken: type[MemoryTransport], capability: str, test: str
) -> None:
    class Modest(broken):  # type: ignore[misc,valid-type]
        capabilities = attrs.evolve(MemoryTransport.capabilities, **{capability: False})

    register("mutant", Modest)
    with pytest.raises(pytest.skip.Exception, match=f"does not declare '{capability}'"):
        run(test, "mutant://conformance")


def test_a_backend_is_held_to_frames_of_the_size_that_it_declares() -> None:
    class Modest(LosesLargeFrames):
        capabilities = attrs.evolve(MemoryTransport.capabilities, max_frame_size=2**20 - 1)

    register("mutant", Modest)
    run("test_g6_the_largest_frame_arrives", "mutant://conformance")


@pytest.mark.parametrize("keeps", [True, False])
def test_a_backend_that_declares_to_be_durable_is_held_to_it(keeps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Durable] = []

    class Durable(MemoryTransport):
        capabilities = attrs.evolve(MemoryTransport.capabilities, durable=True)

        async def open(self) -> None:
            await super().open()
            opened.append(self)

    def restart() -> None:
        if not keeps:
            for transport in opened:
                transport._frames.clear()

    register("mutant", Durable)
    test = BackendSuite().test_g10_a_durable_frame_outlives_the_broker
    check = partial(test, uri="mutant://conformance", restart=restart)
    if keeps:
        anyio.run(check)
    else:
        monkeypatch.setattr(waiting, "DEADLINE", SHORT_DEADLINE)
        with pytest.raises(AssertionError, match=r"(?s)^.*broken: G10 \("):
            anyio.run(check)


def run(test: str, uri: str) -> None:
    suite = BackendSuite()
    method = getattr(suite, test)
    if inspect.iscoroutinefunction(method):
        anyio.run(partial(method, uri=uri))
    else:
        method(uri=uri, anyio_backend_name="asyncio")
