"""One client that this node holds, or held."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from eventbus_core.backend import Claim, Owner
from eventbus_core.errors import EventBusError
from eventbus_core.mailbox.mailbox import Mailbox

UNKNOWN: Final = Owner("", 0, 0)
"""The previous owner of a client if the answer to our claim was lost: there may be one."""


class HeldClient:
    """
    A client that this node holds, or held.

    Attributes:
        name, epoch: of the claim; the epoch is 0 until a directory has granted it.
        mailbox: where its events wait.
        previous: the owner before us, if there was one; or ``UNKNOWN``.
        linger: for how many seconds its events are kept for another handle once this one is closed.
        ended: why it is not held any more; ``None`` while it is.
    """

    __slots__ = ("_on_end", "_patterns", "ended", "epoch", "linger", "mailbox", "name", "previous")

    def __init__(self, name: str, mailbox: Mailbox, on_end: Callable[[], None], linger: float = 0.0) -> None:
        self.name = name
        self.linger = linger
        self.mailbox = mailbox
        self.epoch = 0
        self.previous: Owner | None = None
        self.ended: EventBusError | None = None
        self._patterns: dict[str, int | None] | None = None
        self._on_end = on_end

    @property
    def claim(self) -> Claim:
        """The claim that the directory granted."""
        return Claim(self.name, self.epoch)

    @property
    def patterns(self) -> dict[str, int | None]:
        """The patterns that it is subscribed to, each with the number of calls that wait for it; ``None``: it stays."""
        if self._patterns is None:  # most of many clients subscribe to nothing
            self._patterns = {}
        return self._patterns

    @property
    def has_patterns(self) -> bool:
        """Whether it is subscribed to anything."""
        return bool(self._patterns)

    def granted(self, claim: Claim) -> None:
        """Hold it by *claim* from now on."""
        self.epoch = claim.epoch
        self.previous = claim.previous

    def confirmed(self, epoch: int) -> None:
        """Hold it by *epoch*, if that is larger: of a claim of ours whose answer was lost."""
        self.epoch = max(self.epoch, epoch)

    def end(self, reason: EventBusError) -> None:
        """Hold it no more; its handle raises *reason*."""
        if self.ended is None:
            self.ended = reason
            self._on_end()
