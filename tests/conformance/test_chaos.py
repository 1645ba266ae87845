"""The chaos transport: every fault happens, as often as asked, and again from the same seed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, cast

import pytest

import eventbus
from eventbus_core.api.discovery import load_backend
from eventbus_core.backend import Finding, Frame, TransportURI
from eventbus_core.concurrency.closing_iterator import closing_iterator
from eventbus_core.errors import OptionError, TransportUnavailable, UnknownBackendError
from eventbus_core.testing import ChaosTransport, chaos_around
from eventbus_core.testing.hosts import fresh_namespace
from eventbus_core.testing.simulation.bare_nodes import LANE, BareNode, bare_nodes, numbered
from eventbus_memory import MemoryTransport

LAST = b"last"


async def fate(faults: str, count: int = 300) -> BareNode:
    """What becomes of *count* frames on their way to a receiver with *faults*."""
    space = fresh_namespace()
    async with (
        bare_nodes("memory://chaos", "n0", namespace=space) as (one,),
        bare_nodes(f"chaos+memory://chaos?{faults}", "n1", namespace=space) as (two,),
    ):
        await two.join(LANE)
        await one.publish(LANE, *numbered(count))
        while LAST not in two.of(LANE):
            await one.publish(LANE, LAST)
    return two


def numbers(party: BareNode) -> list[int]:
    return [int(data) for data in party.of(LANE) if data != LAST]


async def test_without_faults_nothing_happens() -> None:
    assert numbers(await fate("seed=1")) == list(range(300))


async def test_frames_are_dropped() -> None:
    came = numbers(await fate("drop=0.5&seed=1"))
    assert came == sorted(set(came))
    assert 100 < len(came) < 200


async def test_frames_are_doubled() -> None:
    came = numbers(await fate("double=0.5&seed=1"))
    assert set(came) == set(range(300))
    assert came == sorted(came)
    assert 400 < len(came) < 500


async def test_frames_are_overtaken() -> None:
    came = numbers(await fate("reorder=0.2&seed=1"))
    assert sorted(came) == list(range(300))
    assert came != sorted(came)


async def test_a_cut_loses_frames_and_says_so() -> None:
    party = await fate("cut=0.1&seed=2")
    assert party.interruptions >= 300 - len(numbers(party)) > 10


async def test_a_cut_write_may_have_taken_any_number_of_frames() -> None:
    taken = set()
    async with bare_nodes(f"chaos+memory://{fresh_namespace()}?cut=1&seed=3") as (one, _):
        (direct,) = [one.transport._inner]  # type: ignore[attr-defined]
        await direct.join([LANE])
        for _ in range(50):
            with pytest.raises(TransportUnavailable, match="seed=3"):
                await one.publish(LANE, b"a", b"b")
            taken.add(len(direct._frames))
            direct._frames.clear()
    assert taken == {0, 1, 2}


async def test_a_seed_gives_the_same_faults_again() -> None:
    faults = "drop=0.1&double=0.1&reorder=0.1&cut=0&seed="
    first, second, other = [numbers(await fate(f"{faults}{seed}")) for seed in (7, 7, 8)]
    assert first == second != other


async def test_the_seed_is_told_if_it_was_made_up(caplog: pytest.LogCaptureFixture) -> None:
    load_backend("chaos+memory")  # the first who needs it makes it up
    from eventbus_core.wrappers import chaos

    chaos._seed_of_this_process.cache_clear()
    async with eventbus.connect("chaos+memory://", node="n0"), eventbus.connect("chaos+memory://", node="n1"):
        pass
    (message,) = [record.getMessage() for record in caplog.records if record.name == "eventbus.chaos"]
    assert message.startswith("faults are drawn from seed=")


async def test_a_bus_repairs_losses() -> None:
    async with (
        eventbus.connect("chaos+memory://repair?drop=0.3&seed=5", node="n0") as one,
        eventbus.connect("chaos+memory://repair?drop=0.3&seed=5", node="n1") as two,
        two.client("alice") as alice,
    ):
        for number in range(20):
            await one.send("alice", "note", number)
            await one.flush()
        assert [(await alice.receive()).data for _ in range(20)] == list(range(20))
        assert one.stats().repaired > 0


async def test_the_end_of_a_reader_ends_that_of_the_wrapped_transport() -> None:
    ended: list[str] = []

    class Noting(MemoryTransport):
        async def receive(self) -> Any:
            async with closing_iterator(super().receive()) as items:
                try:
                    async for item in items:
                        yield item
                finally:
                    ended.append(self.node)

    async with chaos_around(Noting)(TransportURI.parse("memory://"), "n0") as transport:
        await transport.join([LANE])
        await transport.publish([Frame(LANE, b"1")])
        async with aclosing(cast("AsyncGenerator[Any]", transport.receive())) as items:
            assert await anext(items) == Frame(LANE, b"1")
        assert ended == ["n0"]


def test_options_are_those_of_the_chaos_and_of_the_backend() -> None:
    eventbus.connect("chaos+redis://127.0.0.1:1?drop=0.5&prefix=ours")
    with pytest.raises(OptionError, match="option 'drop' is '2'"):
        eventbus.connect("chaos+memory://?drop=2")
    with pytest.raises(OptionError, match="unknown option 'dorp'; did you mean 'drop'"):
        eventbus.connect("chaos+memory://?dorp=0.2")
    with pytest.raises(UnknownBackendError, match="did you mean 'memory://'"):
        eventbus.connect("chaos+memroy://")


def test_it_promises_no_more_than_it_keeps() -> None:
    wrapped = load_backend("chaos+memory")
    assert issubclass(wrapped, ChaosTransport)
    assert not wrapped.capabilities.ordered
    assert wrapped.capabilities.counts_receivers


async def test_the_broker_of_the_wrapped_transport_is_diagnosed() -> None:
    found = [Finding("memory", "warning", "it is nearly full")]

    class Diagnosed(MemoryTransport):
        async def diagnose(self) -> list[Finding]:
            return found

    wrapped = chaos_around(Diagnosed)(TransportURI.parse("chaos+memory://?drop=0.1"), "n0")
    assert await wrapped.diagnose() == found
