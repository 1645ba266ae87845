"""The state that all mailboxes of a node share: the bounds, the clock, and whether events may be handed out."""

from __future__ import annotations

from collections.abc import Callable, Collection
from math import inf
from time import monotonic
from typing import Generic, TypeAlias, TypeVar

from eventbus_core.concurrency.notifier import Notifier
from eventbus_core.model.event import Event
from eventbus_core.model.reports import Reason
from eventbus_core.options import BusOptions

M = TypeVar("M")
OnDropped: TypeAlias = Callable[[list[Event], str | None, Reason], None]


class MailboxLimits(Generic[M]):
    """
    The state that the mailboxes (*M*) of a node share; :class:`SlowConsumers` updates it with every tick.

    A mailbox hands events out until ``fresh_until``: up to then no other node can own our clients. That is until the
    lease can have ended which the directory confirmed last, less a margin; and until half a lease after the last tick,
    as this process may be stopped. After that, or once :meth:`freeze` was called, everything is frozen until
    :meth:`thaw`. A node that has not entered has no lease to lose.

    Attributes:
        options: of the bus.
        backlog, max_bytes: how many events of this node, and how many bytes, may wait before local senders do.
        now: the time of the last tick, or when a mailbox became busy after it and none was.
        fresh_until: until when a mailbox may hand out without asking :meth:`frozen`.
        busy: mailboxes whose consumers have not yet handled everything.
        rested_at: when a consumer last handled all that its mailbox had.
        dropped: events dropped from all mailboxes so far.
        on_dropped: called with events that were dropped, the node that sent them, if another, and the reason.
        on_busy: called when a mailbox becomes busy and none was.
    """

    def __init__(self, options: BusOptions, now: float, on_dropped: OnDropped, on_busy: Callable[[], None]) -> None:
        self.options = options
        self.backlog = min(options.local_backlog, options.mailbox_events)
        self.max_bytes = options.mailbox_size
        self.now = self.rested_at = self._ticked_at = now
        self._owned_until = inf
        self.fresh_until = now + options.lease / 2
        self.busy: set[M] = set()
        self.dropped = 0
        self.on_dropped = on_dropped
        self.on_busy = on_busy
        self._waiting_for_thaw: dict[M, None] | None = None
        self._frozen_at = now
        self._rested = Notifier()
        self._rest_awaited = False

    def frozen(self) -> bool:
        """
        Return whether nothing may be handed out.

        A process that was stopped or blocked for half a lease, or whose lease was not renewed in time, freezes by
        itself: others may own its clients.
        """
        if self._waiting_for_thaw is None and monotonic() > self.fresh_until:
            self.freeze()
        return self._waiting_for_thaw is not None

    def freeze(self) -> None:
        """Hand nothing out until :meth:`thaw`."""
        self._frozen_at = monotonic()
        if self._waiting_for_thaw is None:
            self._waiting_for_thaw = {}
            self.fresh_until = 0.0

    def frozen_lately(self) -> bool:
        """Return whether mailboxes are frozen, and have been for less than a lease: the answer is worth waiting for."""
        return self._waiting_for_thaw is not None and monotonic() < self._frozen_at + self.options.lease

    def wait_for_thaw(self, mailbox: M) -> None:
        """Have :meth:`thaw` return *mailbox*."""
        if self._waiting_for_thaw is not None:
            self._waiting_for_thaw[mailbox] = None

    def thaw(self, now: float) -> list[M]:
        """Hand out again; return the mailboxes whose consumers wait for that."""
        waiting, self._waiting_for_thaw = self._waiting_for_thaw, None
        self.set_clock(now)
        return list(waiting or ())

    def secure(self, until: float) -> None:
        """Note that up to *until* no other node can own our clients."""
        self._owned_until = until
        if self._waiting_for_thaw is None:
            self.set_clock(self._ticked_at)

    def set_clock(self, now: float) -> None:
        """Note that it is *now*, and that this process is not stopped."""
        self.now = self._ticked_at = now
        self.fresh_until = min(now + self.options.lease / 2, self._owned_until)

    def set_ease(self, ease: float) -> None:
        """Give local senders the part *ease* of what they may be ahead by."""
        self.backlog = max(1, int(ease * min(self.options.local_backlog, self.options.mailbox_events)))

    def count_dropped(self, number: int) -> None:
        """Count *number* events as dropped."""
        self.dropped += number

    def begin(self, mailbox: M) -> None:
        """Note that the consumer of *mailbox* has something to handle."""
        if not self.busy:
            self.now = monotonic()  # the last tick may be long ago
            self.on_busy()
        self.busy.add(mailbox)

    def rest(self, mailbox: M) -> None:
        """Note that the consumer of *mailbox* has handled everything."""
        self.busy.discard(mailbox)
        self.rested_at = self.now
        if self._rest_awaited:
            self._rested.notify()

    async def handled(self, mailboxes: Collection[M]) -> None:
        """Return once everything in *mailboxes* has been handled."""
        self._rest_awaited = True
        while not self.busy.isdisjoint(mailboxes):
            await self._rested.wait()
