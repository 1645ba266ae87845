"""One node of a run: its bus, its clients and their checks."""

from __future__ import annotations

from contextlib import AsyncExitStack
from time import monotonic, monotonic_ns
from typing import Final, TypeVar

import anyio

from eventbus_core.api.bus import Bus
from eventbus_core.api.connect import connect
from eventbus_core.cli.demo.check import Checker
from eventbus_core.cli.demo.demo_messages import (
    Command,
    Commands,
    Expect,
    Failed,
    Finish,
    Go,
    NodeReady,
    NodeResult,
    Progress,
    Sent,
    Settled,
    Stop,
    Tell,
)
from eventbus_core.cli.demo.latency_histogram import LatencyHistogram
from eventbus_core.cli.demo.plan import BROADCAST_TYPE, Plan, client_name, node_name
from eventbus_core.cli.demo.tally import Tally, tally_node
from eventbus_core.cli.demo.workloads import sender_of
from eventbus_core.errors import EventBusError
from eventbus_core.model.event import Event

QUIET_PERIOD: Final = 2.0
DEMO_FLUSH_TIMEOUT: Final = 10.0
PROGRESS_INTERVAL: Final = 0.25
SETTLE_INTERVAL: Final = 0.02

_C = TypeVar("_C", bound=Command)


async def run_node(uri: str, plan: Plan, node: int, commands: Commands, tell: Tell) -> None:
    """
    Run node number *node* of *plan* until it is told to finish, or until *commands* end.

    An error that eventbus raises on purpose is reported as :class:`Failed`.
    """
    try:
        async with connect(uri, node=node_name(node), namespace=plan.namespace) as bus:
            await DemoNode(plan, node, bus, commands, tell).run()
    except* EventBusError as group:
        tell(Failed(str(_first_error(group))))
    except* _ConductorEnded:
        pass


class _ConductorEnded(Exception):  # no error: then a node ends too
    """Raised when no command will come any more."""


class CheckedReceiver:
    """
    The handler of one receiver: checks each event and measures its latency.

    Attributes:
        checker: checks each event.
        last: when the last event with a time stamp arrived, in monotonic nanoseconds.
    """

    __slots__ = ("_latencies", "checker", "last")

    def __init__(self, checker: Checker, latencies: LatencyHistogram) -> None:
        self.checker = checker
        self.last = 0
        self._latencies = latencies

    def handle(self, event: Event) -> None:
        """Check *event*."""
        stream, number, sent_at, body = event.data
        self.checker.take(stream, number, body)
        if sent_at:
            self.last = now = monotonic_ns()
            self._latencies.add(now - sent_at)


class DemoNode:
    """Runs one node on an open bus, phase by phase."""

    def __init__(self, plan: Plan, node: int, bus: Bus, commands: Commands, tell: Tell) -> None:
        self._plan = plan
        self._node = node
        self._bus = bus
        self._commands = commands
        self._tell = tell
        self._receivers: list[CheckedReceiver] = []
        self._latencies = LatencyHistogram()
        self._sender = sender_of(plan, node, bus)
        self._last = 0

    async def run(self) -> None:
        """Run all phases, at the commands of the conductor."""
        async with AsyncExitStack() as clients, anyio.create_task_group() as tasks:
            await self._prepare(clients)
            self._tell(NodeReady())
            go = await self._next(Go)
            tasks.start_soon(self._report_progress)
            await self._send_for_a_while(go.start)
            with anyio.move_on_after(DEMO_FLUSH_TIMEOUT):
                await self._bus.flush()
            self._tell(Sent(self._sender.accepted))
            accepted = (await self._next(Expect)).accepted
            await self._settle(accepted)
            self._tell(Settled())
            await self._next(Finish)
            self._tell(NodeResult(self._tally(accepted)))
            tasks.cancel_scope.cancel()

    async def _prepare(self, clients: AsyncExitStack) -> None:
        plan = self._plan
        self._bus.on(BROADCAST_TYPE)(self._add_receiver([plan.everyone]).handle)
        for number in plan.clients_of(self._node):
            topics = plan.topics_of(number)
            receiver = self._add_receiver([number, *topics])
            client = await clients.enter_async_context(self._bus.client(client_name(number), handler=receiver.handle))
            for topic in topics:
                await client.subscribe(plan.topic(topic))
        await self._bus.ready()

    def _add_receiver(self, receivers: list[int]) -> CheckedReceiver:
        receiver = CheckedReceiver(Checker(self._plan.streams_to(receivers)), self._latencies)
        self._receivers.append(receiver)
        return receiver

    async def _send_for_a_while(self, start: int) -> None:
        """Send from *start*, or from now if that is over, for the time of the plan, or until a Stop arrives."""
        await anyio.sleep(max(0, start - monotonic_ns()) / 1e9)
        end = monotonic_ns() + int(self._plan.seconds * 1e9)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._cancel_on_stop, tasks.cancel_scope)
            tasks.cancel_scope.deadline = anyio.current_time() + (end - monotonic_ns()) / 1e9
            await self._sender.run(end)
            tasks.cancel_scope.cancel()

    async def _cancel_on_stop(self, scope: anyio.CancelScope) -> None:
        await self._next(Stop)
        scope.cancel()

    async def _settle(self, accepted: list[list[int]]) -> None:
        """Wait until all *accepted* events have arrived here, or none arrives for QUIET_PERIOD seconds."""
        sent = {
            self._plan.stream(sender, receiver): number
            for sender, numbers in enumerate(accepted)
            for receiver, number in enumerate(numbers)
        }
        expected = sum(receiver.checker.expected(sent) for receiver in self._receivers)
        arrived = self._count_arrived()
        self._last = max(receiver.last for receiver in self._receivers) or monotonic_ns()
        quiet_since = monotonic()
        while arrived < expected and monotonic() - quiet_since < QUIET_PERIOD:
            await anyio.sleep(SETTLE_INTERVAL)
            before, arrived = arrived, self._count_arrived()
            if arrived != before:
                quiet_since = monotonic()
                self._last = monotonic_ns()

    def _count_arrived(self) -> int:
        return sum(receiver.checker.count() for receiver in self._receivers)

    async def _report_progress(self) -> None:
        while True:
            self._tell(Progress(sum(self._sender.accepted), self._count_arrived()))
            await anyio.sleep(PROGRESS_INTERVAL)

    def _tally(self, accepted: list[list[int]]) -> Tally:
        stats = self._bus.stats()
        notes = {
            "undeliverable": stats.undeliverable,
            "missed": stats.missed,
            "dropped": stats.dropped,
            "handler failures": stats.handler_failures,
        }
        return tally_node(
            self._plan,
            self._node,
            [receiver.checker for receiver in self._receivers],
            accepted,
            last=self._last,
            latencies=self._latencies,
            refusals=dict(self._sender.refusals),
            notes=notes,
        )

    async def _next(self, kind: type[_C]) -> _C:
        """Return the next command of *kind*; skip others, which come too late to matter."""
        while True:
            try:
                command = await self._commands.receive()
            except anyio.EndOfStream:
                raise _ConductorEnded from None
            if isinstance(command, kind):
                return command


def _first_error(group: BaseExceptionGroup[EventBusError]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
