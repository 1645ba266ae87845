"""One demo from start to end: its nodes, its conductor, and what signals do to it."""

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

from eventbus_core.cli.demo.conductor import Conductor, NodeLost, OnProgress
from eventbus_core.cli.demo.messages import Command, Report
from eventbus_core.cli.demo.places import Place, here, in_child
from eventbus_core.cli.demo.plan import Plan
from eventbus_core.cli.demo.tally import Tally
from eventbus_core.cli.visit import without_options
from eventbus_core.connect import connect
from eventbus_core.discovery import load_backend
from eventbus_core.errors import EventBusError
from eventbus_core.uri import TransportURI

OURS: Final = ("node", "namespace", "wait_for_broker")


@attrs.define
class Outcome:
    """
    How a demo ended.

    Attributes:
        start: when the nodes started to send, in monotonic nanoseconds.
        tallies: one a node; none if it was cut short.
        signal: the number of the signal that ended it, if one did.
    """

    start: int = 0
    tallies: Sequence[Tally] = ()
    signal: int | None = None


def make_plan(nodes: int, clients: int, seconds: float) -> Plan:
    """Return a plan for a namespace of its own, so that demos disturb nobody, nor one another."""
    return Plan(f"demo-{secrets.token_hex(8)}", nodes, clients, seconds)


def prepare(uri: str) -> tuple[str, Place]:
    """
    Return *uri* without the options that a demo sets itself, and the place where its nodes run.

    Raises:
        ConfigurationError: no bus can be made of it; nothing was connected.
    """
    scheme = TransportURI.parse(uri).scheme
    cross_process = load_backend(scheme).capabilities.cross_process
    stripped = without_options(uri, *OURS)
    connect(stripped)
    return stripped, in_child if cross_process else here


async def run_demo(uri: str, place: Place, plan: Plan, on_progress: OnProgress) -> Outcome:
    """
    Run the demo of *plan*.

    SIGINT and SIGTERM end it early, but in good order; a second one at once.

    Raises:
        EventBusError: a node could not take part.
        NodeLost: its process ended too early, or does not answer.
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
                    nodes.start_soon(place, uri, plan, node, commands, _labelled(reporter.send_nowait, node))
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
        return  # a KeyboardInterrupt ends everything at once
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for received in signals:
            if outcome.signal is None and conductor.start:
                conductor.stop()
            else:
                nodes.cancel()
            outcome.signal = received
