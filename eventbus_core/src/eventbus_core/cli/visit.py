"""A command's visit to a bus: it joins as a node, does its work, and leaves; a signal ends it early."""

from __future__ import annotations

import logging
import math
import secrets
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeVar
from urllib.parse import parse_qsl, urlencode

import anyio
import typer
from anyio.abc import TaskGroup

from eventbus_core.api.bus import Bus
from eventbus_core.api.connect import connect
from eventbus_core.api.discovery import load_backend
from eventbus_core.backend import Node, TransportURI
from eventbus_core.errors import (
    LANES_TERM,
    RETAIN_TERM,
    BusClosed,
    ConfigurationError,
    NamespaceMismatch,
    NodeDraining,
    TopicNotRetained,
)
from eventbus_core.model.retention import RetainedClients, RetainedPatterns, RetainedQueues

_T = TypeVar("_T")

FLAWED: Final = 1
"""The exit status of a command that has run and found a fault."""
SIGNALLED: Final = 128
"""Added to the number of a signal, it is the exit status of a command that the signal ended, as in shells."""
REPEAT_WARNING: Final = 60.0
MAX_WARNINGS: Final = 1000
"""Texts of warnings that are remembered."""
RETAINING: Final = (RetainedPatterns.option, RetainedClients.option, RetainedQueues.option)


def visit(uri: str, work: Callable[[Bus], Awaitable[_T]]) -> _T:
    """
    Join the bus at *uri*, and return the result of *work* there. Lanes and retention are those of the namespace, unless
    the URI names them.

    The first SIGINT or SIGTERM ends the work, and the bus closes; a second one ends that too. SIGTERM has the bus drain
    before: what waits for a client that the command holds goes to its next claim. The exit status is then 128 and the
    number of the signal.

    Raises:
        ConfigurationError: the bus is within one process, so that no other process can join it; or the work needs a
            topic to be retained that is not.
    """
    parsed = TransportURI.parse(uri)
    if not load_backend(parsed.scheme).capabilities.cross_process:
        raise ConfigurationError(
            f"the bus at {parsed} exists within one process, and this command is another process; "
            f"name a broker, such as redis://localhost:6379/0"
        )
    address = without_options(uri, "wait_for_broker")  # a command without a broker has nothing to show
    logging.getLogger("eventbus").addHandler(_Warnings())
    while True:
        bus = connect(address) if "node" in parsed.options else connect(address, node=visitor_name())
        try:
            return anyio.run(_Visit(bus).run, work)
        except BaseExceptionGroup as group:
            error = _only(group)
        if isinstance(error, TopicNotRetained):
            hint = "give every node a URI whose retain= has a pattern that matches it"
            raise ConfigurationError(f"topic {error.topic!r} is not retained in {place_of(uri)}; {hint}")
        corrected = with_setting(address, error)
        if corrected is None:
            raise error
        address = corrected


async def other_nodes(bus: Bus) -> list[Node]:
    """Return the live nodes except that of *bus* itself."""
    return [node for node in await bus.nodes() if node.id != bus.node]


def place_of(uri: str) -> str:
    """Return the namespace and the broker of *uri*, for messages; without a password."""
    parsed = TransportURI.parse(uri)
    return f"namespace {str(parsed.options.get('namespace', parsed.namespace))!r} at {parsed}"


def no_node(uri: str) -> str:
    """Return the message that the bus at *uri* has no live node."""
    return f"no node is live in {place_of(uri)}; check the namespace, the host and the database of the URI"


def visitor_name() -> str:
    """Return a new node id for a command."""
    return f"cli-{secrets.token_hex(4)}"


def without_options(uri: str, *names: str) -> str:
    """Return *uri* without the options *names*, which a command sets itself."""
    address, _, query = uri.partition("?")
    kept = [(name, value) for name, value in parse_qsl(query, keep_blank_values=True) if name not in names]
    return f"{address}?{urlencode(kept)}" if kept else address


def with_setting(address: str, error: BaseException) -> str | None:
    """
    Return *address* with the setting of the namespace that *error* names.

    Return ``None`` if it names none, or *address* has another already.
    """
    found: list[tuple[str, str]] = []
    if isinstance(error, NamespaceMismatch) and error.term == LANES_TERM:
        found = [("lanes", str(error.theirs))]
    elif isinstance(error, NamespaceMismatch) and error.term == RETAIN_TERM:
        found = [(name, value) for name, value in parse_qsl(str(error.theirs)) if name in RETAINING]
    if not found or TransportURI.parse(address).options.keys() & dict(found).keys():
        return None
    return f"{address}{'&' if '?' in address else '?'}{urlencode(found)}"


class _Warnings(logging.Handler):
    """Prints each warning of the bus, but no text twice within ``REPEAT_WARNING`` seconds: outages repeat theirs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._printed: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Print *record* as one line on stderr."""
        message = record.getMessage()
        if record.created - self._printed.get(message, -math.inf) < REPEAT_WARNING:
            return
        if len(self._printed) >= MAX_WARNINGS:
            self._printed.clear()
        self._printed[message] = record.created
        print("warning:", message, file=sys.stderr)


class _Visit:
    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._scopes: list[anyio.CancelScope] = []
        self._signal: int | None = None

    async def run(self, work: Callable[[Bus], Awaitable[_T]]) -> _T:
        results: list[_T] = []
        async with anyio.create_task_group() as group:
            self._scopes.append(group.cancel_scope)
            group.start_soon(self._watch_signals, group)
            async with self._bus as bus:
                with anyio.CancelScope() as scope:
                    self._scopes.append(scope)
                    try:
                        results.append(await work(bus))
                    except* NodeDraining:
                        if self._signal is None:  # else it is we who drain
                            raise
            group.cancel_scope.cancel()
        if self._signal is not None:
            raise typer.Exit(SIGNALLED + self._signal)
        return results[0]

    async def _watch_signals(self, group: TaskGroup) -> None:
        if sys.platform == "win32":
            return  # KeyboardInterrupt ends everything at once
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for received in signals:
                first, self._signal = self._signal is None, self._signal or received
                scope = self._scopes.pop()
                if first and received == signal.SIGTERM:
                    group.start_soon(self._drain, scope)
                else:
                    scope.cancel()

    async def _drain(self, scope: anyio.CancelScope) -> None:
        with suppress(BusClosed):  # it is not open yet
            await self._bus.drain(0)
        scope.cancel()


def _only(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup) and len(group.exceptions) == 1:
        group = group.exceptions[0]
    return group
