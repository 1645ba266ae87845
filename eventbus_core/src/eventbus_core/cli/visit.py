"""A command's visit to a bus: it joins as a node of its own, does its work, and leaves; a signal ends it early."""

from __future__ import annotations

import os
import secrets
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import parse_qsl, urlencode

import anyio
import typer

from eventbus_core.bus import Bus
from eventbus_core.connect import connect
from eventbus_core.discovery import load_backend
from eventbus_core.errors import ConfigurationError
from eventbus_core.uri import TransportURI

T = TypeVar("T")

SIGNALLED: Final = 128  # plus its number, as shells have it
FLAWED: Final = 1

URI_HELP: Final = "Where the bus is. Taken from EVENTBUS_URI if not given: better for a URI with a password."


def _named(context: typer.Context, uri: str) -> str:
    if not uri and not context.resilient_parsing:  # as while a shell completes
        raise ConfigurationError("no bus is named: give its URI, such as redis://localhost:6379/0, or set EVENTBUS_URI")
    return uri


_GIVEN: Final[dict[str, Any]] = {
    "metavar": "URI",
    "envvar": "EVENTBUS_URI",
    "help": URI_HELP,
    "callback": _named,
    "default_factory": str,
    "show_default": False,
}
UriArgument = Annotated[str, typer.Argument(**_GIVEN)]
UriOption = Annotated[str, typer.Option("--uri", **_GIVEN)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs, and nothing else.")]


def visit(uri: str, work: Callable[[Bus], Awaitable[T]]) -> T:
    """
    Join the bus at *uri*, and return what *work* does there.

    The first SIGINT or SIGTERM ends the work and lets the bus drain, a second one ends that too; the
    exit status tells. So does 0 if whoever read our output has gone.

    Raises:
        ConfigurationError: the bus is within one process, where no command can see it.
    """
    parsed = TransportURI.parse(uri)
    if not load_backend(parsed.scheme).capabilities.cross_process:
        raise ConfigurationError(
            f"a bus at {parsed} is within one process, and this command is another; "
            f"name a broker, such as redis://localhost:6379/0"
        )
    place = without_options(uri, "wait_for_broker")  # nobody would hear a visitor who is alone
    bus = connect(place) if "node" in parsed.options else connect(place, node=visitor_name())
    try:
        return anyio.run(_Visit(bus).run, work)
    except BaseExceptionGroup as group:
        error = _only(group)
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter would complain at its end
        raise typer.Exit
    raise error


def visitor_name() -> str:
    """Return a new id for the node that a command is."""
    return f"cli-{secrets.token_hex(4)}"


def without_options(uri: str, *names: str) -> str:
    """Return *uri* without the options *names*, which a command sets itself."""
    address, _, query = uri.partition("?")
    kept = [(name, value) for name, value in parse_qsl(query, keep_blank_values=True) if name not in names]
    return f"{address}?{urlencode(kept)}" if kept else address


class _Visit:
    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._scopes: list[anyio.CancelScope] = []
        self._signal: int | None = None

    async def run(self, work: Callable[[Bus], Awaitable[T]]) -> T:
        results: list[T] = []
        async with anyio.create_task_group() as group:
            self._scopes.append(group.cancel_scope)
            group.start_soon(self._watch_signals)
            async with self._bus as bus:
                with anyio.CancelScope() as scope:
                    self._scopes.append(scope)
                    results.append(await work(bus))
            group.cancel_scope.cancel()
        if self._signal is not None:
            raise typer.Exit(SIGNALLED + self._signal)
        return results[0]

    async def _watch_signals(self) -> None:
        if sys.platform == "win32":
            return  # a KeyboardInterrupt ends everything at once
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for received in signals:
                self._signal = self._signal or received
                self._scopes.pop().cancel()


def _only(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup) and len(group.exceptions) == 1:
        group = group.exceptions[0]
    return group
