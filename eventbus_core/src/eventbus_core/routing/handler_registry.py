"""The functions that an application registered on this node."""

from __future__ import annotations

from collections.abc import Iterator

from eventbus_core.mailbox.handler import Handler, HandlerFunction
from eventbus_core.mailbox.mailbox import Leftover
from eventbus_core.routing.subscriptions import Subscriptions
from eventbus_core.routing.undeliverable import UndeliverableReports


class HandlerRegistry:
    """Adds and removes handlers, and finds those of a function, however many others there are."""

    def __init__(self, node: str, subscriptions: Subscriptions, reports: UndeliverableReports) -> None:
        self._node = node
        self._subscriptions = subscriptions
        self._reports = reports
        self._handlers: dict[Handler, None] = {}
        self._by_function: dict[HandlerFunction, dict[Handler, None]] = {}
        self._unhashable: dict[Handler, None] = {}  # handlers whose functions cannot be keys

    def __len__(self) -> int:
        return len(self._handlers)

    def __iter__(self) -> Iterator[Handler]:
        return iter(list(self._handlers))

    def add(self, handler: Handler) -> None:
        """Give *handler* the events that match its name."""
        self._subscriptions.add_handler(handler.name, handler.mailbox, local=handler.local)
        self._handlers[handler] = None
        try:
            self._by_function.setdefault(handler.function, {})[handler] = None
        except TypeError:
            self._unhashable[handler] = None

    def of(self, function: HandlerFunction) -> list[Handler]:
        """Return every handler whose function equals *function*."""
        try:
            return list(self._by_function.get(function, ()))
        except TypeError:
            return [handler for handler in self._unhashable if handler.function == function]

    def remove(self, handler: Handler) -> None:
        """Undo :meth:`add`, whatever waits in its mailbox; does nothing on successive calls."""
        if handler in self._handlers:
            for left in self.take_off(handler):
                self._reports.unhandled(left.event, left.event.accepted_by(left.sender or self._node))
                left.settle()

    def take_off(self, handler: Handler) -> list[Leftover]:
        """Give *handler* no more events, and return those that it had not taken."""
        del self._handlers[handler]
        self._forget(handler)
        self._subscriptions.remove_handler(handler.name, handler.mailbox, local=handler.local)
        return handler.mailbox.close()

    def _forget(self, handler: Handler) -> None:
        if handler in self._unhashable:
            del self._unhashable[handler]
            return
        handlers = self._by_function[handler.function]
        del handlers[handler]
        if not handlers:
            del self._by_function[handler.function]
