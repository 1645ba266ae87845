"""The suite finds backends that fail while their broker restarts or hangs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import ClassVar

import anyio
import pytest
from anyio import from_thread
from anyio.lowlevel import checkpoint

from eventbus import register
from eventbus_core.backend import ALL_NODES, Frame, Interrupted, Partition, TransportURI
from eventbus_core.testing import BackendSuite, waiting
from eventbus_memory import MemoryTransport
from tests.conformance.test_mutants import SHORT_DEADLINE
from tests.sharded_memory import Sharded

RESTARTED = Frame(ALL_NODES, b"the broker restarted")


class Restarting(MemoryTransport):
    """Its broker can restart: the subscriptions are lost, and are back before ``Interrupted`` says so."""

    opened: ClassVar[list[Restarting]] = []

    async def open(self) -> None:
        await super().open()
        self.opened.append(self)
        self._lost: list[Partition] = []

    async def receive(self) -> AsyncIterator[Frame | Interrupted]:
        async for item in super().receive():
            if item is not RESTARTED:
                yield item
                continue
            for outcome in self._outcomes():
                if outcome is not None:
                    yield outcome
                await checkpoint()
            await self.join(self._lost)
            yield Interrupted("restarted")

    def _outcomes(self) -> Sequence[Interrupted | None]:
        return ()

    @classmethod
    def restart(cls) -> None:
        from_thread.run_sync(cls._restart)

    @classmethod
    def _restart(cls) -> None:
        for transport in cls.opened:
            hub = transport._open_hub()
            transport._lost = [name for name, members in hub.members.items() if transport._arrived in members]
            for partition in transport._lost:
                transport._drop(hub, partition)
            transport._arrived(RESTARTED)


def check_that_restarts_are_told(
    test: Callable[..., Awaitable[None]], transport: type[Restarting], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that *test* of the suite passes with :class:`Restarting`, and fails with any mutant of it."""
    monkeypatch.setattr(transport, "opened", [])
    register("mutant", transport)
    check = partial(test, uri="mutant://conformance", restart=transport.restart)
    if transport is Restarting:
        anyio.run(check)
    else:
        monkeypatch.setattr(waiting, "DEADLINE", SHORT_DEADLINE)
        with pytest.raises(AssertionError, match=r"(?s)^.*broken: G10 \("):
            anyio.run(check)


class SaysInterruptedTooEarly(Restarting):
    opened: ClassVar[list[Restarting]] = []

    def _outcomes(self) -> Sequence[Interrupted | None]:
        return [Interrupted("restarting"), *[None] * 20]

    async def receive(self) -> AsyncIterator[Frame | Interrupted]:
        said = False
        async for item in super().receive():
            if not (said and isinstance(item, Interrupted)):
                yield item
            said |= isinstance(item, Interrupted)


@pytest.mark.parametrize("transport", [Restarting, SaysInterruptedTooEarly])
def test_a_backend_that_says_interrupted_too_early_fails(
    transport: type[Restarting], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_that_restarts_are_told(
        BackendSuite().test_g10_interrupted_comes_after_the_subscription_is_back, transport, monkeypatch
    )


class Hanging(MemoryTransport):
    """Its broker can hang; calls wait for it, and end when the transport is closed."""

    opened: ClassVar[list[Hanging]] = []

    def __init__(self, uri: TransportURI, node: str) -> None:
        super().__init__(uri, node)
        self._answers = anyio.Event()
        self._answers.set()
        self.opened.append(self)

    async def join(self, partitions: Sequence[Partition]) -> None:
        await self._answers.wait()
        await super().join(partitions)

    async def publish(self, frames: Sequence[Frame]) -> Sequence[int]:
        await self._answers.wait()
        return await super().publish(frames)

    async def aclose(self) -> None:
        self._answers.set()
        await super().aclose()

    def go_on(self) -> None:
        self._answers.set()

    @classmethod
    @contextmanager
    def freeze(cls) -> Iterator[None]:
        for transport in cls.opened:
            transport._answers = anyio.Event()
        try:
            yield
        finally:
            for transport in cls.opened:
                transport.go_on()


class ClosesOnlyWhenAnswered(Hanging):
    async def aclose(self) -> None:
        await self._answers.wait()
        await super().aclose()


class HangsForGood(Hanging):
    def go_on(self) -> None:
        pass


@pytest.mark.parametrize(
    "test", ["g9_a_transport_closes_while_the_broker_hangs", "g10_frames_arrive_again_after_the_broker_hung"]
)
@pytest.mark.parametrize("transport", [Hanging, ClosesOnlyWhenAnswered, HangsForGood])
def test_a_backend_that_hangs_with_its_broker_fails(
    transport: type[Hanging], test: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hanging, "opened", [])
    register("mutant", transport)
    check = partial(getattr(BackendSuite(), f"test_{test}"), uri="mutant://conformance", freeze=transport.freeze)
    fails = {ClosesOnlyWhenAnswered: "g9_", HangsForGood: "g10"}
    if test[:3] == fails.get(transport):
        monkeypatch.setattr(waiting, "DEADLINE", SHORT_DEADLINE)
        with pytest.raises(AssertionError, match=rf"(?s)^.*broken: {test.split('_')[0].upper()} \("):
            anyio.run(check)
    else:
        anyio.run(check)


class InterruptsOneServer(Restarting):
    """Says of one server only that frames may have been lost, though all have restarted."""

    opened: ClassVar[list[Restarting]] = []

    async def receive(self) -> AsyncIterator[Frame | Interrupted]:
        async for item in super().receive():
            yield item._replace(partitions=[ALL_NODES]) if isinstance(item, Interrupted) else item


@pytest.mark.parametrize("transport", [Restarting, InterruptsOneServer])
def test_a_backend_that_names_too_few_partitions_fails(
    transport: type[Restarting], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_that_restarts_are_told(
        BackendSuite().test_g10_interrupted_names_every_partition_that_lost_frames, transport, monkeypatch
    )


class PublishesOneAfterTheOther(Sharded):
    """A write waits for those to other servers."""

    async def publish(self, frames: Sequence[Frame]) -> Sequence[int]:
        async with self._turn:
            return await super().publish(frames)

    async def open(self) -> None:
        self._turn = anyio.Lock()
        await super().open()


class InterruptsAll(Sharded):
    """Says that frames of all partitions may be lost when one server does not answer."""

    async def receive(self) -> AsyncIterator[Frame | Interrupted]:
        async for item in super().receive():
            if self.hung:
                yield Interrupted("a server hangs")
            yield item


@pytest.mark.parametrize("transport", [Sharded, PublishesOneAfterTheOther, InterruptsAll])
def test_a_backend_that_hangs_with_one_server_fails(transport: type[Sharded], monkeypatch: pytest.MonkeyPatch) -> None:
    register("mutant", transport)
    test = BackendSuite().test_g10_a_server_that_hangs_stalls_its_own_partitions_only
    check = partial(test, uri="mutant://conformance", freeze_one=transport.freeze_one)
    if transport is Sharded:
        anyio.run(check)
    else:
        monkeypatch.setattr(waiting, "DEADLINE", SHORT_DEADLINE)
        with pytest.raises(AssertionError, match=r"(?s)^.*broken: G10 \("):
            anyio.run(check)
