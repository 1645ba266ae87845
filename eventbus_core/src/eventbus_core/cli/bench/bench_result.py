"""The result of a bench: a table for people, one object for programs."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import msgspec
from rich.table import Table

from eventbus_core._version import __version__
from eventbus_core.cli.console import figures_table, milliseconds
from eventbus_core.cli.demo.summary import Summary

FAULT_COLUMNS: Final = ("lost", "duplicated", "misrouted", "reordered")
LIBRARIES: Final = ("anyio", "hiredis", "msgspec", "redis")


class BenchResult(msgspec.Struct, frozen=True):
    """The output of ``eventbus bench --json``: the summary of each run, and the versions of the software."""

    saturated: Summary
    unloaded: Summary
    versions: dict[str, str]

    @property
    def flawless(self) -> bool:
        """Whether each receiver got each of its accepted events once, in order, and no others."""
        return self.saturated.flawless and self.unloaded.flawless


def versions() -> dict[str, str]:
    """Return the versions of Python, of eventbus and of the libraries below it."""
    found = {"python": platform.python_version(), "eventbus": __version__}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def bench_table(result: BenchResult) -> Table:
    """Return the figures of both runs."""
    shown = figures_table(("load", "events/s", "p50\nms", "p99\nms", "delivered", *FAULT_COLUMNS))
    for load, summary in (("saturated", result.saturated), ("unloaded", result.unloaded)):
        latency = (summary.latency_ms.p50, summary.latency_ms.p99)
        shown.add_row(
            load,
            f"{summary.events_per_second:,.0f}",
            *map(milliseconds, latency),
            f"{summary.delivered:,}",
            *(f"{getattr(summary, fault):,}" for fault in FAULT_COLUMNS),
        )
    return shown
