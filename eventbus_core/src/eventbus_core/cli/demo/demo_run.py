"""One run from start to end: its nodes, its conductor, and its reaction to signals."""

from __future__ import annotations

import math
import secrets
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final

import anyio
import attrs

from eventbus_core.api.connect import connect
from eventbus_core.api.discovery import load_backend
from eventbus_core.backend import TransportURI
from eventbus_core.cli.demo.conductor import Conductor, NodeLost, OnProgress
from eventbus_core.cli.demo.demo_messages import Command, Report
from eventbus_core.cli.demo.node_process import RunNode, in_child_process, in_this_process
from eventbus_core.cli.demo.plan import Plan, Workload
from eventbus_core.cli.demo.tally import Tally
from eventbus_core.cli.visit import without_options
from eventbus_core.errors import EventBusError

OPTIONS_OF_RUN: Final = ("node", "namespace", "wait_for_broker")


@attrs.define
class Outcome:
    """
    The end of a run.

    Attributes:
        start: when the nodes started to send, in monotonic nanoseconds.
        tallies: one for each node; none if the run was cut short.
        signal: the number of the signal that ended the run, if any.
    """

    start: int = 0
    tallies: Sequence[Tally] = ()
    signal: int | None = None


def make_plan(nodes: int, clients: int, seconds: float, workload: Workload) -> Plan:
    """Return a plan with a namespace of its own, apart from all other users of the broker."""
    return Plan(f"demo-{secrets.token_hex(8)}", nodes, clients, seconds, workload)


def prepare(uri: str) -> tuple[str, RunNode]:
    """
    Return *uri* without the options that a run sets itself, and the function that runs a node.

    Raises:
        ConfigurationError: *uri* is not valid; nothing was connected.
    """
    scheme = TransportURI.parse(uri).scheme
    cross_process = load_backend(scheme).capabilities.cross_process
    stripped = without_options(uri, *OPTIONS_OF_RUN)
    connect(stripped)
    return stripped, in_child_process if cross_process else in_this_process


async def run_demo(uri: str, run_node: RunNode, plan: Plan, on_progress: OnProgress) -> Outcome:
    """
    Run *plan*.

    The first SIGINT or SIGTERM ends the sending early; a second one ends the run at once.

    Raises:
        EventBusError: a node could not take part.
        NodeLost: the process of a node ended early, or a node does not answer.
    """
    reporter, reports = anyio.create_memory_object_stream[tuple[int, Report]](math.inf)
    channels = [anyio.create_memory_object_stream[Command](math.inf) for _ in range(plan.nodes)]
    conductor = Conductor(plan, [sender for sender, _ in channels], reports, on_progress)
    outcome = Outcome()
    failure: EventBusError | NodeLost | None = None
    with ExitStack() as streams:
        streams.enter_context(reporter)
        streams.enter_context(reports)
        for sender, receiver in channels:
            streams.enter_context(sender)
            streams.enter_context(receiver)
        async with anyio.create_task_group() as watching:
            async with anyio.create_task_group() as nodes:
                watching.start_soon(_watch_signals, outcome, conductor, nodes.cancel_scope)
                for node, (_, commands) in enumerate(channels):
                    nodes.start_soon(run_node, uri, plan, node, commands, _labelled(reporter.send_nowait, node))
                try:
                    outcome.tallies = await conductor.run()
                except (EventBusError, NodeLost) as error:
                    failure = error
                    nodes.cancel_scope.cancel()
            watching.cancel_scope.cancel()
    if failure is not None:
        raise failure
    outcome.start = conductor.start
    return outcome


def _labelled(send: Callable[[tuple[int, Report]], None], node: int) -> Callable[[Report], None]:
    return lambda report: send((node, report))


async def _watch_signals(outcome: Outcome, conductor: Conductor, nodes: anyio.CancelScope) -> None:
    if sys.platform == "win32":
        return  # KeyboardInterrupt ends the run at once
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for received in signals:
            if outcome.signal is None and conductor.start:
                conductor.stop()
            else:
                nodes.cancel()
            outcome.signal = received
