"""The life of a client on this node, from its claim to the events that its handle leaves."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from random import random
from time import monotonic
from typing import Final

from msgspec.structs import replace

from eventbus_core.concurrency.notifier import Notifier
from eventbus_core.concurrency.signal import Signal
from eventbus_core.errors import BusClosed, EventBusError, LimitExceeded, NodeDraining
from eventbus_core.mailbox.limits import MailboxLimits
from eventbus_core.mailbox.mailbox import Leftover, Mailbox
from eventbus_core.membership.held_client import UNKNOWN, HeldClient
from eventbus_core.membership.ownership import Ownership
from eventbus_core.membership.presence import CLIENT_CLAIMED, CLIENT_RELEASED, CLIENT_TAKEN_OVER, Presence
from eventbus_core.model.names import check_client
from eventbus_core.model.reports import Dropped, Reason
from eventbus_core.model.state import NodeState
from eventbus_core.routing.forwarding import Forwarder, Stray
from eventbus_core.routing.subscriptions import Subscriptions
from eventbus_core.routing.takeover import Takeover

MOVING_TIME: Final = 30.0
"""A client that had to leave a draining node lingers for so many seconds at least."""
RETRY_SPREAD: Final = 1.0
"""Seconds within which clients connect again that had to go at the same moment."""


class ClientLifecycle:
    """
    Claims and releases clients, and ends their handles.

    Events that a handle leaves are forwarded to the next owner of the client, in order, or reported.

    Attributes:
        ended: called with each client whose handle ends, and the reason.
    """

    def __init__(
        self,
        state: NodeState,
        ownership: Ownership,
        takeover: Takeover,
        subscriptions: Subscriptions,
        limits: MailboxLimits[Mailbox],
        forwarder: Forwarder,
        presence: Presence,
        on_dropped: Callable[[str, Dropped], None],
    ) -> None:
        self.ended: Signal[[HeldClient, EventBusError]] = Signal()
        self._state = state
        self._ownership = ownership
        self._takeover = takeover
        self._subscriptions = subscriptions
        self._limits = limits
        self._forwarder = forwarder
        self._presence = presence
        self._on_dropped = on_dropped
        self._lingering: dict[HeldClient, float] = {}
        self._sent_away: set[HeldClient] = set()  # their owners have not closed their handles yet
        self._moving: set[HeldClient] = set()  # those that linger until another node claims them
        self._claiming: set[HeldClient] = set()  # their former owners may still forward events
        self._changed = Notifier()
        ownership.ended.connect(self.end)

    async def claim(self, held: HeldClient, *, takeover: bool) -> None:
        """Claim the client of *held*; its handle on another node ends."""
        self._check_claiming(held.name)
        self._claiming.add(held)
        try:
            await self._ownership.claim(held, takeover=takeover)
            try:
                await self._takeover.finished(held)
            except BaseException:
                self._ownership.give_up(held)
                raise
        finally:
            self._claiming.discard(held)
            self._changed.notify()
        self._presence.say(CLIENT_CLAIMED, client=held.name, epoch=held.epoch)
        if held.previous not in (None, UNKNOWN):
            self._presence.say(CLIENT_TAKEN_OVER, client=held.name, previous=held.previous.node)

    async def release(self, held: HeldClient) -> None:
        """Release the client of *held*; events that it did not handle are forwarded or reported."""
        closed = BusClosed(f"the handle of client {held.name!r} is closed")
        self._sent_away.discard(held)
        self._changed.notify()
        if held.ended is not None or not self._state.accepting:
            self.end(held, closed)
        elif held.linger:
            self._leave_behind(held, closed, held.linger)
        else:
            self._ownership.drop(held)
            self.end(held, closed)
            with suppress(BusClosed):  # it closes meanwhile, and leaves the directory with all clients
                await self._ownership.release(held)
            self._presence.say(CLIENT_RELEASED, client=held.name)

    def handles(self) -> list[HeldClient]:
        """Return the clients that have an open handle here, so that they do not linger."""
        apart = self._lingering.keys() | self._claiming
        return [held for held in self._ownership.clients.values() if held not in apart]

    @property
    def lingering_count(self) -> int:
        """How many clients linger here."""
        return len(self._lingering)

    def send_away(self, held: HeldClient) -> None:
        """
        End *held* for its owner, who must connect the client to another node; does nothing if it has ended.

        The client lingers here, for ``MOVING_TIME`` at least.
        """
        if held.ended is None:
            self._sent_away.add(held)
            kept = self._leave_behind(held, self._draining(held.name), max(held.linger, MOVING_TIME))
            self._moving.add(kept)

    async def all_claimed(self) -> None:
        """Return once every claim that has begun is granted or refused."""
        while self._claiming:
            await self._changed.wait()

    async def all_moved(self) -> None:
        """Return once every handle that had to go is closed, and its client claimed elsewhere or given up."""
        while self._sent_away or self._moving:
            await self._changed.wait()

    def _draining(self, client: str) -> NodeDraining:
        return NodeDraining(client, self._ownership.node, random() * RETRY_SPREAD)

    def _check_claiming(self, client: str) -> None:
        self._state.check_accepting()
        if self._state.draining:
            raise self._draining(client)

    def overflowed(self, held: HeldClient) -> None:
        """End *held*, whose mailbox overflowed, and report its events to their senders."""
        options = self._limits.options
        too_many = held.mailbox.count > options.mailbox_events
        left = held.mailbox.close()
        self._limits.count_dropped(len(left))
        self._ownership.release_soon(held)
        self.end(
            held,
            LimitExceeded(
                f"client {held.name!r} was closed because its mailbox overflowed",
                *(("mailbox_events", options.mailbox_events) if too_many else ("mailbox_size", options.mailbox_size)),
                hint='consume faster, raise the limit, or set overflow="drop_oldest"',
            ),
        )
        self._presence.say(CLIENT_RELEASED, client=held.name)
        self._on_dropped(held.name, Dropped(len(left)))
        for one in left:
            self._limits.on_dropped([one.event], one.sender, Reason.MAILBOX_FULL)
            one.settle()

    def end(self, held: HeldClient, reason: EventBusError) -> None:
        """End *held* for *reason*; does nothing on successive calls."""
        if held.ended is not None:
            return
        held.end(reason)
        self._takeover.end(held)
        self.ended(held, reason)
        if held.has_patterns:
            for pattern in held.patterns:
                self._subscriptions.unsubscribe(pattern, held.mailbox)
        self._lingering.pop(held, None)
        if held in self._moving:
            self._moving.discard(held)
            self._changed.notify()
        heir = self._ownership.clients.get(held.name)
        if heir is held:
            heir = None
        if heir is not None and (losses := held.mailbox.losses()):
            heir.mailbox.tell(losses)
        for left in held.mailbox.close():
            if left.event.target == held.name and left.event.position is None:  # else the history has it
                self._bequeath(held, heir, left)
            else:
                left.settle()

    def tend(self, now: float) -> None:
        """Release clients that lingered and did not come back in time."""
        for held in [held for held, until in self._lingering.items() if until < now]:
            self._ownership.release_soon(held)
            self.end(held, BusClosed(f"client {held.name!r} did not come back"))
            self._presence.say(CLIENT_RELEASED, client=held.name)

    def lingering(self, now: float) -> dict[HeldClient, float]:
        """Return the clients that linger, or would if their handles were left now, and for how many seconds."""
        kept = {held: until - now for held, until in self._lingering.items() if until > now}
        return kept | {held: held.linger for held in self._ownership.clients.values() if held.linger}

    async def adopt(self, name: str, seconds: float) -> None:
        """
        Hold the client *name*, which lingered on a node that leaves, for *seconds*, or until it is claimed.

        Raises:
            EventBusError: it is held by another node, or cannot be claimed.
        """
        self._check_claiming(name)
        kept = HeldClient(check_client(name), Mailbox(self._limits, lambda: None), lambda: None)
        kept.mailbox.let_go()
        await self._ownership.claim(kept, takeover=False)
        if kept.ended is None:
            self._lingering[kept] = monotonic() + seconds

    def _leave_behind(self, left: HeldClient, reason: EventBusError, linger: float) -> HeldClient:
        """Keep events for a client whose handle was closed, for *linger* seconds or until the client is claimed."""
        kept = HeldClient(left.name, Mailbox(self._limits, lambda: None, left.mailbox.overflow), lambda: None)
        self._ownership.replace(left, kept)
        self._lingering[kept] = monotonic() + linger
        self.end(left, reason)
        kept.mailbox.let_go()
        return kept

    def _bequeath(self, held: HeldClient, heir: HeldClient | None, left: Leftover) -> None:
        """Give an event that the handle of *held* left to its successor on this node, or forward it."""
        event, sender, ticket = left
        origin = event.accepted_by(sender or self._ownership.node)
        if heir is not None:
            heir.mailbox.put([replace(event, origin=origin)], len(memoryview(event.raw)), ticket)
        else:
            self._forwarder.follow(Stray(event, origin, ticket), held.epoch)
