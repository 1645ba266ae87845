"""One node of a demo: its bus, its clients, and what they find."""

from __future__ import annotations

from contextlib import AsyncExitStack
from time import monotonic, monotonic_ns
from typing import Final, TypeVar

import anyio

from eventbus_core.bus import Bus
from eventbus_core.cli.demo.check import Checker
from eventbus_core.cli.demo.latency import Histogram
from eventbus_core.cli.demo.messages import (
    Command,
    Commands,
    Expect,
    Failed,
    Finish,
    Go,
    Progress,
    Ready,
    Result,
    Sent,
    Settled,
    Stop,
    Tell,
)
from eventbus_core.cli.demo.plan import BROADCAST_TYPE, Plan, client_name, node_name
from eventbus_core.cli.demo.sender import Sender
from eventbus_core.cli.demo.tally import Tally, tally_node
from eventbus_core.connect import connect
from eventbus_core.errors import EventBusError
from eventbus_core.event import Event

QUIET: Final = 2.0
FLUSH_TIMEOUT: Final = 10.0
PROGRESS_INTERVAL: Final = 0.25
POLL: Final = 0.02

C = TypeVar("C", bound=Command)


async def run_node(uri: str, plan: Plan, node: int, commands: Commands, tell: Tell) -> None:
    """
    Be the node number *node* of *plan* until told to finish, or until *commands* end.

    What eventbus raises is told as :class:`Failed`.
    """
    try:
        async with connect(uri, node=node_name(node), namespace=plan.namespace) as bus:
            await DemoNode(plan, node, bus, commands, tell).run()
    except* EventBusError as group:
        tell(Failed(str(_first(group))))
    except* anyio.EndOfStream:
        pass  # whoever led us is gone


class Inbox:
    """
    The handler of one receiver.

    Attributes:
        checker: checks each event.
        last: when the last one came that carried its time, in monotonic nanoseconds.
    """

    __slots__ = ("_latencies", "checker", "last")

    def __init__(self, checker: Checker, latencies: Histogram) -> None:
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
    """Does the work of :func:`run_node` on an open bus."""

    def __init__(self, plan: Plan, node: int, bus: Bus, commands: Commands, tell: Tell) -> None:
        self._plan = plan
        self._node = node
        self._bus = bus
        self._commands = commands
        self._tell = tell
        self._inboxes: list[Inbox] = []
        self._latencies = Histogram()
        self._sender = Sender(plan, node, bus)
        self._last = 0

    async def run(self) -> None:
        """Go through all phases, as the conductor leads."""
        async with AsyncExitStack() as clients, anyio.create_task_group() as tasks:
            await self._prepare(clients)
            self._tell(Ready())
            go = await self._next(Go)
            tasks.start_soon(self._report_progress)
            await self._send_for_a_while(go.start)
            with anyio.move_on_after(FLUSH_TIMEOUT):
                await self._bus.flush()
            self._tell(Sent(self._sender.accepted))
            accepted = (await self._next(Expect)).accepted
            await self._settle(accepted)
            self._tell(Settled())
            await self._next(Finish)
            self._tell(Result(self._tally(accepted)))
            tasks.cancel_scope.cancel()

    async def _prepare(self, clients: AsyncExitStack) -> None:
        plan = self._plan
        self._bus.on(BROADCAST_TYPE)(self._inbox([plan.everyone]).handle)
        for number in plan.clients_of(self._node):
            topics = plan.topics_of(number)
            inbox = self._inbox([number, *topics])
            client = await clients.enter_async_context(self._bus.client(client_name(number), handler=inbox.handle))
            for topic in topics:
                await client.subscribe(plan.topic(topic))
        await self._bus.ready()

    def _inbox(self, receivers: list[int]) -> Inbox:
        inbox = Inbox(Checker(self._plan.streams_to(receivers)), self._latencies)
        self._inboxes.append(inbox)
        return inbox

    async def _send_for_a_while(self, start: int) -> None:
        """Send from *start* on, until the time is over or a command says so."""
        end = start + int(self._plan.seconds * 1e9)
        await anyio.sleep((start - monotonic_ns()) / 1e9)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._cancel_on_stop, tasks.cancel_scope)
            tasks.cancel_scope.deadline = anyio.current_time() + (end - monotonic_ns()) / 1e9
            await self._sender.run(end)
            tasks.cancel_scope.cancel()

    async def _cancel_on_stop(self, scope: anyio.CancelScope) -> None:
        await self._next(Stop)
        scope.cancel()

    async def _settle(self, accepted: list[list[int]]) -> None:
        """Wait until all has come that was *accepted* for us, or nothing came for a while."""
        sent = {
            self._plan.stream(sender, receiver): number
            for sender, numbers in enumerate(accepted)
            for receiver, number in enumerate(numbers)
        }
        expected = sum(inbox.checker.expected(sent) for inbox in self._inboxes)
        came = self._came()
        self._last = max(inbox.last for inbox in self._inboxes) or monotonic_ns()
        quiet_since = monotonic()
        while came < expected and monotonic() - quiet_since < QUIET:
            await anyio.sleep(POLL)
            before, came = came, self._came()
            if came != before:
                quiet_since = monotonic()
                self._last = monotonic_ns()

    def _came(self) -> int:
        return sum(inbox.checker.count() for inbox in self._inboxes)

    async def _report_progress(self) -> None:
        while True:
            self._tell(Progress(sum(self._sender.accepted), self._came()))
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
            [inbox.checker for inbox in self._inboxes],
            accepted,
            last=self._last,
            latencies=self._latencies,
            refusals=dict(self._sender.refusals),
            notes=notes,
        )

    async def _next(self, kind: type[C]) -> C:
        """Return the next command of *kind*; others come too late to matter."""
        while True:
            command = await self._commands.receive()
            if isinstance(command, kind):
                return command


def _first(group: BaseExceptionGroup[EventBusError]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
