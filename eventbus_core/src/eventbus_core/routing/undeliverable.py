"""Reports of events that were accepted and not handled: sent to the node that accepted them, and counted there."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final

from eventbus_core.membership.channel import ControlChannel
from eventbus_core.model.event import Event
from eventbus_core.model.names import RESERVED
from eventbus_core.model.reports import Reason, Undeliverable
from eventbus_core.routing.requests import Requests
from eventbus_core.routing.subscriptions import Subscriptions
from eventbus_core.routing.table import RoutingTable

UNDELIVERABLE: Final = "$sys.undeliverable"
MAX_REASONS: Final = 20
"""Reasons that are counted apart: they come from other nodes, and may be anything."""
MAX_TOLD: Final = 10_000
"""Events that are remembered to have been reported, in case their node ends before it confirms them."""


class UndeliverableReports:
    """
    Sends and takes the reports.

    Attributes:
        node: this one.
        counts: events accepted here that were reported, by reason.
        sent: reports to other nodes.
    """

    def __init__(
        self,
        channel: ControlChannel,
        table: RoutingTable,
        requests: Requests,
        subscriptions: Subscriptions,
        on_undeliverable: Callable[[Undeliverable], None],
    ) -> None:
        self.node = channel.node
        self.counts: Counter[str] = Counter()
        self.sent = 0
        self._channel = channel
        self._table = table
        self._requests = requests
        self._subscriptions = subscriptions
        self._on_undeliverable = on_undeliverable
        self._on_control: dict[str, Callable[[str], object]] = {}
        self._told: OrderedDict[str, None] = OrderedDict()  # ids of events
        channel.on(UNDELIVERABLE, self._take)

    def on_control(self, type: str, handler: Callable[[str], object]) -> None:
        """Call *handler* with the id of each control message of *type* that could not be delivered."""
        self._on_control[type] = handler

    def report(self, event: Event, origin: str, reason: Reason) -> None:
        """Tell *origin*, the node that accepted *event*, that no receiver will handle it."""
        fate = Undeliverable(event.id, event.type, event.source, event.target, reason)
        if event.type.startswith(RESERVED) and event.reply_to is None:  # a control message of this node
            origin = self._channel.node
        if origin == self._channel.node:
            self._note(fate)
        else:
            self.sent += 1
            self._channel.send(origin, UNDELIVERABLE, fate)

    def count_unknown(self, number: int, reason: Reason) -> None:
        """Count *number* events of which nothing else is known any more."""
        self.counts[reason] += number

    def refused(self, events: list[Event]) -> None:
        """Report *events*, which the broker refuses."""
        for event in events:
            self.report(event, event.accepted_by(self.node), Reason.REFUSED)

    def unhandled(self, event: Event, origin: str) -> None:
        """Report *event*, which a removed handler left, if it was for this node and no other handler gets it."""
        if event.target == self._channel.address and not self._subscriptions.handlers.match(event.type):
            self.report(event, origin, Reason.NO_HANDLER)

    def interrupted(self, event: Event, sender: str | None) -> None:
        """
        Report *event*, whose handler was cancelled as the bus closes, if it was for one receiver alone.

        A request is not reported: its sender is told that it will get no answer.
        """
        if event.target[:1] not in "#*" and event.type[:1] != RESERVED and event.reply_to is None:
            self.report(event, event.accepted_by(sender or self.node), Reason.BUS_CLOSED)

    def dropped(self, events: list[Event], sender: str | None, reason: Reason) -> None:
        """Report those of *events*, dropped from a mailbox, that were for one receiver alone."""
        for event in events:
            if event.target[:1] not in "#*" and (event.target != self._channel.address or reason == Reason.EXPIRED):
                self.report(event, event.accepted_by(sender or self._channel.node), reason)

    def _take(self, message: Event) -> None:
        self._note(message.decode(Undeliverable))

    def _note(self, fate: Undeliverable) -> None:
        if handler := self._on_control.get(fate.type):
            handler(fate.id)
        self._table.forget(fate.target)
        is_control = fate.type[:1] == RESERVED
        if not is_control:
            if fate.id in self._told:
                return
            if len(self._told) >= MAX_TOLD:
                self._told.popitem(last=False)
            self._told[fate.id] = None
            known = fate.reason in self.counts or len(self.counts) < MAX_REASONS
            self.counts[fate.reason if known else "other"] += 1
        if not self._requests.reject(fate.id, fate.reason) and not is_control:
            self._on_undeliverable(fate)
