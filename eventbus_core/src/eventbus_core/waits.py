"""What applications wait for: each wait ends in time, or with the bus."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

import anyio

from eventbus_core.errors import BusClosed, EventBusError
from eventbus_core.options import check_seconds


def not_open() -> BusClosed:
    """Return the error for whatever is asked of a bus outside of ``async with``."""
    return BusClosed("the bus is not open: use it within 'async with eventbus.connect(...)'")


class Wait:
    """A context manager that bounds what is awaited within it; see :meth:`Waits.within`."""

    __slots__ = ("_late", "_scope", "_waits")

    def __init__(self, waits: Waits, timeout: float | None, late: Callable[[], EventBusError]) -> None:
        self._waits = waits
        self._late = late
        check_seconds("timeout", timeout)
        self._scope = anyio.move_on_after(timeout)

    def __enter__(self) -> None:
        if self._waits.over:
            raise not_open()
        self._scope.__enter__()
        self._waits.scopes.add(self._scope)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._waits.scopes.discard(self._scope)
        self._scope.__exit__(kind, error, traceback)
        if self._scope.cancelled_caught:
            raise not_open() if self._waits.over else self._late()


class Waits:
    """
    The waits of one bus.

    Attributes:
        scopes: of those that are under way.
        over: whether the bus is closed.
    """

    def __init__(self) -> None:
        self.scopes: set[anyio.CancelScope] = set()
        self.over = False

    def within(self, timeout: float | None, late: Callable[[], EventBusError] = not_open) -> Wait:
        """
        Return a context manager that bounds what is awaited within it.

        It raises what *late* returns if that took longer than *timeout* seconds, and
        :class:`BusClosed` if the bus closed first.

        Raises:
            OptionError: *timeout* is no number of seconds.
        """
        return Wait(self, timeout, late)

    def end(self) -> None:
        """End every wait, and those to come at once; the bus is closed."""
        self.over = True
        for scope in self.scopes:
            scope.cancel()
