"""The common part of ``eventbus publish``, ``send`` and ``broadcast``: one event, or one for each line of stdin."""

from __future__ import annotations

import errno
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from time import monotonic
from typing import Annotated, Final, NoReturn

import anyio
import attrs
import msgspec
import typer
from rich.console import Console
from rich.live import Live

from eventbus_core.api.bus import Bus
from eventbus_core.cli.console import print_json
from eventbus_core.cli.standard_streams import STDIN_CLOSED
from eventbus_core.cli.stdin_lines import LONGEST_LINE, read_lines
from eventbus_core.cli.visit import FLAWED, no_node, other_nodes, visit
from eventbus_core.errors import (
    ClientNotFound,
    ConfigurationError,
    EventDataError,
    EventTooLarge,
    RequestFailed,
    TransportUnavailable,
    shown,
)
from eventbus_core.model.reports import Undeliverable

FROM_STDIN: Final = "-"
STDIN_DESCRIPTOR: Final = 0
REFRESH_INTERVAL: Final = 0.1

DataArgument = Annotated[
    str,
    typer.Argument(metavar="DATA", help="JSON; or -, to send one event for each line of standard input."),
]
AsText = Annotated[bool, typer.Option("--text", help="The data is text, not JSON.")]
KeepGoing = Annotated[
    bool, typer.Option("--keep-going", help="Continue after a line that cannot be sent; the exit status is still 1.")
]
Accept = Callable[[object], Awaitable[object]]


@attrs.frozen
class EventSource:
    """
    The events to send.

    Attributes:
        data: the data of one event, or ``-`` for the lines of standard input.
        text: whether the data is text, not JSON.
        keep_going: whether to continue after a line that cannot be sent.
    """

    data: str
    text: bool
    keep_going: bool

    async def lines(self) -> AsyncIterator[tuple[str, bytes]]:
        """Yield each piece of data, with the words with which an error about it begins."""
        if self.data != FROM_STDIN:
            yield "", self.data.encode(errors="surrogateescape")
            return
        number = 0
        try:
            async for line in read_lines(STDIN_DESCRIPTOR):
                number += 1
                if self.text or line.strip():
                    yield f"line {number}: ", line
        except OSError as error:
            closed = error.errno == errno.EBADF
            raise ConfigurationError(
                STDIN_CLOSED if closed else f"standard input cannot be read: {error.strerror}"
            ) from None

    def decode(self, line: bytes) -> object:
        """
        Return the data in *line*.

        Raises:
            EventDataError: it is not valid.
        """
        if len(line) > LONGEST_LINE:
            raise EventDataError(f"it is longer than {LONGEST_LINE:,} bytes")
        try:
            return line.removesuffix(b"\r").decode() if self.text else msgspec.json.decode(line)
        except UnicodeDecodeError as error:
            raise EventDataError(f"{shown(line)} is not UTF-8: {error.reason} at byte {error.start}") from None
        except msgspec.DecodeError as error:
            text = line.decode(errors="backslashreplace")
            raise EventDataError(f"{shown(text)} is not JSON: {error}; to send it as text, add --text") from None


@attrs.define
class SendCount:
    """
    The outcome of the command so far.

    Attributes:
        sent, failed: the events; each is one of the two.
        joined: whether the command has joined the bus.
    """

    sent: int = 0
    failed: int = 0
    joined: bool = False

    def undo(self, message: str) -> None:
        """Count a sent event as failed, and print *message*."""
        self.sent -= 1
        self.fail(message)

    def fail(self, message: str) -> None:
        """Count one event that failed, and print *message*."""
        self.failed += 1
        print("error:", message, file=sys.stderr)  # not by typer.echo: only print cooperates with the progress line


async def no_receiver(bus: Bus) -> None:
    """Return ``None``: no single node can confirm the events."""


def send_events(
    uri: str,
    bind: Callable[[Bus], Accept],
    source: EventSource,
    receiver: Callable[[Bus], Awaitable[str | None]] = no_receiver,
    *,
    as_json: bool,
) -> NoReturn:
    """
    Send the events of *source* and exit with the status.

    Args:
        uri: the bus.
        bind: returns the function that sends one event.
        source: the events.
        receiver: returns the node that gets the events, if it is a single one; it is asked at the end whether it
            could deliver them.
        as_json: print the counts as JSON on stdout.
    """
    count = SendCount()
    if source.data != FROM_STDIN:
        source.decode(source.data.encode(errors="surrogateescape"))  # raises before anything is connected

    async def work(bus: Bus) -> None:
        count.joined = True
        if not await other_nodes(bus):
            if source.data != FROM_STDIN:
                count.fail(no_node(uri))
                return
            print("warning:", no_node(uri), file=sys.stderr)

        @bus.on_undeliverable
        def report(event: Undeliverable) -> None:
            count.undo(f"{event.type} for {event.target} was not handled: {event.reason}")

        await _send_all(bus, bind(bus), source, count)
        await bus.flush()
        if node := await receiver(bus):
            with suppress(ClientNotFound, RequestFailed):  # the fate of the events is known then
                await bus.node_stats(node)  # the answer comes after the node's reports

    try:
        visit(uri, work)
    finally:
        if as_json:
            print_json({"sent": count.sent, "failed": count.failed})
        elif count.joined:
            print(f"{count.sent:,} sent" + f", {count.failed:,} failed" * bool(count.failed), file=sys.stderr)
    raise typer.Exit(FLAWED if count.failed else 0)


async def _send_all(bus: Bus, accept: Accept, source: EventSource, count: SendCount) -> None:
    console = Console(stderr=True, highlight=False)
    updated = 0.0
    confirmed = False
    with Live(console=console, auto_refresh=False, transient=True) as live:
        async for place, line in source.lines():
            try:
                await accept(source.decode(line))
            except (EventDataError, EventTooLarge, ClientNotFound) as error:
                count.fail(f"{place}{error}")
                if not source.keep_going:
                    return
            else:
                count.sent += 1
                if not confirmed:
                    await _confirm(bus)
                    confirmed = True
            if console.is_terminal and monotonic() - updated > REFRESH_INTERVAL:
                live.update(f"{count.sent:,} sent", refresh=True)
                updated = monotonic()


async def _confirm(bus: Bus) -> None:
    """
    Wait until the broker has taken the first event.

    Raises:
        TransportUnavailable: it refuses the event. Later on, an outage is waited for.
    """
    with anyio.CancelScope() as scope:

        @bus.on_disconnected
        def give_up(reason: str) -> None:
            scope.cancel()

        if bus.state != "disconnected":
            await bus.flush()
            return
    raise TransportUnavailable("the broker did not take the event; the warning above says why")
