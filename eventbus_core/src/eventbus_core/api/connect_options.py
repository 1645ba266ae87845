"""The keywords of ``connect`` for type checkers; their meaning, defaults and bounds are those of ``BusOptions``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from eventbus_core.model.retention import Retention
from eventbus_core.options import Overflow


class ConnectOptions(TypedDict, total=False):
    """
    What ``connect`` takes beside the URI: for functions of your own that pass options on.

    Options of a backend, such as those of ``chaos+`` URIs, are for the query of the URI.
    """

    node: str | None
    namespace: str
    lanes: int
    lease: float
    max_event_size: int
    frame_size: int
    outbox_size: int
    receive_budget: int
    resend_size: int
    resend_age: float
    hold_back_size: int
    mailbox_events: int
    local_backlog: int
    mailbox_size: int
    overflow: Overflow
    slow_consumer_timeout: float
    send_timeout: float
    close_timeout: float
    presence: bool
    wait_for_broker: bool
    retain: Mapping[str, Retention] | str
    retain_clients: Mapping[str, Retention] | str
    retain_queues: Mapping[str, Retention] | str
    max_retained_topics: int
    secret: str | bytes | Sequence[str | bytes]
    secret_file: str | None
    encrypt: bool
    owner_cache: int
    max_clients: int
    max_subscriptions: int
    max_patterns: int
    max_requests: int
