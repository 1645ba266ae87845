"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from tests.benchmarks.growth import Growth, Held
from tests.benchmarks.report.summary import Summaries, Summary

FLAWS: Final = ("lost", "duplicated", "misrouted", "reordered")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Return a table whose first *left* columns are text and whose others are numbers."""
    ruler = ["---" if column < left else "---:" for column in range(len(heads))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (heads, ruler, *rows))


def number(value: float) -> str:
    """Return *value* with three digits that matter, or whole if it is large."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def scenario_table(summaries: Summaries, scenario: str) -> str:
    """Return the figures of one scenario: medians of all runs, and what was wrong in all of them together."""
    found = summaries.of(scenario)
    if not found:
        return ""
    varied = any(summary.case.variant for summary in found)
    heads = (
        *(("case",) if varied else ()),
        "",
        "runs",
        "senders",
        "delivered/s",
        "min..max",
        "p50 ms",
        "p99 ms",
        "CPU µs, nodes",
        "CPU µs, server",
        *FLAWS,
    )
    rows = [(*((summary.case.variant,) if varied else ()), *_cells(summary)) for summary in found]
    return table(heads, rows, left=2 if varied else 1)


def _cells(summary: Summary) -> tuple[str, ...]:
    rate, least, most = summary.rate
    return (
        summary.label,
        f"{len(summary.runs)}",
        f"{summary.runs[0].senders}",
        f"{rate:,.0f}",
        f"{least:,.0f}..{most:,.0f}",
        number(summary.latency(0.5)),
        number(summary.latency(0.99)),
        number(summary.median(lambda run: run.cpu_per_event)),
        number(summary.median(lambda run: run.server_cpu_per_event)),
        *(f"{summary.total(flaw):,}" for flaw in FLAWS),
    )


def memory_table(summaries: Summaries) -> str:
    """Return how much memory all nodes together held while saturated."""
    rows = [
        (
            f"{summary.case.scenario} {summary.case.variant}".strip(),
            *(f"{_at(summary, share):,.0f}" for share in (0.0, 0.25, 0.5, 1.0)),
        )
        for summary in summaries
        if summary.peer == "eventbus" and summary.case.traffic in ("addressed", "broadcast", "topic", "hot", "busy")
    ]
    return table(("MiB of all nodes", "start", "at 1/4", "at 1/2", "end"), rows) if rows else ""


def _at(summary: Summary, share: float) -> float:
    """Return the memory, in MiB, that was held after so much of the time."""
    return summary.median(lambda run: run.rss[int(share * (len(run.rss) - 1))] if run.rss else 0)


def growth_table(growth: Iterable[Growth]) -> str:
    """Return what Redis counted beside what was reckoned."""
    heads = ("an event to", "nodes", "subscribed", "PUBLISH", "bytes in", "bytes out", "copies", "reckoned")
    rows = [
        (
            {"client": "a client", "topic": "a topic", "everyone": "everyone"}[one.kind],
            f"{one.nodes}",
            f"{one.subscribers or '-'}",
            f"{one.publishes:.3f}",
            f"{one.bytes_in:,.0f}",
            f"{one.bytes_out:,.0f}",
            f"{one.copies:.2f}",
            f"{one.expected}",
        )
        for one in growth
    ]
    return table(heads, rows) if rows else ""


def held_table(held: Iterable[Held]) -> str:
    """Return the memory that the directory takes for clients."""
    rows = [(f"{one.clients:,}", f"{one.bytes_each:,.0f}") for one in held]
    return table(("clients", "bytes of Redis each"), rows, left=0) if rows else ""
