"""The streams of a namespace: one for each retained topic, and one for what is sent to each retained client."""

from __future__ import annotations

from eventbus_core.errors import OptionError
from eventbus_core.model.names import topic_address
from eventbus_core.model.retention import Retention
from eventbus_core.model.topics import INBOX
from eventbus_core.options import BusOptions


def inbox_of(client: str) -> str:
    """Return the topic of what is sent to *client*, which only this library can publish and subscribe to."""
    return INBOX + client


def stream_of(topic: str) -> str:
    """Return the name of the stream of *topic*: the target of its events."""
    return topic.removeprefix(INBOX) if topic.startswith(INBOX) else topic_address(topic)


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
