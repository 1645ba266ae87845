"""What a bus counts."""

from __future__ import annotations

from collections.abc import Mapping

import attrs


@attrs.frozen
class Stats:
    """
    The counters of a bus since it was opened, and what waits at this moment; the same on every backend.

    Attributes:
        node: this node's id.
        incarnation: this node's incarnation.
        clients: clients held here.
        accepted: events taken from the application.
        local: deliveries to receivers on the sender's own node.
        sent_events: events that the transport has taken.
        sent_frames: frames that carried them, and those without events.
        received_events: events taken in from other nodes.
        received_frames: frames of other nodes.
        forwarded: events passed on to where their client had moved.
        undeliverable: events reported to their senders as handled by nobody.
        duplicates: events removed since they had come before.
        repaired: frames sent again to those who missed them.
        missed: events that other nodes sent and that are lost for good.
        dropped: events dropped from full mailboxes.
        stale: frames of former incarnations, dropped.
        refused: frames dropped, by the kind of their fault; as ``internal``, events of the bus' own that make no sense.
        handler_failures: how often a handler raised.
        write_failures: writes that the transport failed; they were made again.
        waits: how often a sender had to wait for room.
        waiting_events: events that the transport has not taken yet.
        pending_requests: requests without an answer yet.
        disconnects: how often the broker stopped to take anything.
        undeliverable_by_reason: the same events as ``undeliverable``, by the reason that was reported.
        version: the release of eventbus that the node runs.
    """

    node: str
    incarnation: int
    clients: int
    accepted: int
    local: int
    sent_events: int
    sent_frames: int
    received_events: int
    received_frames: int
    forwarded: int
    undeliverable: int
    duplicates: int
    repaired: int
    missed: int
    dropped: int
    stale: int
    refused: Mapping[str, int]
    handler_failures: int
    write_failures: int
    waits: int
    waiting_events: int
    pending_requests: int
    disconnects: int = 0
    undeliverable_by_reason: Mapping[str, int] = attrs.field(factory=dict)
    version: str = ""
