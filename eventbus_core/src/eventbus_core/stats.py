"""What a bus counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from eventbus_core.histogram import Histogram

NO_COUNTS: Final = Histogram(first=1)
NO_TIMES: Final = Histogram()


@attrs.frozen
class Stats:
    """
    The counters of a bus since it was opened, and what waits at this moment; the same on every backend.

    Times are each by one clock: those of hosts differ, so nothing is measured from one node to another. What the
    broker adds is its round trip, of which ``eventbus doctor`` tells.

    Attributes:
        node: this node's id.
        incarnation: this node's incarnation, a larger number each time it enters.
        clients: clients held here.
        accepted: events taken from the application.
        local: deliveries to receivers on the sender's own node; an event for several counts for each.
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
        refused: frames dropped, by the kind of their fault; as kind ``own event``, what nodes tell each other and
            could not be read.
        handler_failures: how often a handler raised.
        write_failures: writes that the transport failed; they were made again.
        waits: how often a sender had to wait for room.
        waiting_events: events that the transport has not taken yet.
        pending_requests: requests without an answer yet.
        disconnects: how often the broker stopped to take anything: the outages so far.
        undeliverable_by_reason: the same events as ``undeliverable``, by the reason that was reported.
        version: the release of eventbus that the node runs.
        delivered: deliveries to receivers on this node, the local ones among them; an event for several counts for
            each.
        mailbox_events: events that wait for their receivers on this node.
        outage_seconds: for how long the broker took nothing, all outages together.
        interruptions: how often the transport had lost its connection for a while, and frames perhaps; what they
            carried was asked for again.
        leases_lost: how often others could have taken this node for dead.
        hooks_skipped: calls of hooks that were not made, since too many waited.
        frame_events: events in each frame sent, of frames that had any.
        send_seconds: for each frame sent, from when its oldest event was accepted until the broker had taken it, by
            this node's clock; back-pressure and outages are in it.
        handle_seconds: for each frame of another node, from when it came until its events were handled here, or no
            longer waited for since a receiver lags (``laggard_timeout``), by this node's clock; local events are not
            in it.
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
    delivered: int = 0
    mailbox_events: int = 0
    outage_seconds: float = 0.0
    interruptions: int = 0
    leases_lost: int = 0
    hooks_skipped: int = 0
    frame_events: Histogram = NO_COUNTS
    send_seconds: Histogram = NO_TIMES
    handle_seconds: Histogram = NO_TIMES
