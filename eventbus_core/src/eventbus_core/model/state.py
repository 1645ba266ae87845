"""The states of a bus, and the legal steps between them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from enum import Enum
from threading import get_ident
from types import MappingProxyType
from typing import Final
from weakref import WeakSet

from eventbus_core.errors import BusClosed, ConfigurationError


class Phase(Enum):
    """
    Where a bus is in its life.

    Attributes:
        NEW: it was not opened yet.
        JOINING: it connects and enters the namespace; nothing is accepted.
        ALONE: it accepts events for its own clients and handlers; the broker was never reached.
        OPEN: it accepts events for every node.
        DRAINING: it accepts events, but claims no client, and gives up those that it holds.
        FINISHING: it accepts no more; events that were accepted are handled.
        LEAVING: it gives up its clients and reports what was not handled; every wait has ended.
        CLOSED: it has left; nothing is written any more.
    """

    NEW = "new"
    JOINING = "joining"
    ALONE = "alone"
    OPEN = "open"
    DRAINING = "draining"
    FINISHING = "finishing"
    LEAVING = "leaving"
    CLOSED = "closed"


LEGAL_STEPS: Final[Mapping[Phase, frozenset[Phase]]] = MappingProxyType(
    {
        Phase.NEW: frozenset((Phase.JOINING, Phase.CLOSED)),
        Phase.JOINING: frozenset((Phase.ALONE, Phase.OPEN, Phase.LEAVING)),
        Phase.ALONE: frozenset((Phase.OPEN, Phase.DRAINING, Phase.FINISHING, Phase.LEAVING)),
        Phase.OPEN: frozenset((Phase.DRAINING, Phase.FINISHING, Phase.LEAVING)),
        Phase.DRAINING: frozenset((Phase.FINISHING, Phase.LEAVING)),
        Phase.FINISHING: frozenset((Phase.LEAVING,)),
        Phase.LEAVING: frozenset((Phase.CLOSED,)),
        Phase.CLOSED: frozenset(),
    }
)


def not_open() -> BusClosed:
    """Return the error for a call on a bus that is not open."""
    return BusClosed("the bus is not open: use it within 'async with eventbus.connect(...)'")


def tasks_cancelled() -> BusClosed:
    """Return the error for a bus whose tasks were cancelled by other code."""
    return BusClosed("the bus is closed: other code cancelled one of its tasks; cancel only tasks that you started")


_states: Final[WeakSet[NodeState]] = WeakSet()


def _after_fork() -> None:
    for state in list(_states):
        state.fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class NodeState:
    """
    The state of one bus: one object that every layer reads, and that only the lifecycle and the drain change.

    Attributes:
        phase: the present one.
        accepting: whether applications may send: in ``ALONE``, ``OPEN`` and ``DRAINING``. Every send reads it.
        was_open: whether it ever accepted anything.
        thread: the one in which the bus was opened.
        forked: whether this process is a copy of the one in which the bus was made.
        crashed: whether a task of the bus has ended before its time; then nothing is accepted, every wait ends at
            once, and the bus leaves without winding up.
    """

    def __init__(self) -> None:
        self.phase = Phase.NEW
        self.accepting = self.was_open = self.crashed = self.forked = False
        self.thread: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        _states.add(self)

    def settle(self) -> None:
        """Note that the bus belongs to this thread and event loop, in which it is opened."""
        self.thread = get_ident()
        self._loop = asyncio._get_running_loop()

    def fork(self) -> None:
        """Note that this process is a copy of the one in which the bus was made."""
        self.forked = True
        self.accepting = False
        self.thread = None if self.thread is None else -1

    def check_place(self) -> None:
        """
        Do nothing in the event loop to which the bus belongs.

        Raises:
            ConfigurationError: this is another event loop, thread or process.
        """
        if self.forked:
            raise ConfigurationError(
                "this bus, or this handle of a client, was made before the process forked, and stays with the parent; "
                "make another one after the fork"
            )
        if self.thread is None or self.closed:
            return
        if not self.here:
            raise ConfigurationError(
                "this bus belongs to the event loop in which it was opened; await the methods of bus.portal() instead, "
                "open one bus in each event loop, or use a bus of connect_blocking"
            )

    @property
    def here(self) -> bool:
        """Whether this is the event loop to which the bus belongs."""
        return get_ident() == self.thread and asyncio._get_running_loop() is self._loop

    def move(self, to: Phase) -> None:
        """
        Go on to another phase.

        Raises:
            RuntimeError: no step leads there from the present one.
        """
        if to not in LEGAL_STEPS[self.phase]:
            raise RuntimeError(f"a bus cannot go from {self.phase.value} to {to.value}")
        self.phase = to
        self.accepting = to in (Phase.ALONE, Phase.OPEN, Phase.DRAINING) and not self.crashed
        self.was_open |= self.accepting

    def check_accepting(self) -> None:
        """
        Do nothing if applications may send, in this thread.

        Raises:
            BusClosed: they may not.
            ConfigurationError: this is another thread or process.
        """
        self.check_thread()
        if not self.accepting:
            raise not_open()

    def check_thread(self) -> None:
        """Do what :meth:`check_place` does, except for event loops of the same thread: for calls that must be fast."""
        if get_ident() != self.thread:
            self.check_place()

    def check_waiting(self) -> None:
        """
        Do nothing if applications may make calls that wait, in this event loop.

        Raises:
            BusClosed: they may not.
            ConfigurationError: this is another event loop, thread or process.
        """
        self.check_place()
        if not self.accepting:
            raise not_open()

    def check_change(self) -> None:
        """
        Do nothing if handlers may be changed here: anywhere before the bus is opened, then in its event loop.

        Raises:
            ConfigurationError: this is another event loop, thread or process.
        """
        if self.phase is not Phase.NEW:
            self.check_place()

    def check_addition(self) -> None:
        """
        Do nothing if handlers may be added here.

        Raises:
            BusClosed: the bus is closed.
            ConfigurationError: this is another event loop, thread or process.
        """
        self.check_change()
        if self.leaving:
            raise not_open()

    def crash(self) -> None:
        """Record that a task of the bus has ended before its time."""
        self.crashed = True
        self.accepting = False

    @property
    def alone(self) -> bool:
        """Whether the broker was not there at the start, and has not been joined since."""
        return self.phase is Phase.ALONE

    @property
    def draining(self) -> bool:
        """Whether clients are given up, and none is claimed."""
        return self.phase is Phase.DRAINING

    @property
    def leaving(self) -> bool:
        """Whether every wait of an application has ended, or ends at once."""
        return self.crashed or self.phase in (Phase.LEAVING, Phase.CLOSED)

    @property
    def closed(self) -> bool:
        """Whether nothing is written to the broker any more."""
        return self.phase is Phase.CLOSED
