"""
The streams of a namespace: one for each retained topic, one for what is sent to each retained client, and two for each
retained queue.
"""

from __future__ import annotations

from typing import Final

from eventbus_core.errors import OptionError
from eventbus_core.model.names import RESERVED, topic_address
from eventbus_core.model.retention import Retention
from eventbus_core.model.topics import INBOX
from eventbus_core.options import BusOptions

QUEUE: Final = RESERVED + "queue."
RECORD: Final = RESERVED + "queue-record."


def inbox_of(client: str) -> str:
    """Return the topic of what is sent to *client*, which only this library can publish and subscribe to."""
    return INBOX + client


def queue_stream(queue: str) -> str:
    """Return the name of the stream of what is sent to a retained *queue*."""
    return QUEUE + queue


def queue_of(stream: str) -> str | None:
    """Return the queue with that *stream*, if it is one of a queue."""
    return stream.removeprefix(QUEUE) if stream.startswith(QUEUE) else None


def record_stream(queue: str) -> str:
    """Return the name of the stream of the records that say which events of *queue* are handled."""
    return RECORD + queue


def stream_of(topic: str) -> str:
    """Return the name of the stream of *topic*: the target of its events. The stream of a queue stands for itself."""
    if topic.startswith(QUEUE):
        return topic
    return topic.removeprefix(INBOX) if topic.startswith(INBOX) else topic_address(topic)


def shown_name(topic: str) -> str:
    """Return the name of *topic* for messages: a queue is named as the application names it."""
    return queue_of(topic) or stream_of(topic)


def retention_of(topic: str, options: BusOptions) -> Retention | None:
    """Return how much of *topic* is kept; ``None`` if it is not retained."""
    if topic.startswith(INBOX):
        return options.retain_clients.of(topic.removeprefix(INBOX))
    return options.retain.of(topic)


def not_retained(client: str) -> OptionError:
    """Return the error for a *client* that cannot resume."""
    return OptionError(
        f"client {client!r} is not retained, so it cannot resume; give every node "
        f"retain_clients={{{client!r}: Retention(...)}} or names that match it"
    )
