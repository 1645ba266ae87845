"""Items on their way to code of other event loops and threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from math import inf
from threading import RLock
from time import monotonic
from typing import Generic, TypeAlias, TypeVar

from anyio.lowlevel import checkpoint

from eventbus_core.concurrency.loop_calls import calls_here
from eventbus_core.errors import OptionError
from eventbus_core.mailbox.handler import EVENTS_PER_TURN
from eventbus_core.model.names import check_text
from eventbus_core.options import check_seconds

T = TypeVar("T")
Entry: TypeAlias = tuple[float, T]
"""When an item expires, by ``time.monotonic``, and the item."""


class Buffers(Generic[T]):
    """
    Buffers with names, each first in, first out, bounded, and shared by every event loop and thread of the process.

    A handler, which runs in the event loop of the bus, puts in what code elsewhere waits for. That costs a fraction of
    :meth:`PortalClient.receive`, which calls into the event loop of the bus for each event. A buffer exists while
    something waits in it.

    Args:
        capacity: how many items may wait in each buffer, or a function that returns that for its name.
        expiry: seconds after which an item that waits is dropped; by default it never is.

    Raises:
        OptionError: an argument is no such number.
    """

    def __init__(self, capacity: int | Callable[[str], int], expiry: float | None = None) -> None:
        check_seconds("expiry", expiry)
        self._capacity = capacity if callable(capacity) else partial(_constant, _checked(capacity))
        self._expiry = inf if expiry is None else expiry
        self._lock = RLock()  # the garbage collector may end an abandoned call at any point of this thread
        self._waiting: dict[str, deque[Entry[T]]] = {}
        self._receivers: dict[str, deque[_Receiver[T]]] = {}
        self._next_sweep = monotonic() + self._expiry
        self._calls = 0

    def put(self, name: str, item: T) -> bool:
        """
        Give *item* to the call of :meth:`get` that waits longest, or keep it; return false if the buffer is full.

        Raises:
            InvalidName: *name* is no text.
            OptionError: the function that returns capacities returned something else.
        """
        check_text("buffer", name)
        with self._lock:
            now = monotonic()
            entry = now + self._expiry, item
            if self._hand_over(name, entry):
                return True
            if now >= self._next_sweep:
                self._next_sweep = now + self._expiry
                for other in list(self._waiting):
                    self._unexpired(other, now)
            if len(self._unexpired(name, now)) >= _checked(self._capacity(name)):
                return False
            self._waiting.setdefault(name, deque()).append(entry)
            return True

    async def get(self, name: str) -> T:
        """
        Return the next item of the buffer. If the call is cancelled, the item is the next one still.

        Raises:
            InvalidName: *name* is no text.
        """
        check_text("buffer", name)
        self._calls += 1
        if self._calls % EVENTS_PER_TURN == 0:
            await checkpoint()  # other threads may put items in as fast as they are taken here
        with self._lock:
            if waiting := self._unexpired(name, monotonic()):
                _, item = waiting.popleft()
                if not waiting:
                    del self._waiting[name]
                return item
            receiver = _Receiver[T]()
            self._receivers.setdefault(name, deque()).append(receiver)
        try:
            await receiver.given.wait()
        except BaseException:
            self._withdraw(name, receiver)
            raise
        return receiver.entries[0][1]

    def _hand_over(self, name: str, entry: Entry[T]) -> bool:
        while receivers := self._receivers.get(name):
            receiver = receivers[0]
            self._remove(name, receiver)
            if receiver.give(entry):
                return True
        return False

    def _withdraw(self, name: str, receiver: _Receiver[T]) -> None:
        """Take back a call that was cancelled, and what it has been given already."""
        with self._lock:
            self._remove(name, receiver)
            for entry in receiver.entries:
                if not self._hand_over(name, entry):
                    self._waiting.setdefault(name, deque()).appendleft(entry)

    def _remove(self, name: str, receiver: _Receiver[T]) -> None:
        receivers = self._receivers.get(name)
        if receivers and receiver in receivers:
            receivers.remove(receiver)
            if not receivers:
                del self._receivers[name]

    def _unexpired(self, name: str, now: float) -> deque[Entry[T]] | tuple[()]:
        """Return what waits in a buffer, without what has expired."""
        waiting = self._waiting.get(name)
        while waiting and waiting[0][0] <= now:
            waiting.popleft()
        if waiting:
            return waiting
        self._waiting.pop(name, None)
        return ()


def _constant(capacity: int, _name: str) -> int:
    return capacity


def _checked(capacity: int) -> int:
    if type(capacity) is not int or capacity < 0:
        raise OptionError.bad_value("capacity", capacity, "a whole number, 0 or more")
    return capacity


class _Receiver(Generic[T]):
    """
    A call that waits for an item, in an event loop of its own.

    Attributes:
        entries: what it was given, if anything.
        given: set in that event loop afterwards.
    """

    __slots__ = ("_calls", "entries", "given")

    def __init__(self) -> None:
        self.entries: list[Entry[T]] = []
        self._calls = calls_here()
        self.given = self._calls.event()

    def give(self, entry: Entry[T]) -> bool:
        """Pass *entry* to the call, from any thread; return false if its event loop is closed."""
        self.entries.append(entry)
        try:
            self._calls.add(self.given.set)
        except RuntimeError:
            self.entries.clear()
            return False
        return True
