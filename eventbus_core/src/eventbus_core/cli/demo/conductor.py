"""Leads all nodes of a run through its phases together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic_ns
from typing import Final, TypeVar

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from eventbus_core.cli.demo.demo_messages import (
    Command,
    Ended,
    Expect,
    Failed,
    Finish,
    Go,
    NodeReady,
    NodeResult,
    Progress,
    Report,
    Sent,
    Settled,
    Stop,
)
from eventbus_core.cli.demo.plan import Plan, node_name
from eventbus_core.cli.demo.tally import Tally
from eventbus_core.errors import EventBusError

HEAD_START: Final = 0.05  # time for the command to reach all nodes
REPORT_TIMEOUT: Final = 60.0

_R = TypeVar("_R", bound=Report)
OnProgress = Callable[[Sequence[Progress], int], None]


class NodeLost(Exception):
    """Raised when the process of a node ends during a run, or stops answering."""


class Conductor:
    """
    Leads the nodes of one run.

    Attributes:
        start: when the nodes start to send, in monotonic nanoseconds; 0 before that is known.
    """

    def __init__(
        self,
        plan: Plan,
        commands: Sequence[MemoryObjectSendStream[Command]],
        reports: MemoryObjectReceiveStream[tuple[int, Report]],
        on_progress: OnProgress,
    ) -> None:
        self.start = 0
        self._plan = plan
        self._commands = commands
        self._reports = reports
        self._on_progress = on_progress
        self._progress = [Progress(0, 0)] * plan.nodes

    async def run(self) -> list[Tally]:
        """
        Run all phases and return the tallies of all nodes.

        Raises:
            EventBusError: a node could not take part.
            NodeLost: the process of a node ended, or a node does not answer.
        """
        await self._collect(NodeReady)
        self.start = monotonic_ns() + int(HEAD_START * 1e9)
        self._tell_all(Go(self.start))
        sent = await self._collect(Sent, REPORT_TIMEOUT + self._plan.seconds)
        self._tell_all(Expect([report.accepted for report in sent]))
        await self._collect(Settled)
        self._tell_all(Finish())
        return [report.tally for report in await self._collect(NodeResult)]

    def stop(self) -> None:
        """End the sending early; the nodes still wait for all accepted events."""
        self._tell_all(Stop())

    def _tell_all(self, command: Command) -> None:
        for stream in self._commands:
            stream.send_nowait(command)

    async def _collect(self, kind: type[_R], timeout: float = REPORT_TIMEOUT) -> list[_R]:
        """Return one report of *kind* from each node."""
        collected: dict[int, _R] = {}
        with anyio.move_on_after(timeout):
            while len(collected) < self._plan.nodes:
                node, report = await self._reports.receive()
                if isinstance(report, kind):
                    collected[node] = report
                else:
                    self._take(node, report)
            return [collected[node] for node in range(self._plan.nodes)]
        silent = ", ".join(node_name(node) for node in range(self._plan.nodes) if node not in collected)
        raise NodeLost(f"no answer from {silent} within {timeout:g} s")

    def _take(self, node: int, report: Report) -> None:
        if isinstance(report, Failed):
            raise EventBusError(report.error)
        if isinstance(report, Ended):
            raise NodeLost(f"the process of {node_name(node)} ended before the run was over, {_cause(report.status)}")
        if isinstance(report, Progress):
            self._progress[node] = report
            self._on_progress(self._progress, self.start)


def _cause(status: int) -> str:
    return f"by signal {-status}" if status < 0 else f"with exit status {status}"
