"""``eventbus demo``: its output and its exit status."""

from __future__ import annotations

from typing import Final

import anyio
import typer

from eventbus_core.cli.arguments import AsJson, ClientCount, NodeCount, Seconds, UriOrMemory
from eventbus_core.cli.console import StdoutConsole, print_json
from eventbus_core.cli.demo.conductor import NodeLost
from eventbus_core.cli.demo.demo_run import Outcome, make_plan, prepare, run_demo
from eventbus_core.cli.demo.demo_tables import headline, nodes_table, show_progress, show_refusals, verdict
from eventbus_core.cli.demo.plan import Plan
from eventbus_core.cli.demo.summary import Summary, summarise
from eventbus_core.cli.demo.tally import Tally, add_tallies
from eventbus_core.cli.failure import fail
from eventbus_core.cli.visit import FLAWED, SIGNALLED

DEMO_EXAMPLES: Final = """
Examples:

  eventbus demo

  eventbus demo redis://localhost:6379/0 --nodes 3 --clients 15 --seconds 5

  EVENTBUS_URI=redis://user:password@host:6379/0 eventbus demo --json
"""
# One line for each paragraph: Typer keeps line breaks.
DEMO_HELP: Final = """Send events between several nodes as fast as possible, and check every delivery.

Each node sends events to the clients of all nodes, some to topics and some to all nodes. Each receiver \
checks that it gets its events, once and in order.

The exit status is 1 if an event was lost, duplicated, misrouted, reordered or refused. A demo runs in \
a namespace of its own and does not disturb other users of the broker.
"""


def demo_command(
    uri: UriOrMemory = "memory://",
    nodes: NodeCount = 3,
    clients: ClientCount = 15,
    seconds: Seconds = 5.0,
    as_json: AsJson = False,
) -> None:
    """Send events between several nodes as fast as possible, check every delivery, and show the result."""
    address, run_node = prepare(uri)
    plan = make_plan(nodes, clients, seconds, "mixed")
    try:
        with show_progress(shown=not as_json) as on_progress:
            outcome = anyio.run(run_demo, address, run_node, plan, on_progress)
    except NodeLost as error:
        fail(str(error), FLAWED)
    flawless = _conclude(outcome, address, plan, as_json=as_json) if outcome.tallies else True
    if outcome.signal is not None:
        raise typer.Exit(SIGNALLED + outcome.signal)
    raise typer.Exit(0 if flawless else FLAWED)


def _conclude(outcome: Outcome, uri: str, plan: Plan, *, as_json: bool) -> bool:
    """Show the result of the run; return whether it is flawless."""
    total = add_tallies(outcome.tallies)
    summary = summarise(uri, plan, total, outcome.start)
    if as_json:
        print_json(summary)
    else:
        _show(summary, outcome, total)
    refused = show_refusals(total.refusals)
    return summary.flawless and not refused


def _show(summary: Summary, outcome: Outcome, total: Tally) -> None:
    console = StdoutConsole()
    console.print(headline(summary) + (" (interrupted)" if outcome.signal is not None else ""))
    console.print()
    console.print_table(nodes_table(outcome.tallies, total, outcome.start))
    console.print()
    console.print(verdict(summary, total.notes), style="green" if summary.flawless else "red")
