"""One client that this node holds, or held."""

from __future__ import annotations

from collections.abc import Callable

from eventbus_core.errors import EventBusError
from eventbus_core.mailbox import Mailbox
from eventbus_core.transport import Claim, Owner


class Holding:
    """
    A client that this node holds, or held.

    Attributes:
        name, epoch: of the claim.
        mailbox: where its events go.
        previous: who held it before us, if anyone.
        handover: what the node that held it before is asked to confirm; see :class:`Exchange`.
        linger: for how many seconds its events are kept for another handle once this one is closed.
        patterns: that the client is subscribed to, with the number of calls that still wait for each, ``None`` if
            it holds for good.
        ended: why it is held no more; ``None`` while it is.
    """

    __slots__ = ("_on_end", "ended", "epoch", "handover", "linger", "mailbox", "name", "patterns", "previous")

    def __init__(self, name: str, mailbox: Mailbox, on_end: Callable[[], None], linger: float = 0.0) -> None:
        self.name = name
        self.linger = linger
        self.mailbox = mailbox
        self.epoch = 0
        self.previous: Owner | None = None
        self.handover = ""
        self.ended: EventBusError | None = None
        self.patterns: dict[str, int | None] | None = None
        self._on_end = on_end

    def end(self, reason: EventBusError) -> None:
        """Hold it no more, and let its handle say *reason*."""
        if self.ended is None:
            self.ended = reason
            self._on_end()

    @property
    def claim(self) -> Claim:
        """The claim that the directory granted."""
        return Claim(self.name, self.epoch)
