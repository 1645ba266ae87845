"""The marked places of ``docs/performance.md``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.benchmarks.cases import SCENARIOS
from tests.benchmarks.growth import load_growth
from tests.benchmarks.joining import load_joining
from tests.benchmarks.record import Record, load
from tests.benchmarks.report.bars import bars_table
from tests.benchmarks.report.plots import plots
from tests.benchmarks.report.summary import Summaries
from tests.benchmarks.report.tables import (
    growth_table,
    held_table,
    joining_table,
    memory_table,
    resumed_table,
    retained_table,
    scenario_table,
    topologies_table,
)
from tests.benchmarks.retained import load_retained
from tests.benchmarks.topologies import load_topologies

PAGE: Final = Path("docs/performance.md")
IMAGES: Final = Path("docs/results")
BARS: Final = IMAGES / "bars.jsonl"
"""The runs for the table of bars, if they were measured by themselves."""
NOT_YET: Final = "Not measured yet."
_PLACE = re.compile(r"(<!-- measured: (?P<name>[a-z]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def write_report(files: Sequence[Path]) -> None:
    """Fill the marked places of the page from the records in *files*, and draw the plots."""
    records = load(path for path in files if path.exists())
    summaries = Summaries(records)
    images = dict(plots(summaries))
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, image in images.items():
        (IMAGES / f"{name}.svg").write_text(image, encoding="utf-8")
    growth, held = load_growth(IMAGES / "growth.jsonl")
    retained = load_retained(IMAGES / "retained.jsonl")
    contents = {
        **{name: scenario_table(summaries, name) for name in SCENARIOS},
        "adapters": scenario_table(Summaries(load([IMAGES / "adapters.jsonl"])), "adapters"),
        "bars": bars_table(Summaries(load([BARS])) if BARS.exists() else summaries),
        "machine": _machine(records),
        "rss": memory_table(summaries),
        "growth": growth_table(growth),
        "held": held_table(held),
        "joining": joining_table(load_joining(IMAGES / "joining.jsonl")),
        "topologies": topologies_table(load_topologies(IMAGES / "topologies.jsonl")),
        "retained": retained_table(retained),
        "resumed": resumed_table(retained),
    }
    for name in images:
        contents[name] += f"\n\n![{SCENARIOS[name].question}](results/{name}.svg)"
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), contents), encoding="utf-8")
    print(f"{PAGE}: {len(records)} runs, {len(images)} plots")


def fill(page: str, contents: dict[str, str]) -> str:
    """Return *page* with what is between its marks replaced."""

    def content(found: re.Match[str]) -> str:
        return f"{found[1]}\n{contents.get(found['name']) or NOT_YET}\n\n{found[3]}"

    return _PLACE.sub(content, page)


def _machine(records: Sequence[Record]) -> str:
    if not records:
        return ""
    dates = sorted(record.at[:10] for record in records)
    versions = sorted({f"{name} {number}" for record in records for name, number in record.versions.items()})
    machines = "; ".join(sorted({record.machine for record in records}))
    speeds = [record.speed for record in records]
    return (
        f"Measured from {dates[0]} to {dates[-1]} on {machines}. {', '.join(versions)}. "
        f"The machine's own speed went from {min(speeds):,.0f} to {max(speeds):,.0f} (thousand small encodings "
        f"and decodings a second of CPU) between runs: read differences that are smaller than that with care."
    )
