"""A snapshot of a node's counters, here or of another node."""

from __future__ import annotations

from collections import Counter
from typing import Final

import attrs

from eventbus_core._version import __version__
from eventbus_core.backend import ALL_NODES, node_partition
from eventbus_core.history.history_parts import HistoryParts
from eventbus_core.model.event import Event
from eventbus_core.model.names import node_address
from eventbus_core.node.node import LocalNode
from eventbus_core.observability.stats import Stats

STATS: Final = "$sys.stats"
SNAPSHOTS_PER_SECOND: Final = 20
"""Snapshots for one node that asks."""


class Snapshots:
    """Takes snapshots, and answers other nodes that ask for one."""

    def __init__(self, node: LocalNode) -> None:
        self._node = node
        node.channel.on_query(STATS, self._answer, SNAPSHOTS_PER_SECOND)

    def take(self) -> Stats:
        """Return the counters as they are now."""
        node = self._node
        sessions, outbox, delivery, receiver, reports = (
            node.sessions,
            node.outbox,
            node.delivery,
            node.receiver,
            node.reports,
        )
        local = node.router.local + node.fanout.local
        own = node_partition(node.id)
        stats = Stats(
            node=node.id,
            incarnation=node.ownership.incarnation,
            clients=len(node.ownership.clients),
            accepted=node.router.accepted + node.fanout.accepted + node.queues.accepted,
            local=local,
            sent_events=outbox.events,
            sent_frames=outbox.frames,
            received_events=delivery.events,
            received_frames=receiver.frames,
            forwarded=node.forwarder.forwarded,
            undeliverable=reports.counts.total(),
            duplicates=sessions.duplicates,
            repaired=sessions.repaired,
            missed=sessions.missed + delivery.missed,
            dropped=node.pool.limits.dropped,
            stale=sessions.stale,
            refused=dict(node.rejections.counts),
            handler_failures=node.scheduler.failures,
            write_failures=outbox.writer.failures,
            waits=outbox.waits,
            waiting_events=node.unpublished(),
            pending_requests=len(node.requests),
            disconnects=node.status.outages,
            undeliverable_by_reason=dict(reports.counts),
            version=__version__,
            delivered=local + delivery.deliveries + node.forwarder.deliveries,
            state=node.shown_state(),
            lingering=node.client_lifecycle.lingering_count,
            mailbox_events=node.pool.waiting(),
            queued_events=node.queues.waiting,
            redelivered=node.queues.redelivered,
            outage_seconds=node.status.seconds_down(),
            interruptions=receiver.interruptions,
            leases_lost=node.lease.losses,
            hooks_skipped=node.hooks.runner.skipped,
            frame_events=outbox.sizes.histogram(),
            send_seconds=outbox.seconds.histogram(),
            handle_seconds=receiver.seconds.histogram(),
            server=node.transport.route(own),
            partitions=dict(Counter(map(node.transport.route, (own, ALL_NODES, *node.lanes.accepted)))),
            waiting_by_server=outbox.unpublished_by_route(),
        )
        return stats if node.history is None else _with_history(stats, node.history)

    async def of(self, node: str, timeout: float) -> Stats:
        """
        Return the counters of *node*.

        Raises:
            ClientNotFound: there is no such node.
            RequestTimeout: it did not answer within *timeout* seconds.
        """
        if node == self._node.id:
            return self.take()
        address, sender = self._node.channel.address, self._node.sender
        return (await sender.ask(address, node_address(node), STATS, None, timeout, None)).decode(Stats)

    def _answer(self, request: Event) -> None:
        self._node.channel.answer(request, STATS, self.take())


def _with_history(stats: Stats, parts: HistoryParts) -> Stats:
    appender, feeds, topics, queues = parts.appender, parts.feeds, parts.topics, parts.queues
    return attrs.evolve(
        stats,
        accepted=stats.accepted + appender.accepted,
        delivered=stats.delivered + feeds.deliveries,
        missed=stats.missed + feeds.missed + queues.missed,
        retained_events=appender.events,
        retained_entries=appender.entries,
        waiting_appends=appender.waiting(),
        append_failures=appender.failures,
        history_reads=parts.reader.reads,
        resumes=topics.resumes,
        history_gaps=dict(topics.gaps + feeds.gaps + queues.gaps),
        streams_refused=appender.streams_refused,
    )
