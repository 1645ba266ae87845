"""What a bench shows: to people, and as one object to programs."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import msgspec
from rich.table import Table

from eventbus_core._version import __version__
from eventbus_core.cli.bench.loads import Load
from eventbus_core.cli.demo.summary import Summary
from eventbus_core.cli.demo.table import figures_table, milliseconds

FAULTS: Final = ("lost", "duplicated", "misrouted", "reordered")
LIBRARIES: Final = ("anyio", "hiredis", "msgspec", "redis")


class Result(msgspec.Struct, frozen=True):
    """What ``eventbus bench --json`` prints: the summary of each run, and the versions of what ran."""

    saturated: Summary
    unloaded: Summary
    versions: dict[str, str]

    @property
    def flawless(self) -> bool:
        """Whether each accepted event came once to its receiver, in order, and nothing else came."""
        return self.saturated.flawless and self.unloaded.flawless


def versions() -> dict[str, str]:
    """Return the versions of Python, of eventbus and of what it stands on."""
    found = {"python": platform.python_version(), "eventbus": __version__}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def table(result: Result) -> Table:
    """Return the figures of both runs."""
    shown = figures_table(("load", "events/s", "p50\nms", "p99\nms", "delivered", *FAULTS))
    loads: tuple[Load, ...] = ("saturated", "unloaded")
    for load in loads:
        summary: Summary = getattr(result, load)
        latency = (summary.latency_ms.p50, summary.latency_ms.p99)
        shown.add_row(
            load,
            f"{summary.events_per_second:,.0f}",
            *map(milliseconds, latency),
            f"{summary.delivered:,}",
            *(f"{getattr(summary, fault):,}" for fault in FAULTS),
        )
    return shown
