"""All mailboxes of a node."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from eventbus_core.mailbox.limits import MailboxLimits, OnDropped
from eventbus_core.mailbox.mailbox import Mailbox
from eventbus_core.options import BusOptions


class MailboxPool:
    """
    The mailboxes of a node.

    Attributes:
        limits: what they share.
    """

    def __init__(
        self, options: BusOptions, now: float, on_dropped: OnDropped, on_busy: Callable[[], None] = lambda: None
    ) -> None:
        self.limits: MailboxLimits[Mailbox] = MailboxLimits(options, now, on_dropped, on_busy)

    def waiting(self) -> int:
        """Return how many events wait in all of them."""
        return sum(mailbox.count for mailbox in self.limits.busy)

    def thaw(self) -> None:
        """Hand out again: the directory has confirmed that the clients are ours."""
        for mailbox in self.limits.thaw(monotonic()):
            mailbox.wake()
