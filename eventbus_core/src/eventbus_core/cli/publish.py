"""``eventbus publish``: events for the subscribers of a topic."""

from __future__ import annotations

from typing import Final

from eventbus_core.cli.arguments import AsJson, TopicArgument, UriOption
from eventbus_core.cli.event_source import AsText, DataArgument, EventSource, KeepGoing, send_events

PUBLISH_EXAMPLES: Final = """
Examples:

  eventbus publish order.created '{"id": 1}' --uri redis://localhost:6379/0

  journalctl -f -o json | eventbus publish logs.app -

  tail -f app.log | eventbus publish logs.app - --text
"""


def publish_command(
    topic: TopicArgument,
    uri: UriOption,
    data: DataArgument = "null",
    text: AsText = False,
    keep_going: KeepGoing = False,
    as_json: AsJson = False,
) -> None:
    """
    Publish events to a topic.

    Every subscriber gets them: handlers and clients, on every node.
    """
    source = EventSource(data, text, keep_going)
    send_events(uri, lambda bus: lambda value: bus.publish(topic, value), source, as_json=as_json)
