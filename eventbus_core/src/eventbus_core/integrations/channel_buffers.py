"""Messages that wait for the channels of a process, and its groups, for every event loop and thread."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from threading import Lock
from typing import TypeAlias

_Message: TypeAlias = tuple[float, bytes]
"""The time (of ``time.monotonic``) at which it expires, and the message, encoded."""


class ChannelBuffers:
    """
    The buffer of each channel, bounded by its capacity.

    Args:
        capacity: returns how many messages may wait for a channel.
        expiry: seconds after which a message that waits is dropped.
    """

    def __init__(self, capacity: Callable[[str], int], expiry: float) -> None:
        self._capacity = capacity
        self._expiry = expiry
        self._lock = Lock()
        self._messages: dict[str, deque[_Message]] = {}
        self._receivers: dict[str, deque[_Receiver]] = {}
        self._next_sweep = time.monotonic() + expiry

    def put(self, channel: str, message: bytes) -> bool:
        """Give *message* to a receiver of *channel*, or keep it for one; returns false if the buffer is full."""
        with self._lock:
            now = time.monotonic()
            item = now + self._expiry, message
            if self._hand_over(channel, item):
                return True
            if now >= self._next_sweep:
                self._next_sweep = now + self._expiry
                for name in list(self._messages):
                    self._drop_expired(name)
            self._drop_expired(channel)
            waiting = self._messages.setdefault(channel, deque())
            if len(waiting) >= self._capacity(channel):
                return False
            waiting.append(item)
            return True

    async def get(self, channel: str) -> bytes:
        """Return the next message of *channel* that has not expired; none is lost if this is cancelled."""
        receiver = _Receiver(asyncio.get_running_loop())
        with self._lock:
            self._drop_expired(channel)
            if waiting := self._messages.get(channel):
                _, message = waiting.popleft()
                if not waiting:
                    del self._messages[channel]
                return message
            self._receivers.setdefault(channel, deque()).append(receiver)
        try:
            return (await receiver.future)[1]
        except asyncio.CancelledError:
            self._withdraw(channel, receiver)
            raise

    def _hand_over(self, channel: str, item: _Message) -> bool:
        receivers = self._receivers.get(channel, deque())
        while receivers:
            receiver = receivers.popleft()
            if not receivers:
                del self._receivers[channel]
            if receiver.give(item):
                return True
        return False

    def _withdraw(self, channel: str, receiver: _Receiver) -> None:
        """Take a receiver that was cancelled back, and what it has been given already to the front of the buffer."""
        with self._lock:
            item = receiver.item
            if item is None:
                receivers = self._receivers[channel]
                receivers.remove(receiver)
                if not receivers:
                    del self._receivers[channel]
            elif not self._hand_over(channel, item):
                self._messages.setdefault(channel, deque()).appendleft(item)

    def _drop_expired(self, channel: str) -> None:
        waiting, now = self._messages.get(channel), time.monotonic()
        while waiting and waiting[0][0] <= now:
            waiting.popleft()
        if waiting is not None and not waiting:
            del self._messages[channel]


class _Receiver:
    """A call that waits for a message, in an event loop of its own."""

    __slots__ = ("future", "item", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.future: asyncio.Future[_Message] = loop.create_future()
        self.item: _Message | None = None

    def give(self, item: _Message) -> bool:
        """Pass *item* to the call, from any thread; returns false if its event loop has been closed."""
        try:
            self.loop.call_soon_threadsafe(self._settle, item)
        except RuntimeError:
            return False
        self.item = item
        return True

    def _settle(self, item: _Message) -> None:
        if not self.future.done():
            self.future.set_result(item)


class ChannelGroups:
    """The members of each group in this process; a member leaves after *expiry* seconds unless it is added again."""

    def __init__(self, expiry: float) -> None:
        self._expiry = expiry
        self._lock = Lock()
        self._until: dict[str, dict[str, float]] = {}
        self._next_sweep = time.monotonic() + expiry

    def add(self, group: str, channel: str) -> list[str]:
        """Make *channel* a member of *group*; returns groups whose last member has left, every *expiry* seconds."""
        with self._lock:
            now = time.monotonic()
            self._until.setdefault(group, {})[channel] = now + self._expiry
            if now < self._next_sweep:
                return []
            self._next_sweep = now + self._expiry
            return [name for name in list(self._until) if not self._current(name)]

    def discard(self, group: str, channel: str) -> bool:
        """Remove *channel* from *group*; returns whether it was the last member."""
        with self._lock:
            members = self._until.get(group, {})
            if members.pop(channel, None) is None or members:
                return False
            del self._until[group]
            return True

    def members(self, group: str) -> list[str]:
        """Return the members of *group*."""
        with self._lock:
            return self._current(group)

    def _current(self, group: str) -> list[str]:
        """Drop the members that have left, and the group with its last; return the others."""
        members, now = self._until.get(group, {}), time.monotonic()
        for channel in [name for name, until in members.items() if until <= now]:
            del members[channel]
        if not members:
            self._until.pop(group, None)
        return list(members)
