"""``eventbus publish``, ``send`` and ``broadcast``: one event, or one for each line of standard input."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from time import monotonic
from typing import Annotated, Final, NoReturn

import attrs
import msgspec
import typer
from rich.console import Console
from rich.live import Live

from eventbus_core.bus import Bus
from eventbus_core.cli.lines import LONGEST, read_lines
from eventbus_core.cli.visit import FLAWED, AsJson, UriOption, visit
from eventbus_core.errors import ClientNotFound, EventDataError, EventTooLarge, RequestFailed
from eventbus_core.losses import Undeliverable
from eventbus_core.names import NODE_SIGN, check_address, check_topic

PUBLISH_EXAMPLES: Final = """
Examples:

  eventbus publish order.created '{"id": 1}' --uri redis://localhost:6379/0

  journalctl -f -o json | eventbus publish logs.app -

  tail -f app.log | eventbus publish logs.app - --text
"""
SEND_EXAMPLES: Final = """
Examples:

  eventbus send acme/alice chat.message '{"text": "hi"}' --uri redis://localhost:6379/0

  eventbus send @server-1 cache.clear
"""
BROADCAST_EXAMPLES: Final = """
Examples:

  eventbus broadcast config.changed '{"v": 2}' --uri redis://localhost:6379/0
"""

STDIN: Final = "-"
REFRESH: Final = 0.1

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA", help="The data as JSON; or -, and each line of standard input is the data of one event."
    ),
]
KeepGoing = Annotated[bool, typer.Option(help="Go on after a line that cannot be sent; the exit status is still 1.")]
Text = Annotated[bool, typer.Option("--text", help="The data is text, not JSON.")]
Accept = Callable[[object], Awaitable[None]]


def publish_command(
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="Dot-separated, such as order.created.")],
    uri: UriOption,
    data: Data = "null",
    text: Text = False,
    keep_going: KeepGoing = False,
    as_json: AsJson = False,
) -> None:
    """Publish to a topic: to every subscriber, handlers and clients, on every node."""
    check_topic(topic)
    _run(uri, lambda bus: lambda value: bus.publish(topic, value), _Input(data, text, keep_going), as_json=as_json)


def send_command(
    target: Annotated[str, typer.Argument(metavar="CLIENT", help="NAME or TENANT/NAME; or a node, as @NODE.")],
    type: Annotated[str, typer.Argument(metavar="TYPE", help="The event's type, such as chat.message.")],
    uri: UriOption,
    data: Data = "null",
    text: Text = False,
    keep_going: KeepGoing = False,
    as_json: AsJson = False,
) -> None:
    """Send to one client, or to a node."""
    check_address(target)
    check_topic(type)
    _run(
        uri,
        lambda bus: lambda value: bus.send(target, type, value),
        _Input(data, text, keep_going),
        lambda bus: _receiver(bus, target),
        as_json=as_json,
    )


def broadcast_command(
    type: Annotated[str, typer.Argument(metavar="TYPE", help="The events' type, such as config.changed.")],
    uri: UriOption,
    data: Data = "null",
    text: Text = False,
    keep_going: KeepGoing = False,
    as_json: AsJson = False,
) -> None:
    """Send to the handlers of every node."""
    check_topic(type)
    _run(uri, lambda bus: lambda value: bus.broadcast(type, value), _Input(data, text, keep_going), as_json=as_json)


@attrs.frozen
class _Input:
    """Where data comes from, and what is done about that which cannot be sent."""

    data: str
    text: bool
    keep_going: bool

    async def lines(self) -> AsyncIterator[tuple[str, bytes]]:
        """Yield each piece of data after what an error about it begins with."""
        if self.data != STDIN:
            yield "", self.data.encode(errors="surrogateescape")
            return
        number = 0
        async for line in read_lines(sys.stdin.fileno()):
            number += 1
            if self.text or line.strip():
                yield f"line {number}: ", line

    def decode(self, line: bytes) -> object:
        """
        Return the data in *line*.

        Raises:
            EventDataError: there is none.
        """
        if len(line) > LONGEST:
            raise EventDataError(f"it is longer than {LONGEST:,} bytes")
        try:
            return line.removesuffix(b"\r").decode() if self.text else msgspec.json.decode(line)
        except UnicodeDecodeError as error:
            raise EventDataError(f"not UTF-8: {error}") from error
        except msgspec.DecodeError as error:
            raise EventDataError(f"not JSON: {error}; to send it as text, say --text") from error


@attrs.define
class _Tally:
    """How many events were sent, and how many were not or came back."""

    sent: int = 0
    failed: int = 0

    def refuse(self, message: str) -> None:
        """Count one that did not get there, and say why."""
        self.failed += 1
        print("error:", message, file=sys.stderr)  # by print, which the line that shows progress makes room for


async def _receiver(bus: Bus, target: str) -> str | None:
    """Return the node that *target* is, or is held by."""
    if target.startswith(NODE_SIGN):
        return target.removeprefix(NODE_SIGN)
    owner = await bus.locate(target)
    return None if owner is None else owner.node


async def _nobody(bus: Bus) -> None:
    return None


def _run(
    uri: str,
    bind: Callable[[Bus], Accept],
    given: _Input,
    receiver: Callable[[Bus], Awaitable[str | None]] = _nobody,
    *,
    as_json: bool,
) -> NoReturn:
    """Send what is *given* as *bind* says, wait for the word of the *receiver*, and exit with what became of it."""
    tally = _Tally()

    async def work(bus: Bus) -> None:
        @bus.on_undeliverable
        def report(fate: Undeliverable) -> None:
            tally.refuse(f"{fate.type} for {fate.target} was not handled: {fate.reason}")

        await _send_all(bind(bus), given, tally)
        await bus.flush()
        if node := await receiver(bus):
            with suppress(ClientNotFound, RequestFailed):  # what became of the events has been told then
                await bus.node_stats(node)  # its answer comes after what it reports

    try:
        visit(uri, work)
    finally:
        if as_json:
            typer.echo(msgspec.json.encode(attrs.asdict(tally)).decode())
        else:
            typer.echo(f"{tally.sent:,} sent" + f", {tally.failed:,} failed" * bool(tally.failed), err=True)
    raise typer.Exit(FLAWED if tally.failed else 0)


async def _send_all(accept: Accept, given: _Input, tally: _Tally) -> None:
    console = Console(stderr=True, highlight=False)
    shown = 0.0
    with Live(console=console, auto_refresh=False, transient=True) as live:
        async for place, line in given.lines():
            try:
                await accept(given.decode(line))
            except (EventDataError, EventTooLarge, ClientNotFound) as error:
                tally.refuse(f"{place}{error}")
                if not given.keep_going:
                    return
            else:
                tally.sent += 1
            if console.is_terminal and monotonic() - shown > REFRESH:
                live.update(f"{tally.sent:,} sent", refresh=True)
                shown = monotonic()
