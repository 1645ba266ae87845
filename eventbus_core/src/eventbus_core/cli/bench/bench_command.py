"""``eventbus bench``: its output and its exit status."""

from __future__ import annotations

from typing import Final

import anyio
import typer

from eventbus_core.cli.arguments import AsJson, ClientCount, NodeCount, Seconds, UriOrMemory
from eventbus_core.cli.bench.bench_result import BenchResult, bench_table, versions
from eventbus_core.cli.console import StdoutConsole, print_json
from eventbus_core.cli.demo.conductor import NodeLost
from eventbus_core.cli.demo.demo_run import make_plan, prepare, run_demo
from eventbus_core.cli.demo.demo_tables import headline, show_progress, show_refusals
from eventbus_core.cli.demo.plan import Workload
from eventbus_core.cli.demo.summary import Summary, summarise
from eventbus_core.cli.demo.tally import add_tallies
from eventbus_core.cli.failure import fail
from eventbus_core.cli.visit import FLAWED, SIGNALLED

WORKLOADS: Final[tuple[Workload, ...]] = ("saturated", "unloaded")
BENCH_EXAMPLES: Final = """
Examples:

  eventbus bench

  eventbus bench redis://localhost:6379/0 --nodes 5 --clients 100 --seconds 10

  eventbus bench redis://localhost:6379/0 --json > bench.json
"""
# One line for each paragraph: Typer keeps line breaks.
BENCH_HELP: Final = """Measure the bus with your own broker: events per second, and latency.

There are two runs, of --seconds each. Saturated: each node sends to the clients of all nodes in turn, as fast as it \
can. Unloaded: one event every 2 ms goes to another node. Every delivery is checked. Latency is the time from just \
before a send to the handler; in the saturated run most of it is waiting in queues.

All nodes share the cores of this machine, with the broker too if it runs here: the figures are for all of them \
together. The exit status is 1 if an event was lost, duplicated, misrouted, reordered or refused. A bench runs in a \
namespace of its own; it loads the broker, and has no other effect on its users.
"""


def bench_command(
    uri: UriOrMemory = "memory://",
    nodes: NodeCount = 3,
    clients: ClientCount = 15,
    seconds: Seconds = 5.0,
    as_json: AsJson = False,
) -> None:
    """Measure how fast the bus is, saturated and unloaded, and show the figures."""
    address, run_node = prepare(uri)
    summaries: dict[Workload, Summary] = {}
    refused = 0
    for workload in WORKLOADS:
        plan = make_plan(nodes, clients, seconds, workload)
        try:
            with show_progress(workload, shown=not as_json) as on_progress:
                outcome = anyio.run(run_demo, address, run_node, plan, on_progress)
        except NodeLost as error:
            fail(str(error), FLAWED)
        if outcome.signal is not None:  # the figures of a run that was cut short mean nothing
            raise typer.Exit(SIGNALLED + outcome.signal)
        total = add_tallies(outcome.tallies)
        summaries[workload] = summarise(address, plan, total, outcome.start)
        refused += show_refusals(total.refusals)
    result = BenchResult(summaries["saturated"], summaries["unloaded"], versions())
    if as_json:
        print_json(result)
    else:
        _show(result)
    raise typer.Exit(0 if result.flawless and not refused else FLAWED)


def _show(result: BenchResult) -> None:
    console = StdoutConsole()
    console.print(headline(result.saturated))
    console.print()
    console.print_table(bench_table(result))
    console.print()
    console.print(", ".join(f"{name} {number}" for name, number in result.versions.items()), style="dim")
