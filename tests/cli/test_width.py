"""Tables fit into a terminal of 80 columns, with figures as large as a fast machine makes them."""

from __future__ import annotations

import io

import attrs
import msgspec
from rich.console import Console
from rich.table import Table

import eventbus
from eventbus_core.cli.bench.bench_result import BenchResult, bench_table
from eventbus_core.cli.demo.demo_tables import nodes_table
from eventbus_core.cli.demo.latency_histogram import LatencyHistogram
from eventbus_core.cli.demo.plan import Plan
from eventbus_core.cli.demo.summary import summarise
from eventbus_core.cli.demo.tally import Tally
from eventbus_core.cli.top import NodeRow, _table

SECOND = 1_000_000_000
LATENCIES = LatencyHistogram()
LATENCIES.add(1_234_000_000)
TALLY = Tally(
    *(15, 2_000_000, 700_000, 1_300_000, 90_000, 9_000, 2_099_000, 0, 0, 0, 0),
    last=5 * SECOND,
    latencies=dict(LATENCIES.counts),
    refusals={},
    notes={},
)


def shown(table: Table) -> list[str]:
    console = Console(width=80, file=io.StringIO())
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "…" not in text
    return text.splitlines()


def test_the_table_of_a_demo_fits() -> None:
    assert "2,000,000" in shown(nodes_table([TALLY] * 3, TALLY, 0))[-1]


def test_the_table_of_a_bench_fits() -> None:
    summary = summarise("memory://", Plan("bench", 3, 15, 5.0), TALLY, 0)
    faulty = msgspec.structs.replace(summary, lost=99_999, duplicated=9_999_999, misrouted=99_999, reordered=9_999)
    assert "9,999,999" in shown(bench_table(BenchResult(faulty, summary, {})))[-2]


async def test_the_table_of_top_fits() -> None:
    async with eventbus.connect("memory://") as bus:
        stats = bus.stats()
    worst = attrs.evolve(
        stats,
        clients=100_000,
        waiting_events=500_000,
        repaired=12_345,
        missed=3,
        dropped=100_000,
        undeliverable=7,
        handler_failures=1,
    )
    rates = (99_999.0, 99_999.0, 12.3, (12.3, 123.4), (12.3, 123.4))
    lines = shown(_table([NodeRow("server-1", *rates, stats), NodeRow("server-2", *rates, worst), NodeRow("server-3")]))
    assert lines[2].split()[-1] == "none"
    assert "no answer" in lines[-1]
    words = " ".join(lines[3:-1]).split()
    for count in ("12,345", "3", "100,000", "7", "1"):
        assert count in words
