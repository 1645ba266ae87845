"""The messages of failures of the suite, and the order of its tests."""

from __future__ import annotations

import importlib
import pkgutil
import re
from types import ModuleType

import pytest

import eventbus
from eventbus import register
from eventbus_core.backend import Terms, TransportURI
from eventbus_core.testing import BackendSuite, simulation, suite, waiting
from eventbus_core.testing.simulation.streams import Streams
from eventbus_memory.directory import MemoryDirectory
from tests.conformance.test_mutants import SHORT_DEADLINE, LosesTheLastOfABurst, run, with_directory


def test_an_exception_that_does_not_come_names_the_guarantee() -> None:
    class AcceptsAnyTerms(MemoryDirectory):
        async def enter(self, node: str, lease: float, terms: Terms) -> int:
            return await super().enter(node, lease, Terms(1, 64))

    register("mutant", with_directory(AcceptsAnyTerms))
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE") as failure:
        run("test_g12_a_node_with_other_terms_is_refused", "mutant://conformance")
    assert failure.value.__notes__[0].startswith("broken: G12 (unharmed by bad input): ")


def test_missing_frames_are_counted_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "DEADLINE", SHORT_DEADLINE)
    register("mutant", LosesTheLastOfABurst)
    with pytest.raises(AssertionError, match=r"199 of 200 came, missing are b'0-199'"):
        run("test_g10_bursts_arrive_whole", "mutant://conformance")


@pytest.mark.parametrize("package", [simulation, suite])
def test_a_failed_assertion_shows_its_values(package: ModuleType) -> None:
    names = [found.name for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")]
    loaders = {name: type(importlib.import_module(name).__loader__).__name__ for name in names}
    assert {name for name, loader in loaders.items() if loader != "AssertionRewritingHook"} == set()


def test_each_clause_of_the_transport_runs_before_whole_buses() -> None:
    order = [kind.__name__ for kind in reversed(BackendSuite.__mro__) if kind.__name__.endswith("Suite")]
    assert order == [
        *("TransportSuite", "HistorySuite", "DisruptionSuite", "DirectorySuite", "SealsSuite"),
        *("BusSuite", "FailureSuite", "BackendSuite"),
    ]


def test_a_failure_under_faults_prints_the_uri_that_replays_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def settled(streams: Streams) -> None:
        raise AssertionError("an event was lost")

    monkeypatch.setattr(Streams, "settled", settled)
    with pytest.raises(AssertionError, match="an event was lost") as failure:
        run("test_g10_losses_are_repaired_or_told", "memory://conformance?lanes=8")
    (printed,) = re.findall(r"n0, n1, \.\.\. at (\S+)", "\n".join(failure.value.__notes__))
    assert printed.startswith("chaos+memory://conformance?lanes=8&")
    faults = TransportURI.parse(printed).options
    assert faults.keys() == {"lanes", "drop", "double", "reorder", "cut", "seed"}
    eventbus.connect(printed, node="n0")
