"""``eventbus broadcast``: events for the handlers of every node."""

from __future__ import annotations

from typing import Final

from eventbus_core.cli.arguments import AsJson, TypeArgument, UriOption
from eventbus_core.cli.event_source import AsText, DataArgument, EventSource, KeepGoing, send_events

BROADCAST_EXAMPLES: Final = """
Examples:

  eventbus broadcast config.changed '{"v": 2}' --uri redis://localhost:6379/0
"""


def broadcast_command(
    type: TypeArgument,
    uri: UriOption,
    data: DataArgument = "null",
    text: AsText = False,
    keep_going: KeepGoing = False,
    as_json: AsJson = False,
) -> None:
    """Send events to the handlers of every node."""
    source = EventSource(data, text, keep_going)
    send_events(uri, lambda bus: lambda value: bus.broadcast(type, value), source, as_json=as_json)
