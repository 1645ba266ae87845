"""How far the events of one frame have been handled, while some of them wait in mailboxes."""

from __future__ import annotations

import msgspec

from eventbus_core.mailbox.mailbox import Mailbox
from eventbus_core.model.event import Event
from eventbus_core.session.incoming import Ticket


class FrameProgress(msgspec.Struct, eq=False):
    """
    The events of a frame in their order, and those that were for each mailbox.

    One is made for each frame that is not handled at once; it looks into the mailboxes only when it is called.
    """

    ticket: Ticket
    events: list[Event]
    chunks: dict[Mailbox, list[Event]]

    def __call__(self) -> int:
        """
        Return how many of the frame's events, from its first on, are handled by all their receivers.

        That is 0 while some are unhandled that wait in none of the mailboxes, but to be forwarded.
        """
        unsettled, first = 0, set()
        for mailbox, events in list(self.chunks.items()):
            chunks = mailbox.unsettled(self.ticket, len(events))
            if not chunks:
                del self.chunks[mailbox]
            for chunk in chunks:
                unsettled += len(chunk.events)
                first.add(mailbox.first_unhandled(chunk).id)
        if unsettled != self.ticket.left:
            return 0
        return next((place for place, event in enumerate(self.events) if event.id in first), 0)
