"""The output of a run for people: progress, a table of the nodes, and a verdict."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic_ns

from rich.console import Console
from rich.live import Live
from rich.table import Table

from eventbus_core.cli.console import figures_table, milliseconds
from eventbus_core.cli.demo.conductor import OnProgress
from eventbus_core.cli.demo.demo_messages import Progress
from eventbus_core.cli.demo.plan import node_name
from eventbus_core.cli.demo.summary import Summary, latency_of
from eventbus_core.cli.demo.tally import Tally

NODE_HEADINGS = (
    *("node", "clients", "sent", "local", "remote", "topic"),
    *("to all", "events/s", "p50\nms", "p99\nms"),
)


class ProgressLine:
    """One line with the progress of all nodes, updated in place."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def update(self, nodes: Sequence[Progress], start: int) -> None:
        """Show the progress of *nodes*."""
        seconds = max(0.0, (monotonic_ns() - start) / 1e9)
        sent = sum(node.sent for node in nodes)
        delivered = sum(node.delivered for node in nodes)
        rate = delivered / seconds if seconds else 0.0
        self._live.update(
            f"{seconds:5.1f} s  {sent:>12,} sent  {delivered:>12,} delivered  {rate:>10,.0f} events/s", refresh=True
        )


@contextmanager
def show_progress(title: str = "", *, shown: bool) -> Iterator[OnProgress]:
    """Yield a function that shows progress on stderr, if *shown* and both streams are terminals."""
    console = Console(stderr=True, highlight=False)
    if not (shown and console.is_terminal and sys.stdout.isatty()):
        yield _ignore
        return
    if title:
        console.print(f"{title} ...")
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield ProgressLine(live).update


def _ignore(nodes: Sequence[Progress], start: int) -> None:
    pass


def show_refusals(refusals: Mapping[str, int]) -> int:
    """Print on stderr how many sends raised, and the most frequent message; return how many."""
    number = sum(refusals.values())
    if refusals:
        most = max(refusals, key=refusals.__getitem__)
        print(f"{number:,} sends were refused; the most frequent error: {most}", file=sys.stderr)
    return number


def nodes_table(tallies: Sequence[Tally], total: Tally, start: int) -> Table:
    """Return the table of all nodes; its last row is *total*."""
    table = figures_table(NODE_HEADINGS)
    for node, tally in enumerate(tallies):
        table.add_row(node_name(node), *_cells(tally, start))
    table.add_section()
    table.add_row("all", *_cells(total, start), style="bold")
    return table


def headline(summary: Summary) -> str:
    """Return one line that says what was run."""
    return f"{summary.uri}: nodes {summary.nodes}, clients {summary.clients}, seconds {summary.seconds:g}"


def verdict(summary: Summary, notes: dict[str, int]) -> str:
    """Return one or two lines that say what the result means."""
    lines = [f"expected {summary.expected:,} deliveries, {summary.delivered:,} arrived"]
    if summary.flawless:
        lines[0] += ": each once, in order, at the right receiver"
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
