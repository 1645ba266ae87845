"""Plots: rates by side, latencies, and cost by nodes, clients and sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from tests.benchmarks.record import SHARES
from tests.benchmarks.report.summary import Summaries, Summary
from tests.benchmarks.report.svg import COLOURS, WIDTH, Scale, bar, curve, decades, line, page, short, text

LEFT: Final = 190
RIGHT: Final = WIDTH - 100
ROW: Final = 22
TOP: Final = 34
PLOT_HEIGHT: Final = 280


def plots(summaries: Summaries) -> Iterator[tuple[str, str]]:
    """Yield each plot that can be made: its name, and the SVG."""
    for scenario, title in (
        ("seed", "Addressed: delivered events per second"),
        ("broadcast", "Broadcast: delivered events per second"),
        ("topic", "Topic: delivered events per second"),
    ):
        if found := summaries.of(scenario):
            yield scenario, rates(title, found)
    if found := summaries.of("latency"):
        yield "latency", distribution("Unloaded: milliseconds that a share of events did not exceed", found)
    for scenario, title in (
        ("nodes", "CPU per event by nodes, µs"),
        ("clients", "CPU per event by clients, µs"),
        ("sizes", "MB/s by size of data"),
    ):
        if len(found := summaries.of(scenario)) > 1:
            yield scenario, growth(title, scenario, found)


def rates(title: str, summaries: Sequence[Summary]) -> str:
    """Return bars, the fastest on top; a thin line shows the least and the most."""
    ranked = sorted(summaries, key=lambda summary: -summary.rate[0])
    scale = Scale(0, max(summary.rate[2] for summary in ranked), LEFT, RIGHT, logarithmic=False)
    parts = []
    for row, summary in enumerate(ranked):
        middle, least, most = summary.rate
        y = TOP + row * ROW
        ours = summary.peer.startswith("eventbus")
        parts += [
            text(LEFT - 8, y + 13, summary.label, "end"),
            bar(LEFT, y + 2, scale.at(middle) - LEFT, ROW - 6, COLOURS[0] if ours else COLOURS[1]),
            line(scale.at(least), y + ROW / 2 - 1, scale.at(most), y + ROW / 2 - 1),
            text(scale.at(most) + 8, y + 13, f"{middle:,.0f}"),
        ]
    return page(title, TOP + len(ranked) * ROW + 8, parts)


def distribution(title: str, summaries: Sequence[Summary]) -> str:
    """Return a curve a side: the share of events over the time."""
    curves = [
        (summary.label, [(max(summary.latency(share), 1e-3), share * 100) for share in SHARES])
        for summary in summaries
        if summary.runs[0].latencies
    ]
    return _lines(title, curves, percent=True)


def growth(title: str, scenario: str, summaries: Sequence[Summary]) -> str:
    """Return a curve a side: its cost over what grows, or its bytes a second over the size."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for summary in summaries:
        case = summary.case
        x = {"nodes": case.nodes, "clients": case.clients, "sizes": case.size}[scenario]
        y = summary.rate[0] * case.size / 1e6 if scenario == "sizes" else summary.median(lambda run: run.cpu_per_event)
        curves.setdefault(summary.label, []).append((x, y))
    return _lines(title, list(curves.items()))


def _lines(title: str, curves: Sequence[tuple[str, list[tuple[float, float]]]], *, percent: bool = False) -> str:
    left, right, bottom = 60, WIDTH - 200, TOP + PLOT_HEIGHT
    across = Scale(*decades([x for _, points in curves for x, _ in points]), left, right)
    top_value = 100.0 if percent else 1.1 * max(y for _, points in curves for _, y in points)
    up = Scale(0, top_value, bottom, TOP, logarithmic=False)
    parts = [line(across.at(tick), TOP, across.at(tick), bottom) for tick in across.ticks()]
    parts += [text(across.at(tick), bottom + 16, short(tick), "middle") for tick in across.ticks()]
    parts += [line(left, up.at(tick), right, up.at(tick)) for tick in up.ticks()]
    parts += [text(left - 6, up.at(tick) + 4, short(tick) + ("%" if percent else ""), "end") for tick in up.ticks()]
    for index, (label, points) in enumerate(curves):
        colour = COLOURS[index % len(COLOURS)]
        parts.append(curve([(across.at(x), up.at(y)) for x, y in points], colour))
        parts.append(text(right + 12, TOP + 12 + index * 18, label, colour=colour))
    return page(title, bottom + 28, parts)
