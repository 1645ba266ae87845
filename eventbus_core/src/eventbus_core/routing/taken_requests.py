"""Requests that receivers of this node took and have not answered: their senders must learn if a receiver ends."""

from __future__ import annotations

from typing import Final

from msgspec import Raw
from msgspec.structs import replace

from eventbus_core.mailbox.mailbox import Mailbox
from eventbus_core.model.event import Event

NO_DATA: Final = Raw(b"\xc0")


class TakenRequests:
    """
    The requests that were handed out and not answered, by the mailbox that they came from.

    A receiver need not answer, so only the last *limit* are kept, without their data.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._mailboxes: dict[str, Mailbox] = {}  # by the id of the request, oldest first
        self._requests: dict[Mailbox, dict[str, Event]] = {}

    def add(self, request: Event, mailbox: Mailbox) -> None:
        """Note that *request* was handed out of *mailbox*; of several handlers of a node, the first counts."""
        if request.id in self._mailboxes:
            return
        if len(self._mailboxes) >= self._limit:
            self.discard(next(iter(self._mailboxes)))
        self._mailboxes[request.id] = mailbox
        self._requests.setdefault(mailbox, {})[request.id] = replace(request, raw=NO_DATA)

    def discard(self, id: str) -> None:
        """Note that the request *id* is answered; does nothing if it is not known."""
        mailbox = self._mailboxes.pop(id, None)
        if mailbox is not None:
            requests = self._requests[mailbox]
            del requests[id]
            if not requests:
                del self._requests[mailbox]

    def take(self, mailbox: Mailbox) -> list[Event]:
        """Remove and return the requests that came from *mailbox*."""
        taken = self._requests.pop(mailbox, {})
        for id in taken:
            del self._mailboxes[id]
        return list(taken.values())

    def take_all(self) -> list[Event]:
        """Remove and return all requests."""
        return [request for mailbox in list(self._requests) for request in self.take(mailbox)]
