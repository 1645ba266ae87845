"""Figures for people: ``python -m tests.faults.table FILE`` prints a table of all that was recorded there."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from tests.benchmarks.machine import describe
from tests.faults.audit import Figures
from tests.faults.form import CHOSEN

RECORD: Final = "EVENTBUS_FAULTS_RECORD"
COLUMNS: Final = ("sent", "delivered", "lost", "doubled", "reordered", "gaps", "reported")


class Row(msgspec.Struct, frozen=True):
    """The figures of one scenario, and where and how it ran."""

    scenario: str
    figures: Figures
    form: str
    server: str
    machine: str


def line(scenario: str, figures: Figures) -> str:
    """Return *figures* in a line."""
    counts = ", ".join(f"{getattr(figures, name):,} {name}" for name in COLUMNS)
    return f"{scenario}: {counts}, longest silence {figures.silence:.2f} s, p99 {figures.p99:.0f} ms"


def record(scenario: str, figures: Figures, server: str) -> None:
    """Add *figures* to the file that the environment names, if it does."""
    if path := os.environ.get(RECORD):
        with Path(path).open("ab") as file:
            file.write(msgspec.json.encode(Row(scenario, figures, CHOSEN, server, describe())) + b"\n")


def table(rows: Iterable[Row]) -> str:
    """Return *rows* as Markdown."""
    titles = ["scenario", *COLUMNS, "silence", "p99"]
    lines = [f"| {' | '.join(titles)} |", f"|---|{'--:|' * (len(titles) - 1)}"]
    for row in rows:
        counts = [f"{getattr(row.figures, name):,}" for name in COLUMNS]
        cells = [row.scenario, *counts, f"{row.figures.silence:.1f} s", f"{row.figures.p99:,.0f} ms"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(path: str) -> None:
    """Print what *path* holds."""
    rows = msgspec.json.decode(b"[" + b",".join(Path(path).read_bytes().splitlines()) + b"]", type=list[Row])
    places = sorted({(row.form, row.server, row.machine) for row in rows})
    for form, server, machine in places:
        print(f"EVENTBUS_FAULTS={form}, {server}, {machine}\n")
        print(table(row for row in rows if (row.form, row.server, row.machine) == (form, server, machine)), "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
