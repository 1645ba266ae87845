"""What a demo shows to people: progress while it runs, a table of its nodes, and a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic_ns

from rich.console import Console
from rich.live import Live
from rich.table import Table

from eventbus_core.cli.demo.messages import Progress
from eventbus_core.cli.demo.plan import node_name
from eventbus_core.cli.demo.summary import Summary, latency_of
from eventbus_core.cli.demo.tally import Tally

HEADINGS = (
    *("node", "clients", "sent", "local", "remote", "topic"),
    *("to all", "events/s", "p50\nms", "p99\nms"),
)
WIDTH = 100  # where there is no terminal


def stdout_console() -> Console:
    """Return a console for results."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, WIDTH)
    return console


def figures_table(headings: Sequence[str]) -> Table:
    """Return a table of figures, with names in its first column; a terminal of 80 columns is to hold it unshortened."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    return table


def milliseconds(value: float | None) -> str:
    """Return *value* with about three figures, or a dash if there is none."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


class ProgressLine:
    """One line that shows how far all nodes are, in place."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def update(self, nodes: Sequence[Progress], start: int) -> None:
        """Show what *nodes* have told."""
        seconds = max(0.0, (monotonic_ns() - start) / 1e9)
        sent = sum(node.sent for node in nodes)
        delivered = sum(node.delivered for node in nodes)
        rate = delivered / seconds if seconds else 0.0
        self._live.update(
            f"{seconds:5.1f} s  {sent:>12,} sent  {delivered:>12,} delivered  {rate:>10,.0f} events/s", refresh=True
        )


def nodes_table(tallies: Sequence[Tally], total: Tally, start: int) -> Table:
    """Return the table of all nodes and, in the last row, of all together."""
    table = figures_table(HEADINGS)
    for node, tally in enumerate(tallies):
        table.add_row(node_name(node), *_cells(tally, start))
    table.add_section()
    table.add_row("all", *_cells(total, start), style="bold")
    return table


def headline(summary: Summary) -> str:
    """Return what was done, in a line."""
    return f"{summary.uri}: nodes {summary.nodes}, clients {summary.clients}, seconds {summary.seconds:g}"


def verdict(summary: Summary, notes: dict[str, int]) -> str:
    """Return what the result means, in a line or two."""
    lines = [f"expected {summary.expected:,} deliveries, came {summary.delivered:,}"]
    if summary.flawless:
        lines[0] += ": each once, in order, in the right place"
    else:
        lines[0] += (
            f": {summary.lost:,} lost, {summary.duplicated:,} duplicated, "
            f"{summary.misrouted:,} misrouted, {summary.reordered:,} reordered"
        )
    if notes:
        lines.append("the bus counted: " + ", ".join(f"{number:,} {name}" for name, number in sorted(notes.items())))
    return "\n".join(lines)


def _cells(tally: Tally, start: int) -> list[str]:
    latency = latency_of(tally)
    numbers = (tally.clients, tally.sent, tally.local, tally.remote, tally.topic, tally.broadcast)
    return [
        *(f"{number:,}" for number in numbers),
        f"{tally.rate(start):,.0f}",
        *map(milliseconds, (latency.p50, latency.p99)),
    ]
