"""The receivers on this node, and what each is subscribed to."""

from __future__ import annotations

from collections.abc import Collection

from eventbus_core.errors import LimitExceeded
from eventbus_core.mailbox.mailbox import Mailbox
from eventbus_core.model.topics import INBOX, SHARES, PatternIndex, lanes_of
from eventbus_core.options import BusOptions
from eventbus_core.routing.lanes import Lanes


class Subscriptions:
    """
    The mailboxes of this node's handlers and clients, by what they subscribed to.

    Attributes:
        topics: receivers of events that are published to a topic.
        handlers: receivers of events sent to this node or broadcast, by their type.
        locals: receivers of what this node itself emits, publishes or broadcasts.
        lanes: the lanes that ``topics`` needs.
    """

    def __init__(self, options: BusOptions, lanes: Lanes) -> None:
        self.topics: PatternIndex[Mailbox] = PatternIndex()
        self.handlers: PatternIndex[Mailbox] = PatternIndex()
        self.locals: PatternIndex[Mailbox] = PatternIndex()
        self.lanes = lanes
        self._lane_count = options.lanes
        self._retained = options.retain
        self._limit = options.max_patterns
        self._patterns = 0

    def add_handler(self, pattern: str, mailbox: Mailbox, *, local: bool) -> None:
        """
        Give a handler's *mailbox* the events that match *pattern*.

        Raises:
            LimitExceeded: this node has as many patterns as it may.
        """
        if local:
            self._add(self.locals, pattern, mailbox)
        else:
            self.subscribe(pattern, mailbox)
            self.handlers.add(pattern, mailbox)

    def remove_handler(self, pattern: str, mailbox: Mailbox, *, local: bool) -> None:
        """Undo :meth:`add_handler`; does nothing on successive calls."""
        if local:
            self._remove(self.locals, pattern, mailbox)
        else:
            self.handlers.remove(pattern, mailbox)
            self.unsubscribe(pattern, mailbox)

    def subscribe(self, pattern: str, mailbox: Mailbox) -> bool:
        """
        Give *mailbox* the topics that match *pattern*; return whether it did not have them before.

        Raises:
            LimitExceeded: this node has as many patterns as it may.
        """
        if not self._add(self.topics, pattern, mailbox):
            return False
        self.lanes.want(self.lanes_of(pattern))
        return True

    def unsubscribe(self, pattern: str, mailbox: Mailbox) -> None:
        """Undo :meth:`subscribe`, if there is something to undo."""
        if self._remove(self.topics, pattern, mailbox):
            self.lanes.unwant(self.lanes_of(pattern))

    async def joined(self, pattern: str) -> None:
        """
        Return once every event that matches *pattern* and is published from now on will arrive.

        Or once no receiver of this node is subscribed to *pattern* any more.
        """
        await self.lanes.joined(self.lanes_of(pattern))

    def lanes_of(self, pattern: str, *, shares: bool = True) -> Collection[int]:
        """Return the lanes that can carry topics that match *pattern*: plain ones and, with *shares*, retained ones."""
        if pattern.startswith(INBOX):
            return lanes_of(SHARES + pattern, self._lane_count)
        lanes = lanes_of(pattern, self._lane_count)
        if shares and self._retained.overlap(pattern):
            return {*lanes, *lanes_of(SHARES + pattern, self._lane_count)}
        return lanes

    def _add(self, index: PatternIndex[Mailbox], pattern: str, mailbox: Mailbox) -> bool:
        if not index.add(pattern, mailbox):
            return False
        if self._patterns >= self._limit:
            index.remove(pattern, mailbox)
            hint = "unsubscribe from some, use wildcards, or raise it"
            raise LimitExceeded(f"the pattern {pattern!r} cannot be added", "max_patterns", self._limit, hint)
        self._patterns += 1
        return True

    def _remove(self, index: PatternIndex[Mailbox], pattern: str, mailbox: Mailbox) -> bool:
        removed = index.remove(pattern, mailbox)
        self._patterns -= removed
        return removed
