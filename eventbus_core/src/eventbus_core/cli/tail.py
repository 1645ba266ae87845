"""``eventbus tail``: the events of a bus as they arrive."""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Final

import anyio
import attrs
import typer

from eventbus_core.api.bus import Bus
from eventbus_core.cli.arguments import AsJson, EndAfterEvents, UriOption, name
from eventbus_core.cli.event_lines import PrettyLines, line_of, print_lines
from eventbus_core.cli.history_command import Since, told
from eventbus_core.cli.visit import no_node, other_nodes, visit
from eventbus_core.errors import ClientAlreadyClaimed, ConfigurationError, EventBusError, InvalidName, NodeDraining
from eventbus_core.mailbox.loss_markers import loss_event
from eventbus_core.model.event import Event
from eventbus_core.model.names import check_client, check_pattern
from eventbus_core.model.reports import Dropped, Gap

TAIL_EXAMPLES: Final = """
Examples:

  eventbus tail --uri redis://localhost:6379/0

  eventbus tail 'order.*' --json | jq .data.id

  eventbus tail --client acme/alice --takeover

  eventbus tail chat.room.42 --since 2asj0qhjygmu:1-b4h02k7rw
"""
BUFFERED_EVENTS: Final = 1000


@attrs.frozen
class TailRequest:
    """The options of one call."""

    pattern: str | None
    client: str | None
    takeover: bool
    since: str | None = None


def tail_command(
    uri: UriOption,
    pattern: Annotated[
        str | None,
        typer.Argument(
            metavar="PATTERN",
            callback=name("PATTERN", _checked_pattern),
            help="Topics: * matches one token, > at the end all that follow.",
        ),
    ] = None,
    client: Annotated[
        str | None,
        typer.Option(
            metavar="CLIENT",
            callback=name("CLIENT", check_client),
            help="Claim this client and show its events, with those of PATTERN if given.",
        ),
    ] = None,
    since: Since = None,
    takeover: Annotated[bool, typer.Option("--takeover", help="Take the client from the node that holds it.")] = False,
    no_decode: Annotated[bool, typer.Option("--no-decode", help="Show the data as MessagePack.")] = False,
    count: EndAfterEvents = None,
    as_json: AsJson = False,
) -> None:
    """
    Show events as they arrive.

    These are events of topics that match PATTERN, and broadcasts whose type matches it; without PATTERN, all.
    """
    if takeover and client is None:
        raise ConfigurationError("--takeover takes over a client: name it with --client CLIENT")
    if since is not None and pattern is None:
        raise ConfigurationError("--since resumes one retained topic: name it, as in 'tail chat.room.42 --since ...'")
    wanted = TailRequest(pattern, client, takeover, since)
    show = print_lines if as_json else PrettyLines().show

    async def work(bus: Bus) -> None:
        async with _events(bus, wanted) as events:
            if not await other_nodes(bus):
                print("warning:", no_node(uri), file=sys.stderr)
            print(f"listening as {client or bus.address}", file=sys.stderr)
            await _show_all(
                events, count, lambda batch: show([line_of(event, decode=not no_decode) for event in batch])
            )

    try:
        visit(uri, work)
    except ClientAlreadyClaimed as error:
        raise EventBusError(
            f"node {error.node!r} holds client {error.client!r}; to take it over, add --takeover"
        ) from None


def _checked_pattern(pattern: str) -> str:
    """Return *pattern*; refuse the name of a client, with which no topic would ever match."""
    if re.fullmatch(r"[^/.*>]+/[^/.*>]+|@.+", pattern):
        kind = "node" if pattern.startswith("@") else "client"
        advice = f"--client {pattern}" if kind == "client" else "a pattern of topics, such as 'order.*'"
        raise InvalidName("pattern", pattern, f"it looks like a {kind}; to see its events, use {advice}")
    return check_pattern(pattern)


@asynccontextmanager
async def _events(bus: Bus, wanted: TailRequest) -> AsyncIterator[AsyncIterator[Event]]:
    """Yield an iterator over the events of the request."""
    if wanted.client is not None or wanted.since is not None:
        async with bus.client(wanted.client or bus.node, takeover=wanted.takeover) as client:
            if wanted.pattern is not None and wanted.since is not None:
                print(told(await client.subscribe(wanted.pattern, since=wanted.since)), file=sys.stderr)
            elif wanted.pattern is not None:
                await client.subscribe(wanted.pattern)
            yield client
        return
    sender, receiver = anyio.create_memory_object_stream[Event](BUFFERED_EVENTS)

    async def take(event: Event) -> None:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # --count is reached
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
    """Show up to *count* events, in a thread: a slow reader of our output must not block the node."""
    sender, receiver = anyio.create_memory_object_stream[Event](BUFFERED_EVENTS)

    async def print_all() -> None:
        with receiver:
            async for event in receiver:
                batch = [event]
                with suppress(anyio.WouldBlock, anyio.EndOfStream):
                    while True:
                        batch.append(receiver.receive_nowait())
                await anyio.to_thread.run_sync(show, batch)

    draining: NodeDraining | None = None
    async with anyio.create_task_group() as printing:
        printing.start_soon(print_all)
        with sender, suppress(anyio.BrokenResourceError):  # the printing task raises the reason
            seen = 0
            try:
                async for event in events:
                    await sender.send(event)
                    seen += 1
                    if seen == count:
                        break
            except NodeDraining as error:  # what was taken is shown first
                draining = error
    if draining is not None:
        raise draining
