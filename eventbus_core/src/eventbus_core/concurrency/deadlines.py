"""Bounds the waits of application calls: each ends at its timeout, or when the bus closes."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

import anyio

from eventbus_core.errors import EventBusError, TransportUnavailable
from eventbus_core.model.state import NodeState, not_open
from eventbus_core.options import check_seconds


class Deadline:
    """A context manager that bounds the time spent in its block; see :meth:`Deadlines.within`."""

    __slots__ = ("_late", "_running", "_scope", "_state", "_timeout")

    def __init__(
        self,
        state: NodeState,
        running: set[anyio.CancelScope],
        timeout: float | None,
        late: Callable[[], EventBusError],
    ) -> None:
        check_seconds("timeout", timeout)
        self._state = state
        self._running = running
        self._timeout = timeout
        self._late = late

    def __enter__(self) -> None:
        self._state.check_place()
        if self._state.leaving:
            raise not_open()
        self._scope = anyio.move_on_after(self._timeout)
        self._scope.__enter__()
        self._running.add(self._scope)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._running.discard(self._scope)
        self._scope.__exit__(kind, error, traceback)
        if self._scope.cancelled_caught:
            raise not_open() if self._state.leaving else self._late()


class Deadlines:
    """The waits of one bus."""

    def __init__(self, state: NodeState, send_timeout: float) -> None:
        self._state = state
        self._send_timeout = send_timeout
        self._running: set[anyio.CancelScope] = set()

    def within(self, timeout: float | None, late: Callable[[], EventBusError] = not_open) -> Deadline:
        """
        Return a context manager that bounds the time spent in its block.

        If the block takes longer than *timeout* seconds, it raises the error that *late* returns.
        If the bus closes first, it raises :class:`BusClosed`.

        Raises:
            OptionError: *timeout* is not a number of seconds.
        """
        return Deadline(self._state, self._running, timeout, late)

    def until_accepted(self, target: str, timeout: float | None) -> Deadline:
        """Return the context manager for a send to *target* that waits, by default for ``send_timeout``."""
        seconds = self._send_timeout if timeout is None else timeout
        return self.within(
            seconds,
            lambda: TransportUnavailable(
                f"no room for an event to {target!r} within {seconds:g} s: its receivers or the broker do not keep up; "
                f"the event was not accepted"
            ),
        )

    def end(self) -> None:
        """End every wait now; the state says that the bus is leaving, so that later ones end at once."""
        for scope in self._running:
            scope.cancel()
