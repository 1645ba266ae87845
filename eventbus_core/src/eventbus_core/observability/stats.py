"""The counters of a bus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from eventbus_core.observability.histogram import Histogram

NO_COUNTS: Final = Histogram(first=1)
NO_TIMES: Final = Histogram()


@attrs.frozen
class Stats:
    """
    The counters of a bus since it was opened, and its backlogs at this moment; the same on every backend.

    The clocks of hosts differ, so each time is measured on one node and none between two nodes. ``eventbus doctor``
    measures the time that the broker adds: its round trip.

    Attributes:
        node: this node's id.
        incarnation: this node's incarnation: a number that grows each time the node enters the namespace.
        clients: clients that this node holds.
        accepted: events accepted from the application.
        local: deliveries to receivers on the sender's own node; an event for several receivers counts once for each.
        sent_events: events that the transport has taken.
        sent_frames: frames that the transport has taken, with or without events.
        received_events: events received from other nodes.
        received_frames: frames received from other nodes.
        forwarded: events forwarded to the node to which their client had moved.
        undeliverable: events accepted on this node that were reported as undeliverable: no receiver handled them.
        duplicates: events discarded because they had arrived before.
        repaired: frames retransmitted to nodes that missed them.
        missed: events from other nodes, or of retained topics and queues, that this node never got and that are lost
            for good.
        dropped: events dropped from full mailboxes.
        stale: frames discarded because an earlier incarnation of their node sent them.
        refused: incoming frames rejected, by kind of fault; kind ``own event`` counts the bus's own messages that
            could not be decoded.
        handler_failures: how often a handler raised an exception.
        write_failures: writes that failed in the transport; each is retried.
        waits: how often a sender had to wait because the outbox was full.
        waiting_events: events that the transport has not taken yet.
        pending_requests: requests that are waiting for an answer.
        disconnects: outages so far: how often the broker stopped accepting frames.
        undeliverable_by_reason: the events of ``undeliverable``, by the reason reported.
        version: the release of eventbus that the node runs.
        delivered: deliveries to receivers on this node, local ones included; an event for several receivers counts
            once for each.
        mailbox_events: events in mailboxes on this node, waiting for their receivers.
        queued_events: events sent to queues on this node that no consumer is known to have handled; of retained queues,
            those that this node has read to hand them out.
        redelivered: how often such an event was given to another consumer, because the one that had it was gone.
        outage_seconds: seconds in which the broker accepted no frames, all outages together.
        interruptions: how often the transport reported that it lost its connection, and perhaps frames; missing
            frames were requested again.
        leases_lost: how often this node's lease expired, so that other nodes could declare it dead.
        hooks_skipped: calls of hooks that were skipped because too many were waiting.
        retained_events: events to retained topics and clients that the history has taken.
        retained_entries: entries that the history has taken; those events of a topic that waited together are one.
        waiting_appends: accepted events that the history has not taken yet; they are part of ``waiting_events``.
        append_failures: calls of the history that failed and were repeated.
        history_reads: pages read from the history, for readers that resume and to repair what did not arrive.
        resumes: readers that came back with a position, whatever they were told.
        history_gaps: receivers that were told of events that are not in the history any more, by reason.
        streams_refused: calls that were refused because the node already appends to ``max_retained_topics`` streams.
        state: the state of the bus, as ``bus.state`` shows it.
        lingering: those of ``clients`` that have no handle: their events are kept for the next claim. On a node that
            drains, the others are those that have not moved yet.
        frame_events: events in each frame sent; frames without events are left out.
        send_seconds: seconds from accepting a frame's oldest event until the broker took the frame; includes
            back-pressure and outages.
        handle_seconds: seconds from a frame's arrival until its events were handled, or until
            ``slow_consumer_timeout`` ended the wait for a receiver; local events are not included.
        server: the server of the broker that carries the channel of this node; empty if the backend knows of one only.
        partitions: partitions that this node listens to: its own, that of all nodes, and topic lanes; by the server
            that carries them.
        waiting_by_server: events that the transport has not taken yet, by the server that carries their partition.
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
    queued_events: int = 0
    redelivered: int = 0
    outage_seconds: float = 0.0
    interruptions: int = 0
    leases_lost: int = 0
    hooks_skipped: int = 0
    retained_events: int = 0
    retained_entries: int = 0
    waiting_appends: int = 0
    append_failures: int = 0
    history_reads: int = 0
    resumes: int = 0
    history_gaps: Mapping[str, int] = attrs.field(factory=dict)
    streams_refused: int = 0
    state: str = ""
    lingering: int = 0
    frame_events: Histogram = NO_COUNTS
    send_seconds: Histogram = NO_TIMES
    handle_seconds: Histogram = NO_TIMES
    server: str = ""
    partitions: Mapping[str, int] = attrs.field(factory=dict)
    waiting_by_server: Mapping[str, int] = attrs.field(factory=dict)
