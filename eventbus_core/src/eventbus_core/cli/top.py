"""``eventbus top``: rates, queues and losses of each node, at intervals."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from time import monotonic
from typing import Annotated, Final, TypeAlias

import anyio
import msgspec
import typer
from rich.live import Live
from rich.table import Table
from rich.text import Text

from eventbus_core.api.bus import Bus
from eventbus_core.cli.arguments import AsJson, EndAfterReadings, UriArgument, duration
from eventbus_core.cli.console import StdoutConsole, figures_table, print_json
from eventbus_core.cli.failure import fail
from eventbus_core.cli.visit import FLAWED, no_node, visit
from eventbus_core.errors import EventBusError, TransportUnavailable
from eventbus_core.observability.histogram import Histogram
from eventbus_core.observability.stats import Stats

TOP_EXAMPLES: Final = """
Examples:

  eventbus top redis://localhost:6379/0

  eventbus top redis://localhost:6379/0 --interval 10 --json
"""
MIN_ANSWER_TIMEOUT: Final = 2.0
"""Seconds that a node has to answer at least: with less, a node that pauses for a moment seems to hang."""
LIVE_WIDTH: Final = 80  # in a narrower terminal, tables follow one another, since a live one would be cut off
TOP_HEADINGS: Final = ("node", "clients", "out/s", "in/s", "send\nms", "handle\nms", "answer\nms", "waiting")

Percentiles: TypeAlias = tuple[float, float]


class Sample(msgspec.Struct, frozen=True):
    """The counters of a node, when they arrived, and how long the node took to answer."""

    stats: Stats
    at: float
    took: float


class NodeRow(msgspec.Struct, frozen=True):
    """
    One node in the last interval; *stats* is ``None`` if it did not answer.

    Attributes:
        out_per_second, in_per_second: events to and from other nodes; ``None`` in the first interval of the node.
        answer_ms: how long the node took to answer.
        send_ms, handle_ms: p50 and p99 of ``send_seconds`` and ``handle_seconds``, in milliseconds; ``None`` in the
            first interval, and if no event was sent or handled.
    """

    node: str
    out_per_second: float | None = None
    in_per_second: float | None = None
    answer_ms: float | None = None
    send_ms: Percentiles | None = None
    handle_ms: Percentiles | None = None
    stats: Stats | None = None


def top_command(
    uri: UriArgument,
    interval: Annotated[
        float, typer.Option(parser=duration, metavar="SECONDS", help="Time between two readings.")
    ] = 2.0,
    count: EndAfterReadings = None,
    as_json: AsJson = False,
) -> None:
    """
    Show rates, queues and losses of each node.

    With --json, each line is an array of nodes.
    """
    console = StdoutConsole()

    async def work(bus: Bus) -> bool:
        before = await _samples(bus, interval)
        if not before:
            return False
        readings = _readings(bus, before, interval, count)
        if console.is_terminal and console.width >= LIVE_WIDTH and not as_json:
            with Live(console=console, auto_refresh=False, screen=count is None) as live:
                async for rows, outage in readings:
                    live.update(_table(rows, outage), refresh=True)
        else:
            async for rows, outage in readings:
                if outage:
                    print("warning:", outage, file=sys.stderr)
                if as_json:
                    print_json(rows)
                else:
                    console.print_table(_table(rows))
        return True

    if not visit(uri, work):
        fail(no_node(uri), FLAWED)


async def _readings(
    bus: Bus, before: Mapping[str, Sample | None], interval: float, count: int | None
) -> AsyncIterator[tuple[list[NodeRow], str]]:
    """
    Yield the rows of all nodes after each interval, *count* times if given.

    While the broker is unavailable, the rows are those of the nodes before, without answers; the error follows.
    """
    taken = 0
    while taken != count:
        await anyio.sleep(interval)
        try:
            now, outage = await _samples(bus, interval), ""
        except TransportUnavailable as error:
            now, outage = dict.fromkeys(before), f"{error}; trying again"
        yield [_row(node, before.get(node), sample) for node, sample in sorted(now.items())], outage
        before = now
        taken += 1


async def _samples(bus: Bus, interval: float) -> Mapping[str, Sample | None]:
    """Ask all other nodes at once."""
    samples: dict[str, Sample | None] = {}
    timeout = max(interval, MIN_ANSWER_TIMEOUT)

    async def ask(node: str) -> None:
        begin = monotonic()
        try:
            stats = await bus.node_stats(node, timeout=timeout)
        except EventBusError:
            samples[node] = None
        else:
            samples[node] = Sample(stats, monotonic(), monotonic() - begin)

    nodes = await bus.nodes()
    async with anyio.create_task_group() as asking:
        for node in nodes:
            if node.id != bus.node:
                asking.start_soon(ask, node.id)
    return samples


def _row(node: str, before: Sample | None, now: Sample | None) -> NodeRow:
    if now is None:
        return NodeRow(node)
    answer_ms = round(now.took * 1000, 2)
    if before is None or before.stats.incarnation != now.stats.incarnation:
        return NodeRow(node, answer_ms=answer_ms, stats=now.stats)
    new, old, seconds = now.stats, before.stats, now.at - before.at
    return NodeRow(
        node,
        round((new.sent_events - old.sent_events) / seconds, 1),
        round((new.received_events - old.received_events) / seconds, 1),
        answer_ms,
        _percentiles(new.send_seconds.since(old.send_seconds)),
        _percentiles(new.handle_seconds.since(old.handle_seconds)),
        new,
    )


def _percentiles(times: Histogram) -> Percentiles | None:
    p50, p99 = times.quantile(0.5), times.quantile(0.99)
    return None if p50 is None or p99 is None else (round(p50 * 1000, 2), round(p99 * 1000, 2))


def _table(rows: Sequence[NodeRow], outage: str = "") -> Table:
    table = figures_table(TOP_HEADINGS)
    table.caption = Text(outage, style="red") if outage else None
    table.add_column("faults")
    servers = [row.stats.server if row.stats else "" for row in rows]
    if any(servers):
        table.add_column("server")
    for row, server in zip(rows, servers, strict=True):
        table.add_row(row.node, *_cells(row), *([server] if any(servers) else ()))
    return table


def _cells(row: NodeRow) -> list[str]:
    stats = row.stats
    if stats is None:
        return [*("" for _ in TOP_HEADINGS[1:]), "no answer"]
    rates = ("-" if rate is None else f"{rate:,.0f}" for rate in (row.out_per_second, row.in_per_second))
    times = ("-" if ms is None else f"{ms[0]:,.1f}/{ms[1]:,.1f}" for ms in (row.send_ms, row.handle_ms))
    waiting = stats.waiting_events + stats.mailbox_events
    return [f"{stats.clients:,}", *rates, *times, f"{row.answer_ms:,.1f}", f"{waiting:,}", _faults(stats)]


def _faults(stats: Stats) -> str:
    """Return the counts of losses and near losses, in words."""
    counts = {
        "repaired": stats.repaired,
        "gaps": stats.missed,
        "dropped": stats.dropped,
        "undelivered": stats.undeliverable,
        "failures": stats.handler_failures,
    }
    return ", ".join(f"{number:,} {name}" for name, number in counts.items() if number) or "none"
