"""A chunk: events that came to a mailbox together."""

from __future__ import annotations

import msgspec

from eventbus_core.mailbox.loss_markers import Losses
from eventbus_core.model.event import Event
from eventbus_core.session.incoming import Ticket


class Chunk(msgspec.Struct, eq=False):
    """
    Events that came together, and what was lost just before them.

    *ticket* is settled once all of them have been handled or dropped. One chunk is made for nearly every visit to a
    mailbox: a struct of msgspec takes a third of the time of a class.
    """

    events: list[Event]
    size: int
    ticket: Ticket | None
    sender: str | None
    since: float
    losses: Losses | None = None

    def settle(self) -> None:
        """Give the sender its credit back; does nothing on successive calls."""
        if self.ticket is not None:
            self.ticket.settle(len(self.events))
            self.ticket = None
