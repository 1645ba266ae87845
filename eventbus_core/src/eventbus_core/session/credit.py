"""The window of a receiver: how many bytes each sender may send before it needs another grant."""

from __future__ import annotations

from typing import Final, Protocol

from eventbus_core.backend import Partition

MIN_WINDOW: Final = 128 * 1024
MIN_ADDRESSED_WINDOW: Final = 8 * 1024
SMALL_EVENTS_DIVISOR: Final = 4
"""Small events get this part of a sender's share: more of them would only wait for longer."""
LARGE_EVENTS: Final = 8
"""Events that a window holds if the share allows it: with one or two, a sender would wait for each grant."""
DIVIDE_EVERY: Final = 1.0
"""Seconds after which the budget is divided among the senders that were active meanwhile."""
REPORT_EVERY: Final = 0.25
"""Seconds after which a sender is told again what was handled, while not all that it has sent is."""


class CreditedSession(Protocol):
    """A receiver's end of a session, as far as credit is concerned."""

    partition: str

    def report(self) -> bool:
        """Tell the sender what has been handled, if it does not know; return whether that is all that came."""


class Credit:
    """
    Divides a node's receive budget among the senders that are active.

    Attributes:
        active: the sessions that got a frame since the budget was divided last.
    """

    def __init__(self, budget: int, own: Partition) -> None:
        smallest = min(budget, MIN_WINDOW)
        self._windows = self._addressed_windows = smallest, smallest  # for small events and for large ones
        self.active: set[CreditedSession] = set()
        self._reporting: set[CreditedSession] = set()
        self._budget = budget
        self._own = own
        self._ease = 1.0
        self._divide_at = self._report_at = 0.0

    def set_ease(self, ease: float) -> None:
        """Set the part of the window, from 0 to 1, that senders get for what they send to this node alone."""
        self._ease = ease

    def window(self, event_size: int, *, addressed: bool) -> int:
        """
        Return the bytes that a sender of events of this size may have in flight.

        For what is *addressed* to this node alone, they are fewer while the consumers here are slow. On a topic lane,
        and to all nodes, one slow receiver does not slow down what goes to many: it is left behind there.
        """
        small, large = self._addressed_windows if addressed else self._windows
        return max(small, min(LARGE_EVENTS * event_size, large))

    def has_due(self) -> bool:
        """Return whether there are senders to report to, or to divide the budget among."""
        return bool(self.active or self._reporting)

    def tend(self, now: float) -> None:
        """Divide the budget again if it is time, and report what was handled to the senders of this node's events."""
        if now >= self._report_at:
            self._report_at = now + REPORT_EVERY
            self._reporting = {session for session in self._reporting if not session.report()}
        if now >= self._divide_at:
            # Also the window of senders that begin until the next division, possibly all at once.
            share = self._budget // len(self.active) if self.active else 0
            smallest = min(self._budget, MIN_WINDOW)
            self._windows = max(share // SMALL_EVENTS_DIVISOR, smallest), max(share, smallest)
            addressed = {session for session in self.active if session.partition == self._own} - self._reporting
            self._reporting |= {session for session in addressed if not session.report()}
            self.active.clear()
            self._divide_at = now + DIVIDE_EVERY
        small, large = self._windows
        self._addressed_windows = self._eased(small), self._eased(large)

    def _eased(self, window: int) -> int:
        return max(int(window * self._ease), min(window, MIN_ADDRESSED_WINDOW))
