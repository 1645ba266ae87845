"""``eventbus top``: what the nodes of a bus do, again and again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from time import monotonic
from typing import Annotated, Final, TypeAlias

import anyio
import msgspec
import typer
from rich.live import Live
from rich.table import Table

from eventbus_core.bus import Bus
from eventbus_core.cli.demo.table import figures_table, stdout_console
from eventbus_core.cli.visit import AsJson, UriArgument, visit
from eventbus_core.errors import EventBusError
from eventbus_core.histogram import Histogram
from eventbus_core.stats import Stats

EXAMPLES: Final = """
Examples:

  eventbus top redis://localhost:6379/0

  eventbus top redis://localhost:6379/0 --interval 10 --json
"""
HEADINGS: Final = ("node", "clients", "out/s", "in/s", "send\nms", "handle\nms", "answer\nms", "waiting")


Percentiles: TypeAlias = tuple[float, float]


class Sample(msgspec.Struct, frozen=True):
    """What a node had counted at a time, and how long it took to say so."""

    stats: Stats
    at: float
    took: float


class Row(msgspec.Struct, frozen=True):
    """
    One node over the last interval; it has no *stats* if it did not answer.

    Attributes:
        out_per_second, in_per_second: events to and from other nodes; ``None`` at the first look.
        answer_ms: how long it took to answer.
        send_ms, handle_ms: p50 and p99 of ``send_seconds`` and ``handle_seconds``, in milliseconds; ``None`` at the
            first look, and if nothing was sent or handled.
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
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds from one look to the next.")] = 2.0,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many looks.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what each node does: rates, queues, and what was lost; with --json, each line is an array of nodes."""
    console = stdout_console()

    async def work(bus: Bus) -> None:
        looks = _looks(bus, interval, count)
        if as_json:
            async for rows in looks:
                print(msgspec.json.encode(rows).decode(), flush=True)
        elif console.is_terminal:
            with Live(console=console, auto_refresh=False, screen=count is None) as live:
                async for rows in looks:
                    live.update(_table(rows), refresh=True)
        else:
            async for rows in looks:
                console.print(_table(rows))

    visit(uri, work)


async def _looks(bus: Bus, interval: float, count: int | None) -> AsyncIterator[list[Row]]:
    """Yield the rows of all nodes after each interval, *count* times."""
    before = await _samples(bus, interval)
    looks = 0
    while looks != count:
        await anyio.sleep(interval)
        now = await _samples(bus, interval)
        yield [_row(node, before.get(node), sample) for node, sample in sorted(now.items())]
        before = now
        looks += 1


async def _samples(bus: Bus, timeout: float) -> Mapping[str, Sample | None]:
    """Ask all other nodes at once."""
    samples: dict[str, Sample | None] = {}

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


def _row(node: str, before: Sample | None, now: Sample | None) -> Row:
    if now is None:
        return Row(node)
    answer_ms = round(now.took * 1000, 2)
    if before is None or before.stats.incarnation != now.stats.incarnation:
        return Row(node, answer_ms=answer_ms, stats=now.stats)
    new, old, seconds = now.stats, before.stats, now.at - before.at
    return Row(
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


def _table(rows: Sequence[Row]) -> Table:
    table = figures_table(HEADINGS)
    table.add_column("faults")
    for row in rows:
        table.add_row(row.node, *_cells(row))
    return table


def _cells(row: Row) -> list[str]:
    stats = row.stats
    if stats is None:
        return [*("" for _ in HEADINGS[1:]), "no answer"]
    rates = ("-" if rate is None else f"{rate:,.0f}" for rate in (row.out_per_second, row.in_per_second))
    times = ("-" if ms is None else f"{ms[0]:,.1f}/{ms[1]:,.1f}" for ms in (row.send_ms, row.handle_ms))
    waiting = stats.waiting_events + stats.mailbox_events
    return [f"{stats.clients:,}", *rates, *times, f"{row.answer_ms:,.1f}", f"{waiting:,}", _faults(stats)]


def _faults(stats: Stats) -> str:
    """Return what was lost, or nearly, and how much of it."""
    counts = {
        "repaired": stats.repaired,
        "gaps": stats.missed,
        "dropped": stats.dropped,
        "undelivered": stats.undeliverable,
        "failures": stats.handler_failures,
    }
    return ", ".join(f"{number:,} {name}" for name, number in counts.items() if number) or "none"
