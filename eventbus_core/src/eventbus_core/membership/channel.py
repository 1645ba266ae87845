"""The control channel: messages that nodes send each other on their own behalf."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Final

import msgspec
from msgspec.structs import replace

from eventbus_core.backend import ALL_NODES, node_partition
from eventbus_core.concurrency.budget import Budget
from eventbus_core.concurrency.signal import Signal
from eventbus_core.errors import EventDataError
from eventbus_core.model.event import Event, encode_event
from eventbus_core.model.event_ids import EventIds
from eventbus_core.model.names import EVERYONE, node_address
from eventbus_core.observability.rejections import OWN, THROTTLED, Rejections
from eventbus_core.outbox.outbox import Outbox

QUERIES_PER_SECOND: Final = 5_000
"""Control messages that need an answer, from one node; it asks again for what was not answered."""


class ControlChannel:
    """
    Sends and dispatches control messages; each is an event whose type begins with ``$sys``, in order with all others.

    Attributes:
        node, address: of this node.
        batch_ended: called once after messages that came together, before anything else is done.
    """

    def __init__(self, node: str, outbox: Outbox, ids: EventIds, rejections: Rejections) -> None:
        self.node = node
        self.address = node_address(node)
        self._outbox = outbox
        self._ids = ids
        self._rejections = rejections
        self.batch_ended: Signal[[]] = Signal()
        self._in_batch = False
        self._handlers: dict[str, Callable[[Event], None]] = {}
        self._budgets: dict[str, Budget] = {}  # for the queries that came so far, by their type
        self._on_answer: Callable[[Event], None] = lambda _answer: None

    def on_query(self, type: str, handler: Callable[[Event], None], limit: int = QUERIES_PER_SECOND) -> None:
        """Do what :meth:`on` does, at most *limit* times a second for each node that asks; more are rejected."""
        self.on(type, partial(self._answer_within, limit, handler))

    def on(self, type: str, handler: Callable[[Event], None]) -> None:
        """Dispatch messages of *type* to *handler*, which raises :class:`EventDataError` for data it cannot read."""
        self._handlers[type] = handler

    def on_answer(self, handler: Callable[[Event], None]) -> None:
        """Dispatch every answer to a request to *handler*, whatever its type."""
        self._on_answer = handler

    def take(self, event: Event) -> bool:
        """Dispatch *event* if it is a control message or an answer; return whether it was."""
        handler = self._handlers.get(event.type) if event.answers is None else self._on_answer
        if handler is None:
            return False
        self._in_batch = True
        try:
            handler(event)
        except EventDataError as error:
            self._rejections.add(OWN, error)
        return True

    def take_one(self, event: Event) -> bool:
        """Do what :meth:`take` does with a message that came alone."""
        taken = self.take(event)
        self.end_batch()
        return taken

    def _answer_within(self, limit: int, handler: Callable[[Event], None], query: Event) -> None:
        budget = self._budgets.get(query.type)
        if budget is None:
            budget = self._budgets[query.type] = Budget(limit)
        if budget.allows(query.source, monotonic()):
            handler(query)
        else:
            self._rejections.add(THROTTLED, f"{query.source!r} sends more than {limit:,} {query.type} a second")

    def end_batch(self) -> None:
        """Note that no further message has come; the caller must not suspend between :meth:`take` and this."""
        if self._in_batch:
            self._in_batch = False
            self.batch_ended()

    def reject(self, event: Event, fault: str) -> None:
        """Count and log *event*, a message of which *fault* is wrong."""
        self._rejections.add(OWN, f"{event!r} {fault}")

    def event(self, type: str, target: str, data: object) -> Event:
        """Return an event in the name of this node."""
        raw = msgspec.Raw(msgspec.msgpack.encode(data))
        return Event(type, self.address, target, self._ids.next(), raw)

    def message(self, type: str, node: str, data: object) -> Event:
        """Return a control message for *node*."""
        return self.event(type, node_address(node), data)

    def send(self, node: str, type: str, data: object) -> None:
        """Send a message to another node; never waits."""
        self.forward(node, self.message(type, node, data))

    def send_all(self, type: str, data: object) -> None:
        """Send a message to every other node; never waits."""
        self._outbox.add(self._outbox.queue(ALL_NODES), encode_event(self.event(type, EVERYONE, data)))

    def answer(self, request: Event, type: str, data: object) -> None:
        """Answer *request*, if a node waits for that."""
        if (node := request.asker) is not None:
            self.deliver(node, replace(self.message(type, node, data), answers=request.id))

    def deliver(self, node: str, event: Event) -> None:
        """Send *event* to *node*, or take it here if that is this node."""
        if node == self.node:
            self.take_one(event)
        else:
            self.forward(node, event)

    def forward(self, node: str, event: Event) -> None:
        """Pass *event* on to another node; never waits."""
        self._outbox.add(self._outbox.queue(node_partition(node), node), encode_event(event))

    async def flushed(self) -> None:
        """Return once the broker has taken every message that was sent to all nodes."""
        await self._outbox.flush(self._outbox.queue(ALL_NODES))
