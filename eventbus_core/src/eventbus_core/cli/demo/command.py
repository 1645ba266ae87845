"""``eventbus demo``: from its options to its exit status."""

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
from eventbus_core.cli.demo.conductor import NodeLost, OnProgress
from eventbus_core.cli.demo.messages import Progress
from eventbus_core.cli.demo.plan import Plan
from eventbus_core.cli.demo.run import Outcome, make_plan, prepare, run_demo
from eventbus_core.cli.demo.summary import Summary, summarise
from eventbus_core.cli.demo.table import ProgressLine, headline, nodes_table, stdout_console, verdict
from eventbus_core.cli.demo.tally import Tally, add_up

FLAWED: Final = 1
SIGNALLED: Final = 128  # plus its number, as shells have it

EXAMPLES: Final = """
Examples:

  eventbus demo

  eventbus demo redis://localhost:6379/0 --nodes 3 --clients 15 --seconds 5

  EVENTBUS_URI=redis://user:password@host:6379/0 eventbus demo --json
"""
# Paragraphs in one line each: Typer keeps line breaks.
HELP: Final = """Send as fast as possible between several nodes, and check every delivery.

Each node sends events to the clients of all nodes, some to topics and some to everyone. Each receiver \
checks that it gets what is for it, once and in order.

The exit status is 1 if anything was lost, duplicated, misrouted, reordered or refused. A demo has \
a namespace of its own: a Redis that others use is not disturbed.
"""


def demo_command(
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
    seconds: Annotated[float, typer.Option(min=0.1, help="For how long the nodes send.")] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")] = False,
) -> None:
    """Send as fast as possible between several nodes, check every delivery, and show what came of it."""
    address, place = prepare(uri)
    plan = make_plan(nodes, clients, seconds)
    try:
        with _progress(shown=not as_json) as on_progress:
            outcome = anyio.run(run_demo, address, place, plan, on_progress)
    except NodeLost as error:
        fail(str(error), FLAWED)
    flawless = _conclude(outcome, address, plan, as_json=as_json) if outcome.tallies else True
    if outcome.signal is not None:
        raise typer.Exit(SIGNALLED + outcome.signal)
    raise typer.Exit(0 if flawless else FLAWED)


def _conclude(outcome: Outcome, uri: str, plan: Plan, *, as_json: bool) -> bool:
    """Show what came of the demo; return whether all is well."""
    total = add_up(outcome.tallies)
    summary = summarise(uri, plan, total, outcome.start)
    if as_json:
        typer.echo(msgspec.json.encode(summary).decode())
    else:
        _show(summary, outcome, total)
    if total.refusals:
        message, _ = max(total.refusals.items(), key=lambda refusal: refusal[1])
        typer.echo(f"{sum(total.refusals.values()):,} sends were refused, most of them: {message}", err=True)
    return summary.flawless and not total.refusals


@contextmanager
def _progress(*, shown: bool) -> Iterator[OnProgress]:
    """Yield what shows progress on stderr, if *shown* and someone is looking."""
    console = Console(stderr=True, highlight=False)
    if shown and console.is_terminal and sys.stdout.isatty():
        with Live(console=console, auto_refresh=False, transient=True) as live:
            yield ProgressLine(live).update
    else:
        yield _ignore


def _ignore(nodes: Sequence[Progress], start: int) -> None:
    pass


def _show(summary: Summary, outcome: Outcome, total: Tally) -> None:
    console = stdout_console()
    console.print(headline(summary) + (" (interrupted)" if outcome.signal is not None else ""))
    console.print()
    console.print(nodes_table(outcome.tallies, total, outcome.start))
    console.print()
    console.print(verdict(summary, total.notes), style="green" if summary.flawless else "red")
