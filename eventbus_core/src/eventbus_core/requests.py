"""What is awaited: the answers to requests, and events that :meth:`Bus.wait_for` looks for."""

from __future__ import annotations

import anyio

from eventbus_core.errors import EventBusError, LimitExceeded
from eventbus_core.event import Event


class Pending:
    """One that is awaited, until it is there or known never to come."""

    __slots__ = ("_done", "_outcome")

    def __init__(self) -> None:
        self._done = anyio.Event()
        self._outcome: Event | Exception | None = None

    def settle(self, outcome: Event | Exception) -> None:
        """End the wait; the first outcome counts."""
        if self._outcome is None:
            self._outcome = outcome
            self._done.set()

    async def wait(self) -> Event:
        """
        Return the event.

        Raises:
            Exception: the one that was given to :meth:`settle` in its place.
        """
        await self._done.wait()
        if isinstance(self._outcome, Event):
            return self._outcome
        raise self._outcome or EventBusError("the request was settled without an outcome")


class Requests:
    """The pending requests of a node, by the ids of their events."""

    def __init__(self, limit: int) -> None:
        self._pending: dict[str, Pending] = {}
        self._limit = limit

    def __len__(self) -> int:
        return len(self._pending)

    def open(self, id: str) -> Pending:
        """
        Wait for the answer to the event *id*.

        Raises:
            LimitExceeded: there are too many already.
        """
        if len(self._pending) >= self._limit:
            raise LimitExceeded(
                "no more requests may wait for their answers", "max_requests", self._limit, "wait for some, or raise it"
            )
        pending = self._pending[id] = Pending()
        return pending

    def close(self, id: str) -> None:
        """Wait no more."""
        self._pending.pop(id, None)

    def settle(self, id: str | None, outcome: Event | EventBusError) -> bool:
        """Give the request *id* its outcome; return ``False`` if nobody waits for it."""
        pending = self._pending.get(id) if id is not None else None
        if pending is not None:
            pending.settle(outcome)
        return pending is not None
