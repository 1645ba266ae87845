"""What is to be reached, and how far we are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tests.benchmarks.cases import SIZES, size_name
from tests.benchmarks.report.summary import Summaries, Summary
from tests.benchmarks.report.tables import number, table

FRAMEWORKS: Final = ("broadcaster", "litestar", "channels-pubsub", "channels-core")


def bars_table(summaries: Summaries) -> str:
    """Return each bar with what was measured: at 1.00 it is reached."""
    rows = [
        (case, bar, f"{reached:.2f}", "yes" if reached >= 1 else "**no**") for case, bar, reached in _bars(summaries)
    ]
    return table(("case", "bar", "reached, 1 is the bar", ""), rows, left=2) if rows else ""


def _bars(every: Summaries) -> Iterator[tuple[str, str, float]]:
    for scenario, frameworks, batched, nats in (("seed", 20, 3, 2.5), ("broadcast", 15, 4, 2.5), ("topic", 15, 4, 2.5)):
        ours = every.get(scenario, "eventbus")
        rivals = [found for peer in FRAMEWORKS if (found := every.get(scenario, peer))]
        if ours and rivals:
            fastest = max(rivals, key=lambda rival: rival.rate[0])
            yield scenario, f"{frameworks} x {fastest.label}", ours.rate[0] / fastest.rate[0] / frameworks
        for peer, factor in (("redis-py-batched", batched), ("nats", nats)):
            yield from _times(scenario, ours, every.get(scenario, peer), factor)
    if seed := every.get("seed", "eventbus"):
        yield "seed", "5 µs of the nodes per event", 5 / seed.median(lambda run: run.cpu_per_event)
        yield "seed", "p99 50 ms", 50 / seed.latency(0.99)
    if hot := every.get("hot", "eventbus", "receives only"):
        yield "hot", "250,000 remote events/s", hot.median(lambda run: run.remote_rate) / 250_000
        yield "hot", "p99 250 ms", 250 / hot.latency(0.99)
        yield from _times("hot", hot, every.get("hot", "nats", "receives only"), 2)
    yield from _latencies(every)
    yield from _consumers(every)
    for variant, bar in (("one node", 400_000), ("across nodes", 250_000)):
        if found := every.get("memory", "eventbus-memory", variant):
            yield f"memory, {variant}", f"{bar:,} events/s", found.rate[0] / bar
    for scenario in ("nodes", "clients"):
        if costs := [_own_cost(every, found) for found in every.of(scenario) if found.peer == "eventbus-memory"]:
            yield scenario, "cost within 20 %", 1.2 / (max(costs) / min(costs))
    for size in SIZES:
        ours, theirs = (every.get("sizes", peer, size_name(size)) for peer in ("eventbus", "redis-py"))
        if size >= 65_536:
            yield from _times(f"{size_name(size)}", ours, theirs, 0.7)


def _times(case: str, ours: Summary | None, theirs: Summary | None, factor: float) -> Iterator[tuple[str, str, float]]:
    if ours and theirs:
        yield case, f"{number(factor)} x {theirs.label}", ours.rate[0] / theirs.rate[0] / factor


def _latencies(every: Summaries) -> Iterator[tuple[str, str, float]]:
    ours, theirs = every.get("latency", "eventbus"), every.get("latency", "redis-py")
    if ours and theirs:
        for share, name in ((0.5, "p50"), (0.99, "p99")):
            yield "unloaded", f"{name} 1.1 x {theirs.label}", 1.1 * theirs.latency(share) / ours.latency(share)
    ours, theirs = (every.get("request", peer, "1 at a time") for peer in ("eventbus", "redis-py"))
    if ours and theirs:
        yield "request", f"p50 1.2 x {theirs.label}", 1.2 * theirs.latency(0.5) / ours.latency(0.5)
    if ours and (many := every.get("request", "eventbus", "64 at a time")):
        yield "request", "64 at a time: 10 x the rate", many.rate[0] / ours.rate[0] / 10


def _consumers(every: Summaries) -> Iterator[tuple[str, str, float]]:
    for peer in ("eventbus", "eventbus-memory"):
        plain = every.get("handlers", peer, "function")
        for variant in ("async def", "async for"):
            if plain and (other := every.get("handlers", peer, variant)):
                yield f"{variant}, {plain.label}", "75 % of functions", other.rate[0] / plain.rate[0] / 0.75


def _own_cost(every: Summaries, summary: Summary) -> float:
    """Return the CPU of an event without the harness' own work, at the machine's usual speed."""

    def at_speed(found: Summary) -> float:
        return found.median(lambda run: run.cpu_per_event * run.speed)

    harness = every.get(summary.case.scenario, "nothing", summary.case.variant)
    return at_speed(summary) - (at_speed(harness) if harness else 0.0)
