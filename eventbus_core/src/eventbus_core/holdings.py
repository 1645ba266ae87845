"""The clients of this node, from the claim to what their handles leave."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from msgspec.structs import replace

from eventbus_core.errands import Errands
from eventbus_core.errors import BusClosed, EventBusError, LimitExceeded
from eventbus_core.event import Event
from eventbus_core.exchange import Exchange
from eventbus_core.holding import Holding
from eventbus_core.losses import Dropped
from eventbus_core.mailbox import MAILBOX_FULL, Mailbox
from eventbus_core.mailboxes import Mailboxes
from eventbus_core.presence import CLIENT_CLAIMED, CLIENT_RELEASED, CLIENT_TAKEN_OVER, Presence
from eventbus_core.routing import Router
from eventbus_core.sender import Sender


class Holdings:
    """Begins and ends holdings: what a handle leaves when it ends goes after its client, in order, or is reported."""

    def __init__(
        self,
        router: Router,
        sender: Sender,
        mailboxes: Mailboxes,
        exchange: Exchange,
        errands: Errands,
        presence: Presence,
        on_dropped: Callable[[str, Dropped], None],
    ) -> None:
        self._router = router
        self._sender = sender
        self._mailboxes = mailboxes
        self._exchange = exchange
        self._errands = errands
        self._presence = presence
        self._on_dropped = on_dropped
        self._ownership = router.ownership
        self._lingering: dict[Holding, float] = {}

    async def claim(self, holding: Holding, *, takeover: bool) -> None:
        """Claim the client of *holding*, and have its handle elsewhere end."""
        self._sender.check_open()
        await self._ownership.claim(holding, takeover=takeover)
        try:
            await self._exchange.handed_over(holding)
        except BaseException:
            self._ownership.give_up(holding)
            raise
        self._presence.say(CLIENT_CLAIMED, client=holding.name, epoch=holding.epoch)
        if holding.previous is not None:
            self._presence.say(CLIENT_TAKEN_OVER, client=holding.name, previous=holding.previous.node)

    async def release(self, holding: Holding) -> None:
        """Release the client of *holding*; what it did not handle goes after it, or is reported to its sender."""
        closed = BusClosed(f"the handle of client {holding.name!r} is closed")
        if holding.ended is not None or not self._sender.open:
            self.end(holding, closed)
        elif holding.linger:
            self._leave_behind(holding, closed)
        else:
            self._ownership.drop(holding)
            self.end(holding, closed)
            await self._ownership.release(holding)
            self._presence.say(CLIENT_RELEASED, client=holding.name)

    def overflowed(self, holding: Holding) -> None:
        """End *holding*, whose consumer left too much waiting, and report that to its senders."""
        options = self._router.options
        too_many = holding.mailbox.count > options.mailbox_events
        left = holding.mailbox.close()
        self._mailboxes.dropped += len(left)
        self._ownership.release_soon(holding)
        self.end(
            holding,
            LimitExceeded(
                f"client {holding.name!r} left too much waiting, and its handle was closed",
                *(("mailbox_events", options.mailbox_events) if too_many else ("mailbox_size", options.mailbox_size)),
                mend="take events sooner, raise the option, or let the overflow drop events",
            ),
        )
        self._presence.say(CLIENT_RELEASED, client=holding.name)
        self._on_dropped(holding.name, Dropped(len(left)))
        for event, sender in left:
            self._mailboxes.on_dropped([event], sender, MAILBOX_FULL)

    def end(self, holding: Holding, reason: EventBusError) -> None:
        """End *holding* for *reason*; does nothing on successive calls."""
        if holding.ended is None:
            holding.end(reason)
            self._exchange.settle_handover(holding.handover)
            for pattern in holding.patterns or ():
                self._router.subscriptions.unsubscribe(pattern, holding.mailbox)
            self._lingering.pop(holding, None)
            heir = self._ownership.clients.get(holding.name)
            if heir is holding:
                heir = None
            if heir is not None and (losses := holding.mailbox.losses()):
                heir.mailbox.tell(losses)
            for event, sender in holding.mailbox.close():
                if event.target == holding.name:
                    self._bequeath(holding, heir, event, event.accepted_by(sender or self._router.node))

    def tend(self, now: float) -> None:
        """Release clients that were left, and did not come back in time."""
        for holding in [holding for holding, until in self._lingering.items() if until < now]:
            self._ownership.release_soon(holding)
            self.end(holding, BusClosed(f"client {holding.name!r} did not come back"))
            self._presence.say(CLIENT_RELEASED, client=holding.name)

    def _leave_behind(self, left: Holding, reason: EventBusError) -> None:
        """Keep the events for a client whose handle was closed, until ``linger`` is over or it is claimed."""
        kept = Holding(left.name, Mailbox(self._mailboxes, lambda: None, left.mailbox.overflow), lambda: None)
        kept.epoch = left.epoch
        self._ownership.clients[left.name] = kept
        self._lingering[kept] = monotonic() + left.linger
        self.end(left, reason)
        kept.mailbox.let_go()

    def _bequeath(self, holding: Holding, heir: Holding | None, event: Event, origin: str) -> None:
        """Send *event*, which the handle of *holding* left, after its client: in order, if its owner is known."""
        owner = self._router.routes.cached(holding.name)
        if heir is not None:
            heir.mailbox.put([replace(event, origin=origin)], len(memoryview(event.raw)), None)
        elif owner is not None and owner.epoch > holding.epoch:
            self._errands.pass_on(event, origin, owner)
        else:
            self._errands.stray(event, origin)
