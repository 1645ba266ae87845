"""Tables in Markdown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from statistics import median
from typing import Final

from tests.benchmarks.growth import Growth, Held
from tests.benchmarks.joining import Joined
from tests.benchmarks.record import Record
from tests.benchmarks.report.summary import Summaries, Summary
from tests.benchmarks.retained import MISSED, STREAM, WAYS, Came, Figures, Published, Took
from tests.benchmarks.topologies import Measured

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
    apart = any(run.undisturbed_latencies for summary in found for run in summary.runs)
    if apart:
        heads = (*heads, "undisturbed p50 ms", "p99 ms")
    rows = [
        (*((summary.case.variant,) if varied else ()), *_cells(summary), *(_undisturbed(summary) if apart else ()))
        for summary in found
    ]
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


def _undisturbed(summary: Summary) -> tuple[str, ...]:
    half, most = (summary.median(partial(Record.undisturbed_latency, share=share)) for share in (0.5, 0.99))
    return number(half), number(most)


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


def joining_table(joined: Iterable[Joined]) -> str:
    """Return what nodes in one process used to join each other, and then while idle."""
    heads = (
        "nodes",
        "lanes",
        "joined",
        "CPU s",
        "sent, a pair",
        "received, a pair",
        "MiB",
        "idle: CPU ms, a node and s",
        "idle: frames, a node and s",
    )
    rows = [
        (
            f"{one.nodes:,}",
            "all" if one.wildcard else "none",
            "together" if one.together else "one by one",
            f"{one.cpu:.2f}",
            f"{one.sent / one.pairs:.2f}",
            f"{one.received / one.pairs:.2f}",
            f"{one.memory / 2**20:.1f}",
            f"{one.idle * 1000:.2f}",
            f"{one.idle_sent:.2f}",
        )
        for one in joined
    ]
    return table(heads, rows, left=3) if rows else ""


def topologies_table(found: Iterable[Measured]) -> str:
    """Return the medians of what was measured on each topology."""
    runs: defaultdict[str, list[Measured]] = defaultdict(list)
    for one in found:
        runs[one.topology].append(one)
    sizes = [cost.size // 1024 for ones in list(runs.values())[:1] for cost in ones[0].costs]
    costs = [f"{size} KiB: {what}" for size in sizes for what in ("µs, all", "µs, busiest", "frames/s")]
    rows = [
        (
            name,
            f"{len(ones)}",
            *(
                number(median(getattr(one.costs[place], field) for one in ones))
                for place in range(len(sizes))
                for field in ("cpu", "busiest", "rate")
            ),
            number(median(one.delivered for one in ones)),
            number(median(one.server_cpu for one in ones)),
            f"{sum(one.faults for one in ones)}",
        )
        for name, ones in runs.items()
    ]
    heads = ("servers", "runs", *costs, "seed: delivered/s", "CPU µs, servers", "faults")
    return table(heads, rows) if rows else ""


def retained_table(figures: Sequence[Figures]) -> str:
    """Return the rates of each way to publish, and of retained topics by plain ones in the same round."""
    published = [one for one in figures if isinstance(one, Published)]
    rows = []
    for events in sorted({one.events for one in published}):
        runs = {way: [one for one in published if (one.way, one.events) == (way, events)] for way in WAYS}
        pairs = zip(runs["retained"], runs["plain"], strict=True)
        ratios = [kept.rate / plain.rate for kept, plain in pairs]
        rows.append(
            (
                f"{events}",
                *(f"{median(one.rate for one in runs[way]):,.0f}" for way in WAYS),
                f"{median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})",
                *(
                    f"{median(one.nodes for one in runs[way]):.1f} + {median(one.server for one in runs[way]):.1f}"
                    for way in WAYS
                ),
                *(f"{median(one.memory for one in runs[way]):.0f}" for way in ("retained", STREAM)),
            )
        )
    heads = (
        "events of a burst",
        *(f"{way}: events/s" for way in WAYS),
        "retained by plain",
        *(f"{way}: CPU us" for way in WAYS),
        "retained: bytes",
        f"{STREAM}: bytes",
    )
    return table(heads, rows, left=0) if rows else ""


def resumed_table(figures: Sequence[Figures]) -> str:
    """Return what readers cost that come back, and how long single calls take."""
    came = [one for one in figures if isinstance(one, Came)]
    took = [one for one in figures if isinstance(one, Took)]
    rows = []
    for streams in sorted({one.streams for one in came}):
        runs = [one for one in came if one.streams == streams]
        what = f"{runs[0].readers:,} readers of {'one topic' if streams == 1 else 'a topic each'}, {MISSED} events each"
        rows += [
            (f"{what}: seconds", *_spread([one.seconds for one in runs])),
            (f"{what}: ms of the server's CPU", *_spread([one.server * 1000 for one in runs])),
            (f"{what}: scripts run", *_spread([one.calls for one in runs])),
        ]
    rows += [
        ("one reader alone: ms", *_spread([one.alone for one in came])),
        ("PING of redis-py: ms", *_spread([one.ping for one in took])),
        ("`publish`: ms", *_spread([one.retained for one in took])),
        ("`publish(..., durable=True)`: ms", *_spread([one.durable for one in took])),
        ("the same by the PING of its run", *_spread([one.durable / one.ping for one in took])),
    ]
    return table(("", "median", "min..max"), rows) if took else ""


def _spread(values: Sequence[float]) -> tuple[str, str]:
    return (number(median(values)), f"{number(min(values))}..{number(max(values))}") if values else ("", "")
