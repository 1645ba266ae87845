"""Delivery: the events of a frame go to the mailboxes of their receivers on this node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Final, TypeAlias

from eventbus_core.backend import ALL_NODES, lane_partition, node_partition
from eventbus_core.concurrency.signal import Signal
from eventbus_core.errors import FrameError
from eventbus_core.mailbox.frame_progress import FrameProgress
from eventbus_core.mailbox.loss_markers import count_up
from eventbus_core.mailbox.mailbox import Mailbox
from eventbus_core.membership.channel import ControlChannel
from eventbus_core.membership.ownership import Ownership
from eventbus_core.model.event import Event, copy_event
from eventbus_core.model.names import RESERVED, is_client
from eventbus_core.model.reports import Gap, Reason
from eventbus_core.observability.rejections import Rejections
from eventbus_core.routing.forwarding import Forwarder, Stray
from eventbus_core.routing.subscriptions import Subscriptions
from eventbus_core.routing.undeliverable import UndeliverableReports
from eventbus_core.session.incoming import Ready
from eventbus_core.session.wire import unpack_events, unpack_readable

BY_TYPE: Final = attrgetter("type")
BY_TARGET: Final = attrgetter("target")

Run: TypeAlias = tuple[tuple[Mailbox, ...], Iterable[Event]]
"""Events that came one after the other, and the mailboxes that receive all of them."""


class Delivery:
    """
    Delivers frames whose turn has come, and gaps.

    Attributes:
        events: taken in.
        deliveries: to receivers of this node; one event may have many.
        missed: events that came and could not be read.
        missing: called when events were lost.
    """

    def __init__(
        self,
        channel: ControlChannel,
        ownership: Ownership,
        subscriptions: Subscriptions,
        forwarder: Forwarder,
        reports: UndeliverableReports,
        rejections: Rejections,
        on_gap: Callable[[Gap], None],
    ) -> None:
        self.events = self.deliveries = self.missed = 0
        self.missing: Signal[[]] = Signal()
        self._has_all: Callable[[str, Mailbox], bool] = lambda topic, mailbox: False
        self._channel = channel
        self._clients = ownership.clients
        self._subscriptions = subscriptions
        self._forwarder = forwarder
        self._reports = reports
        self._rejections = rejections
        self._on_gap = on_gap
        self._partition = node_partition(channel.node)

    def trust(self, has_all: Callable[[str, Mailbox], bool]) -> None:
        """Tell a mailbox of no lost share of a topic while *has_all* says that it gets every event in spite of that."""
        self._has_all = has_all

    def deliver(self, item: Ready | Gap) -> None:
        """Deliver the events of a frame, or tell everyone concerned of a gap."""
        if isinstance(item, Gap):
            self._tell(item)
            return
        lost = 0
        try:
            events = unpack_events(item.body)
        except FrameError as error:
            self._rejections.add(error.kind, error)
            salvaged = unpack_readable(item.body, item.header.count)
            events = [event for event in salvaged if event is not None]
            lost = len(salvaged) - len(events)
        self._deliver_events(events, item)
        if lost:
            self.missed += lost
            self._tell(Gap(f"@{item.header.node}", item.header.partition, lost))

    def _deliver_events(self, events: list[Event], item: Ready) -> None:
        self.events += len(events)
        partition = item.header.partition
        if partition == self._partition:
            self._deliver_addressed(events, item)
        elif partition == ALL_NODES:
            self._deliver_spread(self._broadcasts(events), item)
        else:
            match = self._subscriptions.topics.match
            self._deliver_spread(((match(target[1:]), run) for target, run in groupby(events, BY_TARGET)), item)

    def _deliver_addressed(self, events: list[Event], ready: Ready) -> None:
        """Sort the events of a frame into one chunk per mailbox: one wake-up per client, not per event."""
        chunks: dict[Mailbox, list[Event]] = {}
        odd: list[Event] = []
        find = self._clients.get
        for event in events:
            held = find(event.target)
            if held is not None and held.epoch >= event.epoch:
                mailbox = held.mailbox
                if mailbox in chunks:
                    chunks[mailbox].append(event)
                else:
                    chunks[mailbox] = [event]
            else:
                odd.append(event)
        strays, messages = self._sort_odd(odd, ready, chunks) if odd else (0, ())
        self._put(chunks, strays, ready)
        if not ready.ticket.done and len(events) == ready.header.count:
            ready.ticket.track(FrameProgress(ready.ticket, events, chunks))
        # Control messages come after the events that their sender forwarded before: the end of a handover, say.
        for message in messages:
            self._take(message)
        self._channel.end_batch()

    def _sort_odd(
        self, events: Iterable[Event], ready: Ready, chunks: dict[Mailbox, list[Event]]
    ) -> tuple[int, Sequence[Event]]:
        """Sort events for handlers of this node into *chunks*; return the number of strays, and control messages."""
        strays: list[Stray] = []
        messages: list[Event] = []
        for event in events:
            if event.target != self._channel.address:
                strays.append(Stray(event, event.accepted_by(ready.header.node), ready.ticket))
            elif event.answers is not None or event.type[:1] == RESERVED:
                messages.append(event)
            else:
                mailboxes = self._subscriptions.handlers.match(event.type)
                for mailbox in mailboxes:
                    chunks.setdefault(mailbox, []).append(copy_event(event))
                if not mailboxes:
                    self._reports.report(event, event.accepted_by(ready.header.node), Reason.NO_HANDLER)
        self._forwarder.add(strays)
        return len(strays), messages

    def _take(self, message: Event) -> None:
        if not self._channel.take(message):
            self._channel.reject(message, "is of no type that this version knows")

    def _broadcasts(self, events: list[Event]) -> Iterator[Run]:
        match = self._subscriptions.handlers.match
        for type, run in groupby(events, BY_TYPE):
            if type[:1] != RESERVED:
                yield match(type), run
            elif others := [event for event in run if not self._channel.take(event)]:
                yield match(type), others

    def _deliver_spread(self, runs: Iterable[Run], ready: Ready) -> None:
        """Deliver events with many receivers each: the first receiver gets the event itself, the others a copy."""
        chunks: dict[Mailbox, list[Event]] = {}
        for mailboxes, run in runs:
            events = list(run)
            for place, mailbox in enumerate(mailboxes):
                chunks.setdefault(mailbox, []).extend(map(copy_event, events) if place else events)
        self._channel.end_batch()
        self._put(chunks, 0, ready)

    def _put(self, chunks: dict[Mailbox, list[Event]], strays: int, ready: Ready) -> None:
        ready.ticket.expect(sum(map(len, chunks.values())) + strays)
        settled = 0
        for mailbox, events in chunks.items():
            self.deliveries += len(events)
            handled = 0 if mailbox.at_once is None else mailbox.at_once(events, ready.ticket)
            settled += handled
            if handled == len(events):
                continue
            del events[:handled]
            if not mailbox.closed:
                mailbox.put(events, len(ready.body) * len(events) // ready.header.count, ready.ticket)
            else:  # closed by the handler of an event before these
                self.deliveries -= len(events)
                settled += self._astray(events, ready)
        if settled:
            ready.ticket.settle(settled)

    def _astray(self, events: list[Event], ready: Ready) -> int:
        """Forward *events* of a closed mailbox that are for a client; return how many of the others were reported."""
        strays: list[Stray] = []
        for event in events:
            origin = event.accepted_by(ready.header.node)
            if is_client(event.target):
                strays.append(Stray(event, origin, ready.ticket))
            else:
                self._reports.unhandled(event, origin)
        self._forwarder.add(strays)
        return len(events) - len(strays)

    def _tell(self, gap: Gap) -> None:
        """Put a marker of *gap* into the stream of every client that it may concern."""
        self._on_gap(gap)
        self.missing()
        for held in self._clients.values():
            if gap.partition == self._partition or any(
                gap.partition == lane_partition(lane)
                for pattern in (held.patterns if held.has_patterns else ())
                for lane in self._subscriptions.lanes_of(pattern, shares=not self._has_all(pattern, held.mailbox))
            ):
                held.mailbox.tell(count_up(gap))
