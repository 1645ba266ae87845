"""The harness itself: a run finds what is right and what is wrong, and can be shown."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from time import monotonic_ns
from xml.etree import ElementTree

import pytest
from msgspec.structs import replace

from tests.benchmarks import topologies
from tests.benchmarks.cases import SCENARIOS, Case
from tests.benchmarks.ledger import Ledger
from tests.benchmarks.measure import measure
from tests.benchmarks.payload import Mixed, payload
from tests.benchmarks.peers import MODULES
from tests.benchmarks.peers.base import Context
from tests.benchmarks.peers.nothing import Nothing
from tests.benchmarks.record import append, load
from tests.benchmarks.report.bars import bars_table, needed
from tests.benchmarks.report.page import fill
from tests.benchmarks.report.plots import plots
from tests.benchmarks.report.summary import Summaries
from tests.benchmarks.report.tables import scenario_table, topologies_table
from tests.benchmarks.sending import Sending, is_hot, owners_of, receivers, targets
from tests.support import tasks, until

SECONDS = 0.5


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


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
        ("raw-protocol", "addressed"),
        ("raw-protocol", "topic"),
        ("prototype", "addressed"),
        ("prototype", "broadcast"),
        ("prototype", "topic"),
    ],
)
def test_a_run_on_a_server_of_its_own(peer: str, traffic: str) -> None:
    case = next(case for scenario in SCENARIOS.values() for case in scenario.cases if case.traffic == traffic)
    record = measure(case, peer, SECONDS, senders=4)
    assert record.clean
    assert record.delivered > 0
    assert record.server.commands > 0
    assert record.versions.keys() >= {"python", "redis-server"}


@pytest.mark.parametrize("case", [*SCENARIOS["uneven"].cases, *SCENARIOS["slow"].cases], ids=lambda case: case.variant)
def test_uneven_load_is_checked_and_the_undisturbed_are_timed(case: Case, tmp_path: Path) -> None:
    record = measure(case, "eventbus-memory", 2 * SECONDS, senders=1)
    assert record.clean
    assert 0 < record.undisturbed_latency(0.5) <= record.undisturbed_latency(1.0) <= record.latency(1.0)
    append(tmp_path / "runs.jsonl", record)
    assert "undisturbed p50 ms" in scenario_table(Summaries(load([tmp_path / "runs.jsonl"])), case.scenario)


def test_four_of_five_events_go_to_a_fifth_of_the_clients() -> None:
    case = SCENARIOS["uneven"].cases[0]
    sent = Counter(targets(case, 0))
    assert sent.keys() == set(range(case.clients))
    hot = {client for client in sent if is_hot(case, client)}
    assert len(hot) * 5 == case.clients
    assert sum(sent[client] for client in hot) * 5 == sent.total() * 4


def test_events_of_mixed_sizes_keep_what_they_carry() -> None:
    mixed = Mixed()
    sizes = Counter(len(mixed.make(3, number, 0)) for number in range(100))
    assert sizes == {100: 80, 2048: 15, 65_536: 5}
    assert all(mixed.read(mixed.make(3, number, 7))[:3] == (3, number, 7) for number in range(20))
    assert all(mixed.is_small(3, number) == (len(mixed.make(3, number, 0)) == 100) for number in range(20))


async def test_a_late_joiner_sends_from_the_middle_on() -> None:
    case = Case(scenario="uneven", traffic="joined", nodes=2, clients=1)
    owners = owners_of(case)
    assert owners == {"client-000000": 0}
    here, late = (Nothing(Context("", node, [], owners, case, 1)) for node in range(2))
    came: list[int] = []
    await here.start(lambda _, data: came.append(data["t"]))
    sending = Sending(case, 1, 1, late, lambda _receiver, _data: None)
    start = monotonic_ns()
    await sending.run(start, start + 100_000_000)
    assert len(came) == sum(sending.accepted) > 0
    assert min(came) >= start + 50_000_000


async def test_a_node_that_is_told_too_late_sends_for_as_long() -> None:
    case = Case(scenario="memory", traffic="addressed", nodes=1, clients=1)
    peer = Nothing(Context("", 0, ["client-000000"], owners_of(case), case, 1))
    await peer.start(lambda _receiver, _data: None)
    sending = Sending(case, 0, 1, peer, lambda _receiver, _data: None)
    start = monotonic_ns() - 3_600_000_000_000
    async with tasks() as group:
        group.start_soon(sending.run, start, start + 60_000_000_000)
        await until(lambda: any(sending.accepted))


def test_a_run_can_be_recorded_and_shown(tmp_path: Path) -> None:
    records = [measure(case, "eventbus-memory", SECONDS, senders=1) for case in SCENARIOS["nodes"].cases[:2]]
    for record in records:
        append(tmp_path / "runs.jsonl", record)
    assert load([tmp_path / "runs.jsonl"]) == records
    summaries = Summaries(records)
    rows = scenario_table(summaries, "nodes").splitlines()
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| 2 nodes", "| 4 nodes"]
    assert bars_table(summaries) == ""  # the variant that has a bar was not measured
    for _, image in plots(summaries):
        ElementTree.fromstring(image)  # noqa: S314 - it is ours


def test_a_bar_is_reached_at_its_factor_of_the_best_rival() -> None:
    measured = measure(SCENARIOS["nodes"].cases[0], "eventbus-memory", SECONDS, senders=1)

    def row(name: str, rates: dict[str, float]) -> str:
        case = SCENARIOS[name].cases[0]
        runs = [replace(measured, case=case, peer=peer, rate=rate) for peer, rate in rates.items()]
        return bars_table(Summaries(runs))

    assert "| seed | 20 x the fastest framework | 1.00 | yes |" in row(
        "seed", {"eventbus": 2000.0, "broadcaster": 100.0, "litestar": 50.0}
    )
    assert "| seed | 1.2 x raw Protocol | 0.50 | **no** |" in row("seed", {"eventbus": 60.0, "raw-protocol": 100.0})
    assert "| memory one node | 450,000 events/s | 2.00 | yes |" in row("memory", {"eventbus-memory": 900_000.0})
    costs = [
        replace(measured, case=case, cpu=cost * measured.delivered, speed=1.0)
        for case, cost in zip(SCENARIOS["clients"].cases, (2.0, 1.0, 3.6), strict=True)
    ]
    assert "| clients 100,000 clients | cost 1.8 x the cheapest row | 0.50 | **no** |" in bars_table(Summaries(costs))


def test_every_bar_can_be_measured() -> None:
    runs = {
        (case.scenario, case.variant, peer) for one in SCENARIOS.values() for case in one.cases for peer in one.peers
    }
    assert needed() <= runs


def test_only_the_text_between_the_marks_is_replaced() -> None:
    page = "before\n<!-- measured: seed -->\n\nold\n\n<!-- end -->\nafter\n"
    assert fill(page, {"seed": "new"}) == page.replace("old", "new")
    assert "Not measured yet." in fill(page, {})
    assert fill(fill(page, {"seed": "new"}), {"seed": "old"}) == page


@pytest.mark.parametrize("size", [0, 16, 1000])
def test_a_ledger_names_the_fault(size: int) -> None:
    case = Case(scenario="seed", traffic="addressed", nodes=2, clients=2, size=size)
    data = payload(size)
    ledger = Ledger(data, 0, 2, receivers(case, 0, 1))
    for number in (0, 1, 3, 2, 2):  # overtaken, and doubled
        ledger.take("client-000000", data.make(0, number, 0))
    ledger.take("client-000001", data.make(1, 0, 0))  # that client is elsewhere
    found = ledger.find({0: 6})
    assert (found.delivered, found.lost, found.duplicated, found.misrouted, found.reordered) == (4, 2, 1, 1, 1)


@pytest.mark.redis
def test_topologies_can_be_measured_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topologies, "FRAMES", 200)
    topologies.record_topologies(tmp_path / "topologies.jsonl", 1, ["shards, 2"])
    (found,) = topologies.load_topologies(tmp_path / "topologies.jsonl")
    assert found.faults == 0
    assert found.delivered > 0
    assert all(0 < cost.busiest <= cost.cpu for cost in found.costs)
    assert topologies_table([found, found]).splitlines()[2].startswith("| shards, 2 | 2 |")


def test_a_ledger_times_the_undisturbed_apart() -> None:
    case = Case(scenario="seed", traffic="addressed", nodes=1, clients=1)
    data = payload(0)
    ledger = Ledger(data, 0, 1, receivers(case, 0, 1), lambda _stream, number: number > 7)
    ledger.time_every_event()
    for number in range(10):
        ledger.take("client-000000", data.make(0, number, 0))
    found = ledger.find({0: 10})
    assert sum(found.local_latencies.values()) == 10
    assert sum(found.undisturbed_latencies.values()) == 2
