"""``eventbus tail``: the events of a bus, as they come."""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Annotated, Any, Final

import anyio
import attrs
import msgspec
import typer
from rich.console import Console
from rich.text import Text

from eventbus_core.bus import Bus
from eventbus_core.cli.visit import AsJson, UriOption, visit
from eventbus_core.errors import ClientAlreadyClaimed, EventBusError, EventDataError
from eventbus_core.event import Event
from eventbus_core.losses import Dropped, Gap, loss_event
from eventbus_core.names import check_client, check_pattern

EXAMPLES: Final = """
Examples:

  eventbus tail --uri redis://localhost:6379/0

  eventbus tail 'order.*' --json | jq .data.id

  eventbus tail --client acme/alice --takeover
"""
BUFFER: Final = 1000
_STEERING: Final = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event as a line of JSON; without ``data`` if that was not to be decoded, or is nothing that JSON can hold."""

    type: str
    source: str
    target: str
    id: str
    headers: dict[str, str] | None = None
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    raw: bytes | msgspec.UnsetType = msgspec.UNSET


@attrs.frozen
class Wanted:
    """What is to be shown, and when it ends."""

    pattern: str | None
    client: str | None
    takeover: bool
    count: int | None


def tail_command(
    uri: UriOption,
    pattern: Annotated[
        str | None, typer.Argument(metavar="PATTERN", help="Topics: * stands for a token, a last > for any number.")
    ] = None,
    client: Annotated[
        str | None,
        typer.Option(help="Be this client: show what is sent to it, and the topics of PATTERN if that is given."),
    ] = None,
    takeover: Annotated[bool, typer.Option("--takeover", help="Take the client from who holds it.")] = False,
    decode: Annotated[bool, typer.Option(help="Show the data, or else its MessagePack.")] = True,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many events.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show events as they come: topics that match PATTERN, and broadcasts whose type does; without PATTERN, all."""
    wanted = Wanted(
        None if pattern is None else check_pattern(pattern),
        None if client is None else check_client(client),
        takeover,
        count,
    )
    show = _print_json if as_json else _Pretty().show

    async def work(bus: Bus) -> None:
        async with _events(bus, wanted) as events:
            typer.echo(f"listening as {client or bus.address}", err=True)
            await _show_all(events, wanted.count, lambda batch: show([_line(event, decode=decode) for event in batch]))

    try:
        visit(uri, work)
    except ClientAlreadyClaimed as error:
        raise EventBusError(
            f"client {error.client!r} is held by node {error.node!r}; to take it, say --takeover"
        ) from error


@asynccontextmanager
async def _events(bus: Bus, wanted: Wanted) -> AsyncIterator[AsyncIterator[Event]]:
    """Have the events that are wanted arrive."""
    if wanted.client is not None:
        async with bus.client(wanted.client, takeover=wanted.takeover) as client:
            if wanted.pattern is not None:
                await client.subscribe(wanted.pattern)
            yield client
        return
    sender, receiver = anyio.create_memory_object_stream[Event](BUFFER)

    async def take(event: Event) -> None:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # we have seen enough
            await sender.send(event)

    async def take_gap(gap: Gap) -> None:
        await take(loss_event(gap))

    async def take_dropped(_name: str, dropped: Dropped) -> None:
        await take(loss_event(dropped))

    with sender, receiver:
        bus.on(wanted.pattern or ">")(take)
        bus.on_gap(take_gap)
        bus.on_dropped(take_dropped)
        await bus.ready()
        yield receiver


async def _show_all(events: AsyncIterator[Event], count: int | None, show: Callable[[Sequence[Event]], None]) -> None:
    """Show up to *count* events; what reads our output may be slow, and the node has to live meanwhile."""
    sender, receiver = anyio.create_memory_object_stream[Event](BUFFER)

    async def print_all() -> None:
        with receiver:
            async for event in receiver:
                batch = [event]
                with suppress(anyio.WouldBlock, anyio.EndOfStream):
                    while True:
                        batch.append(receiver.receive_nowait())
                await anyio.to_thread.run_sync(show, batch)

    async with anyio.create_task_group() as printing:
        printing.start_soon(print_all)
        with sender, suppress(anyio.BrokenResourceError):  # of which the printing task has the reason
            seen = 0
            async for event in events:
                await sender.send(event)
                seen += 1
                if seen == count:
                    break


def _line(event: Event, *, decode: bool) -> Line:
    facts = (event.type, event.source, event.target, event.id, event.headers)
    if decode:
        with suppress(EventDataError, TypeError, ValueError):
            return Line(*facts, data=msgspec.Raw(msgspec.json.encode(event.data)))
    return Line(*facts, raw=bytes(event.raw))


def _print_json(lines: Sequence[Line]) -> None:
    sys.stdout.write("".join(_harmless(msgspec.json.encode(line).decode()) + "\n" for line in lines))
    sys.stdout.flush()


class _Pretty:
    """Shows events to people: when they came, what they are, whence and whither, and their data."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)

    def show(self, lines: Sequence[Line]) -> None:
        """Print *lines*; each takes a line."""
        now = datetime.now().strftime("%H:%M:%S.%f")[:-3]
        self._console.print(Text("\n").join(self._text(now, line) for line in lines), soft_wrap=True)

    def _text(self, now: str, line: Line) -> Text:
        data: Any = line.raw.hex(" ") if isinstance(line.raw, bytes) else bytes(line.data or b"").decode()
        return Text.assemble(
            (now, "dim"),
            " ",
            (_harmless(line.type), "bold cyan"),
            " ",
            (_harmless(f"{line.source} > {line.target}"), "green"),
            f" {_harmless(data)}",
        )


def _harmless(text: str) -> str:
    """Return *text* with what could steer a terminal, or hide text in it, as JSON escapes it."""
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
