"""The harness itself: a run finds what is right and what is wrong, and can be shown."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.benchmarks.cases import SCENARIOS, Case
from tests.benchmarks.ledger import Ledger
from tests.benchmarks.measure import measure
from tests.benchmarks.payload import payload
from tests.benchmarks.peers import MODULES
from tests.benchmarks.record import append, load
from tests.benchmarks.report.bars import bars_table
from tests.benchmarks.report.page import fill
from tests.benchmarks.report.plots import plots
from tests.benchmarks.report.summary import Summaries
from tests.benchmarks.report.tables import scenario_table
from tests.benchmarks.sending import receivers

SECONDS = 0.1


def test_scenarios_ask_sides_that_there_are() -> None:
    for scenario in SCENARIOS.values():
        assert set(scenario.peers) <= MODULES.keys()
        assert len({case.variant for case in scenario.cases}) == len(scenario.cases)


@pytest.mark.redis
@pytest.mark.parametrize(
    ("peer", "traffic"),
    [
        ("eventbus", "addressed"),
        ("eventbus", "request"),
        ("redis-py", "topic"),
        ("redis-py-batched", "broadcast"),
    ],
)
def test_a_run_on_a_server_of_its_own(peer: str, traffic: str) -> None:
    case = next(case for scenario in SCENARIOS.values() for case in scenario.cases if case.traffic == traffic)
    record = measure(case, peer, SECONDS, senders=4)
    assert record.clean
    assert record.delivered > 0
    assert record.server.commands > 0
    assert record.versions.keys() >= {"python", "redis-server"}


def test_a_run_can_be_recorded_and_shown(tmp_path: Path) -> None:
    records = [measure(case, "eventbus-memory", SECONDS, senders=1) for case in SCENARIOS["nodes"].cases[:2]]
    for record in records:
        append(tmp_path / "runs.jsonl", record)
    assert load([tmp_path / "runs.jsonl"]) == records
    summaries = Summaries(records)
    rows = scenario_table(summaries, "nodes").splitlines()
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| 2 nodes", "| 4 nodes"]
    assert "cost within 20 %" in bars_table(summaries)
    for _, image in plots(summaries):
        ElementTree.fromstring(image)  # noqa: S314 - it is ours


def test_only_what_is_between_the_marks_is_replaced() -> None:
    page = "before\n<!-- measured: seed -->\n\nold\n\n<!-- end -->\nafter\n"
    assert fill(page, {"seed": "new"}) == page.replace("old", "new")
    assert "Not measured yet." in fill(page, {})
    assert fill(fill(page, {"seed": "new"}), {"seed": "old"}) == page


@pytest.mark.parametrize("size", [0, 16, 1000])
def test_a_ledger_tells_what_is_wrong(size: int) -> None:
    case = Case(scenario="seed", traffic="addressed", nodes=2, clients=2, size=size)
    data = payload(size)
    ledger = Ledger(data, 0, 2, receivers(case, 0, 1))
    for number in (0, 1, 3, 2, 2):  # overtaken, and doubled
        ledger.take("client-000000", data.make(0, number, 0))
    ledger.take("client-000001", data.make(1, 0, 0))  # that client is elsewhere
    found = ledger.find({0: 6})
    assert (found.delivered, found.lost, found.duplicated, found.misrouted, found.reordered) == (4, 2, 1, 1, 1)
