"""``eventbus bench``: from its options to its exit status."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Final

import anyio
import msgspec
import typer
from rich.console import Console
from rich.live import Live

from eventbus_core.cli import fail
from eventbus_core.cli.bench.loads import LOADS, Load
from eventbus_core.cli.bench.places import place_for
from eventbus_core.cli.bench.table import Result, table, versions
from eventbus_core.cli.demo.command import FLAWED, SIGNALLED
from eventbus_core.cli.demo.conductor import NodeLost, OnProgress
from eventbus_core.cli.demo.messages import Progress
from eventbus_core.cli.demo.places import here
from eventbus_core.cli.demo.run import make_plan, prepare, run_demo
from eventbus_core.cli.demo.summary import Summary, summarise
from eventbus_core.cli.demo.table import ProgressLine, headline, stdout_console
from eventbus_core.cli.demo.tally import add_up

EXAMPLES: Final = """
Examples:

  eventbus bench

  eventbus bench redis://localhost:6379/0 --nodes 5 --clients 100 --seconds 10

  eventbus bench redis://localhost:6379/0 --json > bench.json
"""
# Paragraphs in one line each: Typer keeps line breaks.
HELP: Final = """Measure the bus with your own broker: events per second, and latency.

First, saturated: each node sends to the clients of all nodes in turn, as fast as it can. Then, unloaded: one event \
every 2 ms goes to another node. Every delivery is checked. Latency is from just before a send to the handler; under \
saturation it is mostly waiting in queues.

All nodes and, for a broker on this machine, the broker share its cores: the figures are for all of them together. The \
exit status is 1 if anything was lost, duplicated, misrouted, reordered or refused. A bench has \
a namespace of its own: a Redis that others use is loaded, but not disturbed otherwise.
"""


def bench_command(
    uri: Annotated[
        str,
        typer.Argument(
            metavar="URI",
            envvar="EVENTBUS_URI",
            help="Where to connect. Taken from EVENTBUS_URI if not given: better for a URI with a password.",
        ),
    ] = "memory://",
    nodes: Annotated[int, typer.Option(min=1, help="How many nodes: one process each, if the backend can.")] = 3,
    clients: Annotated[int, typer.Option(min=1, help="How many clients, spread evenly over the nodes.")] = 15,
    seconds: Annotated[float, typer.Option(min=0.1, help="For how long each of the two runs sends.")] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")] = False,
) -> None:
    """Measure how fast the bus is, saturated and unloaded, and show the figures."""
    address, place = prepare(uri)
    summaries: dict[Load, Summary] = {}
    refused = 0
    for load in LOADS:
        plan = make_plan(nodes, clients, seconds)
        try:
            with _progress(load, shown=not as_json) as on_progress:
                outcome = anyio.run(run_demo, address, place_for(load, apart=place is not here), plan, on_progress)
        except NodeLost as error:
            fail(str(error), FLAWED)
        if outcome.signal is not None:  # it was cut short, and says nothing
            raise typer.Exit(SIGNALLED + outcome.signal)
        total = add_up(outcome.tallies)
        summaries[load] = summarise(address, plan, total, outcome.start)
        refused += _tell_refusals(total.refusals)
    result = Result(**summaries, versions=versions())
    if as_json:
        typer.echo(msgspec.json.encode(result).decode())
    else:
        _show(result)
    raise typer.Exit(0 if result.flawless and not refused else FLAWED)


@contextmanager
def _progress(load: Load, *, shown: bool) -> Iterator[OnProgress]:
    """Yield what shows progress on stderr, if *shown* and someone is looking."""
    console = Console(stderr=True, highlight=False)
    if not (shown and console.is_terminal and sys.stdout.isatty()):
        yield _ignore
        return
    console.print(f"{load} ...")
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield ProgressLine(live).update


def _ignore(nodes: Sequence[Progress], start: int) -> None:
    pass


def _tell_refusals(refusals: dict[str, int]) -> int:
    """Say on stderr how many sends raised, and what most of them said; return how many."""
    number = sum(refusals.values())
    if refusals:
        typer.echo(f"{number:,} sends were refused, most of them: {max(refusals, key=refusals.__getitem__)}", err=True)
    return number


def _show(result: Result) -> None:
    console = stdout_console()
    console.print(headline(result.saturated))
    console.print()
    console.print(table(result))
    console.print()
    console.print(", ".join(f"{name} {number}" for name, number in result.versions.items()), style="dim")
