"""Requests: what waits for an answer, and the answers and failures that come."""

from __future__ import annotations

from collections.abc import Collection
from time import monotonic
from typing import Final

import anyio

from eventbus_core.concurrency.deadlines import Deadline, Deadlines
from eventbus_core.concurrency.signal import Signal
from eventbus_core.errors import ClientTakenOver, EventBusError, LimitExceeded, RequestFailed, RequestTimeout
from eventbus_core.membership.channel import ControlChannel
from eventbus_core.membership.held_client import HeldClient
from eventbus_core.model.event import Event
from eventbus_core.routing.taken_requests import TakenRequests

FAILURE: Final = "$sys.failure"


class Pending:
    """
    A wait for one event, until it arrives or is known never to arrive.

    Attributes:
        target: the address to which the request was sent; empty if the wait is for no answer.
        node: the node to which it went, if that is another one and known.
        since: when the wait began.
    """

    __slots__ = ("_done", "_outcome", "node", "since", "target")

    def __init__(self, target: str = "", node: str | None = None) -> None:
        self.target = target
        self.node = node
        self.since = monotonic()
        self._done: anyio.Event | None = None
        self._outcome: Event | Exception | None = None

    def went_to(self, node: str | None) -> None:
        """Note that the request is at *node*, if that is another one and known."""
        self.node = node

    def settle(self, outcome: Event | Exception) -> None:
        """End the wait; the first outcome counts."""
        if self._outcome is None:
            self._outcome = outcome
            if self._done is not None:
                self._done.set()

    async def wait(self) -> Event:
        """
        Return the event.

        Raises:
            Exception: the one that was given to :meth:`settle` instead of an event.
        """
        if self._outcome is None:
            self._done = anyio.Event()
            await self._done.wait()
        if isinstance(self._outcome, Event):
            return self._outcome
        raise self._outcome or EventBusError("the request was settled without an outcome")


class Requests:
    """
    The pending requests of a node, by the ids of their events.

    A request whose receiver ends fails at once. The node of the receiver says so while it can: when a client that took
    the request is released or taken over (:meth:`receiver_ended`), and when the node leaves (:meth:`leave`). The node
    that asked finds out itself when that node has left or is dead (:meth:`node_gone`).

    Attributes:
        address: of this node, to which answers are sent.
        taken: requests that receivers of this node took.
        lost: called with a node that is dead or has left, before the requests that it had fail.
    """

    def __init__(self, channel: ControlChannel, deadlines: Deadlines, limit: int) -> None:
        self.address = channel.address
        self._channel = channel
        self._deadlines = deadlines
        self._pending: dict[str, Pending] = {}
        self._by_target: dict[str, dict[str, Pending]] = {}  # the same, so that a client that moved is found at once
        self._limit = limit
        self.taken = TakenRequests(limit)
        self.lost: Signal[[str]] = Signal()
        channel.on_answer(self._take_answer)

    def __len__(self) -> int:
        return len(self._pending)

    def open(self, id: str, target: str, node: str | None) -> Pending:
        """
        Wait for the answer to the event *id*, a request to *target*, which goes to *node* if that is known.

        Raises:
            LimitExceeded: as many requests as may be pending are.
        """
        if self.full:
            hint = "wait for answers before sending more, or raise it"
            raise LimitExceeded("another request cannot be sent", "max_requests", self._limit, hint)
        pending = Pending(target, node)
        self.add(id, pending)
        return pending

    @property
    def full(self) -> bool:
        """Whether as many requests as may be pending are."""
        return len(self._pending) >= self._limit

    def add(self, id: str, pending: Pending) -> None:
        """Give *pending* the answer to the event *id*."""
        self._pending[id] = pending
        self._by_target.setdefault(pending.target, {})[id] = pending

    def close(self, id: str) -> None:
        """Stop waiting for the answer to *id*."""
        pending = self._pending.pop(id, None)
        if pending is not None:
            others = self._by_target[pending.target]
            del others[id]
            if not others:
                del self._by_target[pending.target]

    def deadline(self, target: str, type: str, timeout: float) -> Deadline:
        """Return the context manager for the wait for an answer of *target*."""
        return self._deadlines.within(timeout, lambda: RequestTimeout(f"the answer of {target!r} to {type!r}", timeout))

    def reject(self, id: str | None, reason: str) -> bool:
        """End the wait of the request *id* with :class:`RequestFailed`; return whether it was pending."""
        pending = self._pending.get(id or "")
        if pending is not None:
            pending.settle(RequestFailed(pending.target, reason))
        return pending is not None

    def fail(self, request: Event, reason: str) -> None:
        """Tell the node that waits for the answer to *request* that there will be none."""
        self.answer(request, FAILURE, reason)

    def answer(self, request: Event, type: str, data: object) -> None:
        """Answer *request*, which a receiver of this node took, on behalf of this node; never waits."""
        self.taken.discard(request.id)
        self._channel.answer(request, type, data)

    def nodes(self, before: float) -> set[str]:
        """Return the other nodes whose answers are waited for since that time or longer."""
        return {one.node for one in self._pending.values() if one.node is not None and one.since <= before}

    def moved(self, client: str, former: str, node: str) -> None:
        """Note that *former* has forwarded the requests to *client* that it had to *node*."""
        for pending in self._by_target.get(client, {}).values():
            if pending.node == former:
                pending.went_to(None if node == self._channel.node else node)

    def node_gone(self, node: str, reason: str, forwarded: Collection[str] = ()) -> None:
        """Fail the requests that *node* had, but for those, by their ids, which are *forwarded* to another node."""
        self.lost(node)
        for id, pending in list(self._pending.items()):
            if pending.node == node:
                if id in forwarded:
                    pending.went_to(None)
                else:
                    pending.settle(RequestFailed(pending.target, reason))

    def receiver_ended(self, held: HeldClient, reason: EventBusError) -> None:
        """Fail the requests that the handle of *held* took and did not answer."""
        how = "taken over" if isinstance(reason, ClientTakenOver) else "released"
        for request in self.taken.take(held.mailbox):
            self.fail(request, f"the client was {how} before it answered")

    def leave(self) -> None:
        """Fail the requests that receivers of this node took and did not answer."""
        for request in self.taken.take_all():
            self.fail(request, f"node {self._channel.node!r} left before it answered")

    def _take_answer(self, answer: Event) -> None:
        if answer.type == FAILURE:
            self.reject(answer.answers, str(answer.data))
        elif pending := self._pending.get(answer.answers or ""):
            pending.settle(answer)
