"""The slow-consumer policy: how long senders wait for a slow consumer of this node, and how far they may be ahead."""

from __future__ import annotations

from typing import Final

from eventbus_core.mailbox.limits import MailboxLimits
from eventbus_core.mailbox.mailbox import Mailbox

LATE: Final = 0.25
"""An event that waits for this part of ``slow_consumer_timeout`` is late."""
LEAST_EASE: Final = 1 / 32


class SlowConsumers:
    """
    Decides which consumers of a node are slow; from then on the bounds of their mailboxes apply.

    Attributes:
        ease: the part of their windows that senders get: less than 1 while every consumer of this node is slow.
    """

    def __init__(self, limits: MailboxLimits[Mailbox]) -> None:
        self.ease = 1.0
        self._limits = limits

    def has_due(self) -> bool:
        """Return whether there is a consumer to look after."""
        return bool(self._limits.busy) or self.ease < 1.0

    def tend(self, now: float) -> None:
        """
        Stop waiting for slow consumers after ``slow_consumer_timeout``: senders get their credit back.

        Where events are late and no consumer has caught up for as long, the node as a whole is slow: then its senders
        get less to be ahead by, and a consumer that makes progress does not count as slow, as more may be on its way
        than it can handle in that time.
        """
        limits = self._limits
        if limits.frozen():
            return
        limits.set_clock(now)
        options = limits.options
        late = now - LATE * options.slow_consumer_timeout
        slow = limits.rested_at < late and any(mailbox.late(late) for mailbox in limits.busy)
        self.ease = max(self.ease / 2, LEAST_EASE) if slow else min(self.ease * 1.1, 1.0)
        limits.set_ease(self.ease)
        before = now - options.slow_consumer_timeout
        for mailbox in list(limits.busy):
            if not mailbox.making_progress(now) or self.ease == 1.0:
                mailbox.stop_holding_up(before)
