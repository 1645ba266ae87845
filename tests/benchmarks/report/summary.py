"""The runs of one case on one side, together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from statistics import median

import attrs

from tests.benchmarks.cases import SCENARIOS, Case
from tests.benchmarks.peers import MODULES
from tests.benchmarks.record import Record


@attrs.frozen
class Summary:
    """
    All measured runs of one case on one side.

    Attributes:
        rate: deliveries a second, as median, least and most.
    """

    case: Case
    peer: str
    runs: tuple[Record, ...]

    @property
    def label(self) -> str:
        return self.runs[0].label

    @property
    def rate(self) -> tuple[float, float, float]:
        rates = [run.rate for run in self.runs]
        return median(rates), min(rates), max(rates)

    def median(self, value: Callable[[Record], float]) -> float:
        """Return the median of what *value* says of each run."""
        return median(map(value, self.runs))

    def latency(self, share: float, *, remote: bool = False) -> float:
        """Return the median of a quantile of the latencies, in milliseconds."""
        return self.median(lambda run: run.latency(share, remote=remote))

    def total(self, flaw: str) -> int:
        """Return the sum of a count of what was wrong."""
        return sum(int(getattr(run, flaw)) for run in self.runs)


class Summaries:
    """All summaries, in the order of scenarios, their cases and sides."""

    def __init__(self, records: Iterable[Record]) -> None:
        runs: dict[tuple[str, str, str], list[Record]] = {}
        for record in records:
            if record.phase == "measured":
                runs.setdefault((record.case.scenario, record.case.variant, record.peer), []).append(record)
        self._all = {
            key: Summary(found[0].case, key[2], tuple(found)) for key, found in sorted(runs.items(), key=_rank)
        }

    def __iter__(self) -> Iterator[Summary]:
        return iter(self._all.values())

    def get(self, scenario: str, peer: str, variant: str = "") -> Summary | None:
        """Return one summary, if there is one."""
        return self._all.get((scenario, variant, peer))

    def of(self, scenario: str) -> list[Summary]:
        """Return the summaries of a scenario."""
        return [summary for summary in self if summary.case.scenario == scenario]


def _rank(item: tuple[tuple[str, str, str], list[Record]]) -> tuple[int, int, int]:
    (scenario, variant, peer), _ = item
    variants = [case.variant for case in SCENARIOS[scenario].cases]
    return list(SCENARIOS).index(scenario), variants.index(variant), list(MODULES).index(peer)
