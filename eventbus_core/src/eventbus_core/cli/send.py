"""``eventbus send``: events for one client or one node."""

from __future__ import annotations

from typing import Final

from eventbus_core.api.bus import Bus
from eventbus_core.cli.arguments import AsJson, TargetArgument, TypeArgument, UriOption
from eventbus_core.cli.event_source import AsText, DataArgument, EventSource, KeepGoing, send_events
from eventbus_core.model.names import NODE_SIGN

SEND_EXAMPLES: Final = """
Examples:

  eventbus send acme/alice chat.message '{"text": "hi"}' --uri redis://localhost:6379/0

  eventbus send @server-1 cache.clear
"""


def send_command(
    target: TargetArgument,
    type: TypeArgument,
    uri: UriOption,
    data: DataArgument = "null",
    text: AsText = False,
    keep_going: KeepGoing = False,
    as_json: AsJson = False,
) -> None:
    """Send events to one client, or to one node."""
    source = EventSource(data, text, keep_going)

    async def receiver(bus: Bus) -> str | None:
        """Return the node that *target* is, or that holds it."""
        if target.startswith(NODE_SIGN):
            return target.removeprefix(NODE_SIGN)
        owner = await bus.locate(target)
        return None if owner is None else owner.node

    send_events(uri, lambda bus: lambda value: bus.send(target, type, value), source, receiver, as_json=as_json)
