"""What the mailboxes of a node share: their bounds, the clock, and how far their senders may be ahead."""

from __future__ import annotations

from collections.abc import Callable, Collection
from time import monotonic
from typing import TYPE_CHECKING, Final, TypeAlias

import anyio

from eventbus_core.event import Event
from eventbus_core.options import BusOptions

if TYPE_CHECKING:  # each holds the other
    from eventbus_core.mailbox import Mailbox

LATE: Final = 0.25
"""An event that waits for this part of ``laggard_timeout`` is late."""
LEAST_EASE: Final = 1 / 32

OnDropped: TypeAlias = Callable[[list[Event], str | None, str], None]


class Mailboxes:
    """
    What the mailboxes of a node share: their bounds, the clock, and which of them are not empty.

    Attributes:
        lead, room: how many events of this node, and how many bytes, may wait before local senders do.
        now: the time, as of the last tick.
        fresh_until: until when nobody else can own our clients, see :meth:`stale`.
        ease: the part of their windows that senders get: less than 1 while every consumer of this node is slow.
        busy: those whose consumers have not yet handled all.
        dropped: events dropped by all of them so far.
        on_dropped: called with events that were dropped, the node that sent them, if another, and the reason.
    """

    def __init__(self, options: BusOptions, now: float, on_dropped: OnDropped) -> None:
        self.options = options
        self.lead = min(options.local_lead, options.mailbox_events)
        self.room = options.mailbox_size
        self.now = now
        self.fresh_until = now + options.lease / 2
        self.on_dropped = on_dropped
        self.ease = 1.0
        self._rested_at = now
        self._frozen: dict[Mailbox, None] | None = None
        self._doubted_at = now
        self.busy: set[Mailbox] = set()
        self.dropped = 0
        self._handled: anyio.Event | None = None

    def stale(self) -> bool:
        """
        Return whether this process has been stopped, or blocked, for so long that its lease may have ended: half of it.

        Then no mailbox hands anything out until :meth:`verified`: others may own the clients now.
        """
        if self._frozen is None and monotonic() > self.fresh_until:
            self.doubt()
        return self._frozen is not None

    def doubt(self) -> None:
        """Hand nothing out until :meth:`verified`."""
        self._doubted_at = monotonic()
        if self._frozen is None:
            self._frozen = {}
            self.fresh_until = 0.0

    def doubtful(self) -> bool:
        """Return whether there is a doubt to which it is worth waiting for the answer: for as long as a lease."""
        return self._frozen is not None and monotonic() < self._doubted_at + self.options.lease

    def waiting(self) -> int:
        """Return how many events wait in all of them."""
        return sum(mailbox.count for mailbox in self.busy)

    def freeze(self, mailbox: Mailbox) -> None:
        """Wake the consumer of *mailbox* once it is :meth:`verified` that the clients are still ours."""
        if self._frozen is not None:
            self._frozen[mailbox] = None

    def verified(self) -> None:
        """Go on: by the directory's word, the clients that we hold are ours."""
        frozen, self._frozen = self._frozen, None
        self._set_clock(monotonic())
        for mailbox in frozen or ():
            mailbox.wake()

    def tend(self, now: float) -> None:
        """
        Let no mailbox hold back the credit of its senders for longer than ``laggard_timeout``.

        Where events are late and no consumer has caught up for as long, the node itself is slow: then
        its senders get less to be ahead by, and a consumer that keeps at it is no laggard, for what
        was under way already may be more than it can handle in that time.
        """
        if self.stale():
            return
        self._set_clock(now)
        late = now - LATE * self.options.laggard_timeout
        slow = self._rested_at < late and any(mailbox.late(late) for mailbox in self.busy)
        self.ease = max(self.ease / 2, LEAST_EASE) if slow else min(self.ease * 1.1, 1.0)
        self.lead = max(1, int(self.ease * min(self.options.local_lead, self.options.mailbox_events)))
        before = now - self.options.laggard_timeout
        for mailbox in list(self.busy):
            if not mailbox.kept_at(now) or self.ease == 1.0:
                mailbox.stop_holding_up(before)

    def _set_clock(self, now: float) -> None:
        self.now = now
        self.fresh_until = now + self.options.lease / 2

    def rest(self, mailbox: Mailbox) -> None:
        """Say that *mailbox* holds nothing unhandled any more."""
        self.busy.discard(mailbox)
        self._rested_at = self.now
        if self._handled is not None:
            self._handled.set()
            self._handled = None

    async def handled(self, mailboxes: Collection[Mailbox]) -> None:
        """Return once all that is in *mailboxes* has been handled."""
        while not self.busy.isdisjoint(mailboxes):
            if self._handled is None:
                self._handled = anyio.Event()
            await self._handled.wait()
