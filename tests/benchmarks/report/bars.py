"""What is to be reached, and how far we are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import attrs

from tests.benchmarks.cases import SCENARIOS
from tests.benchmarks.report.summary import Summaries, Summary
from tests.benchmarks.report.tables import table

Figure: TypeAlias = Callable[[Summary], float]
"""What a bar compares; more is better."""


@attrs.frozen
class Bar:
    """
    A goal for a case.

    Attributes:
        goal: as the table names it.
        factor: how many times the figure of the best of *rivals* is to be reached; without rivals, the figure itself.
        ours: the side that is to reach it.
    """

    scenario: str
    goal: str
    factor: float
    figure: Figure
    rivals: tuple[str, ...] = ()
    variant: str = ""
    ours: str = "eventbus"

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants of the scenario that have to be measured."""
        return (self.variant,)

    def reached(self, every: Summaries) -> float | None:
        """Return which part of the goal is reached; ``None`` if that was not measured."""
        ours = every.get(self.scenario, self.ours, self.variant)
        rivals = [found for peer in self.rivals if (found := every.get(self.scenario, peer, self.variant))]
        if ours is None or (self.rivals and not rivals):
            return None
        return self.figure(ours) / max(map(self.figure, rivals), default=1.0) / self.factor


@attrs.frozen
class CostBar:
    """A goal for the cost of an event in one variant of a scenario: at most *factor* times that of the cheapest."""

    scenario: str
    goal: str
    factor: float
    variant: str
    ours: str = "eventbus-memory"
    rivals: tuple[str, ...] = ("nothing",)

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants of the scenario that have to be measured."""
        return tuple(case.variant for case in SCENARIOS[self.scenario].cases)

    def reached(self, every: Summaries) -> float | None:
        """Return which part of the goal is reached; ``None`` if that was not measured."""
        costs = {
            found.case.variant: _own_cost(every, found) for found in every.of(self.scenario) if found.peer == self.ours
        }
        return self.factor * min(costs.values()) / costs[self.variant] if self.variant in costs else None


def _rate(summary: Summary) -> float:
    return summary.rate[0]


def _median_speed(summary: Summary) -> float:
    return 1 / summary.latency(0.5)


def _tail_speed(summary: Summary) -> float:
    return 1 / summary.latency(0.99)


FRAMEWORKS: Final = ("broadcaster", "litestar")  # the layers of channels are slower than both by far
BATCHED: Final = ("redis-py-batched",)
REDIS: Final = ("redis-py",)
NATS: Final = ("nats",)

BARS: Final[tuple[Bar | CostBar, ...]] = (
    Bar("seed", "20 x the fastest framework", 20, _rate, FRAMEWORKS),
    Bar("seed", "3 x redis-py, batched by hand", 3, _rate, BATCHED),
    Bar("seed", "2.5 x NATS core, nats-py", 2.5, _rate, NATS),
    Bar("seed", "1.2 x raw Protocol", 1.2, _rate, ("raw-protocol",)),
    Bar("broadcast", "4 x redis-py, batched by hand", 4, _rate, BATCHED),
    Bar("broadcast", "2.5 x NATS core, nats-py", 2.5, _rate, NATS),
    Bar("broadcast", "0.9 x prototype with credit", 0.9, _rate, ("prototype",)),
    Bar("topic", "1.5 x redis-py, batched by hand", 1.5, _rate, BATCHED),
    Bar("topic", "3 x NATS core, nats-py", 3, _rate, NATS),
    Bar("latency", "p50 of redis-py", 1, _median_speed, REDIS),
    Bar("latency", "p99 of redis-py", 1, _tail_speed, REDIS),
    Bar("request", "p50 1.2 x two hops of redis-py", 1 / 1.2, _median_speed, REDIS, "1 at a time"),
    CostBar("nodes", "cost 1.8 x the cheapest row", 1.8, "32 nodes"),
    CostBar("clients", "cost 1.8 x the cheapest row", 1.8, "100,000 clients"),
    Bar("sizes", "0.8 x redis-py", 0.8, _rate, REDIS, "64 KiB"),
    Bar("memory", "450,000 events/s", 450_000, _rate, variant="one node", ours="eventbus-memory"),
)


def bars_table(summaries: Summaries) -> str:
    """Return each bar with what was measured: at 1.00 it is reached."""
    rows = [
        (f"{bar.scenario} {bar.variant}".strip(), bar.goal, f"{reached:.2f}", "yes" if reached >= 1 else "**no**")
        for bar in BARS
        if (reached := bar.reached(summaries)) is not None
    ]
    return table(("case", "bar", "reached, 1 is the bar", ""), rows, left=2) if rows else ""


def needed() -> set[tuple[str, str, str]]:
    """Return the scenario, the variant and the side of each run that a bar needs."""
    return {
        (bar.scenario, variant, peer) for bar in BARS for variant in bar.variants for peer in (bar.ours, *bar.rivals)
    }


def _own_cost(every: Summaries, summary: Summary) -> float:
    """Return the CPU of an event without the harness' own work, at the machine's usual speed."""

    def at_speed(found: Summary) -> float:
        return found.median(lambda run: run.cpu_per_event * run.speed)

    harness = every.get(summary.case.scenario, "nothing", summary.case.variant)
    return at_speed(summary) - (at_speed(harness) if harness else 0.0)
