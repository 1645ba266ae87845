"""``eventbus history``: the latest events of a retained topic, or those after a position."""

from __future__ import annotations

import sys
from typing import Annotated, Final

import typer

from eventbus_core.api.bus import Bus
from eventbus_core.cli.arguments import AsJson, TopicArgument, UriOption, whole_number
from eventbus_core.cli.event_lines import PrettyLines, line_of, print_lines
from eventbus_core.cli.visit import visit
from eventbus_core.model.event import Event
from eventbus_core.model.names import topic_address
from eventbus_core.model.reports import Gap, Resumed
from eventbus_core.model.tokens import Token

HISTORY_EXAMPLES: Final = """
Examples:

  eventbus history chat.room.42 --uri 'redis://localhost:6379/0?retain=chat.>=1000/600/8388608'

  eventbus history chat.room.42 --limit 5 --json | jq .data

  eventbus history chat.room.42 --since 2asj0qhjygmu:1-b4h02k7rw
"""

Since = Annotated[
    str | None,
    typer.Option(metavar="POSITION", help="Begin after this position, and say what is missing since."),
]


def history_command(
    topic: TopicArgument,
    uri: UriOption,
    since: Since = None,
    limit: Annotated[
        int, typer.Option("--limit", parser=whole_number, metavar="N", help="Show at most N events.")
    ] = 100,
    no_decode: Annotated[bool, typer.Option("--no-decode", help="Show the data as MessagePack.")] = False,
    as_json: AsJson = False,
) -> None:
    """
    Show the latest events of a retained topic, oldest first.

    With --since, the first events after that position.
    """

    async def work(bus: Bus) -> list[Event]:
        return await bus.history(topic, limit=limit) if since is None else await _events_after(bus, topic, since, limit)

    lines = [line_of(event, decode=not no_decode) for event in visit(uri, work)]
    if as_json:
        print_lines(lines)
    elif lines:
        PrettyLines(positions=True).show(lines)


async def _events_after(bus: Bus, topic: str, since: str, limit: int) -> list[Event]:
    async with bus.client(bus.node) as client:
        answer = await client.subscribe(topic, since=since)
        print(told(answer), file=sys.stderr)
        return [await client.receive() for _ in range(min(limit, _following(answer, topic)))]


def told(answer: Resumed | Gap) -> str:
    """Return a line that says what a reader missed."""
    if isinstance(answer, Resumed):
        return f"resumed: {_events(answer.events)} since"
    if answer.reason == "trimmed":
        return f"gap: {_events(answer.missed)} {'is' if answer.missed == 1 else 'are'} gone (trimmed)"
    return f"gap: some events may be gone ({answer.reason})"


def _events(number: int) -> str:
    return f"{number:,} event{'' if number == 1 else 's'}"


def _following(answer: Resumed | Gap, topic: str) -> int:
    """Return how many events follow from the history."""
    if isinstance(answer, Resumed):
        return answer.events
    stream = topic_address(topic)
    first, last = (Token.parse(text or "", stream) for text in (answer.earliest, answer.position))
    return 0 if first is None or last is None else last.mark.offset - first.mark.offset + 1
