"""Who on this node receives what, and the lanes that the node therefore joins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeAlias

import anyio

from eventbus_core.errors import EventBusError, LimitExceeded
from eventbus_core.link import RETRY_PAUSE
from eventbus_core.mailbox import Mailbox
from eventbus_core.options import BusOptions
from eventbus_core.topics import PatternIndex, lanes_of
from eventbus_core.transport import Partition, Transport, lane_partition

Arrived: TypeAlias = Callable[[Sequence[Partition]], Awaitable[None]]
"""Called with partitions that the transport has joined; they count as joined once it has returned."""


class Lanes:
    """
    The topic lanes of a node: those that are wanted, brought about by one task.

    A subscriber says what it wants; :meth:`run` joins and leaves until that is so. So no two
    subscriptions can race, and a subscriber that is cancelled while it waits leaves no trace.

    Attributes:
        accepted: the partitions of lanes from which frames are taken; others may still come after a leave.
    """

    def __init__(self, transport: Transport, arrived: Arrived, left: Callable[[Partition], None]) -> None:
        self.accepted: set[str] = set()
        self._transport = transport
        self._arrived = arrived
        self._left = left
        self._wanted: Counter[int] = Counter()
        self._held: set[int] = set()
        self._joined: set[int] = set()
        self._wake = anyio.Event()
        self._changed = anyio.Event()

    def want(self, lanes: Iterable[int]) -> None:
        """Count one more subscriber of each of *lanes*."""
        self._wanted.update(lanes)
        self._wake.set()

    def unwant(self, lanes: Iterable[int]) -> None:
        """Count one less."""
        self._wanted.subtract(lanes)
        self._wake.set()

    async def joined(self, lanes: Iterable[int] | None = None) -> None:
        """Return once every one of *lanes*, or every one wanted now, is joined."""
        needed = set(+self._wanted if lanes is None else lanes)
        while not needed <= self._joined:
            await self._changed.wait()

    async def run(self) -> None:
        """Join and leave as wanted, for ever."""
        while True:
            wanted = set(+self._wanted)
            missing, surplus = wanted - self._joined, self._held - wanted
            try:
                if missing:
                    self.accepted.update(_partitions(missing))
                    self._held |= missing
                    await self._transport.join(_partitions(missing))
                    await self._arrived(_partitions(missing))
                    self._joined |= missing
                elif surplus:
                    self._joined -= surplus
                    self._forget(_partitions(surplus))
                    await self._transport.leave(_partitions(surplus))
                    self._held -= surplus
                else:
                    self._wake = anyio.Event()
                    await self._wake.wait()
                    continue
            except EventBusError:
                await anyio.sleep(RETRY_PAUSE)
                continue
            self._changed.set()
            self._changed = anyio.Event()

    def _forget(self, partitions: Iterable[Partition]) -> None:
        for partition in partitions:
            self.accepted.discard(partition)
            self._left(partition)


class Subscriptions:
    """
    The mailboxes of this node's handlers and clients by what they asked for.

    Attributes:
        topics: who gets events that are published to a topic.
        handlers: who gets events sent to this node or broadcast, by their type.
        locals: who gets only what this node itself emits, publishes or broadcasts.
        lanes: the lanes that ``topics`` needs.
    """

    def __init__(
        self, transport: Transport, options: BusOptions, arrived: Arrived, left: Callable[[Partition], None]
    ) -> None:
        self.topics: PatternIndex[Mailbox] = PatternIndex()
        self.handlers: PatternIndex[Mailbox] = PatternIndex()
        self.locals: PatternIndex[Mailbox] = PatternIndex()
        self.lanes = Lanes(transport, arrived, left)
        self._lane_count = options.lanes
        self._limit = options.max_patterns
        self._patterns = 0

    def add_handler(self, pattern: str, mailbox: Mailbox, *, local: bool) -> None:
        """
        Let a handler's *mailbox* have what matches *pattern*.

        Raises:
            LimitExceeded: there are as many patterns as there may be.
        """
        if local:
            self._add(self.locals, pattern, mailbox)
        else:
            self.subscribe(pattern, mailbox)
            self.handlers.add(pattern, mailbox)

    def remove_handler(self, pattern: str, mailbox: Mailbox, *, local: bool) -> None:
        """Undo :meth:`add_handler`; does nothing on successive calls."""
        if local:
            self._remove(self.locals, pattern, mailbox)
        else:
            self.handlers.remove(pattern, mailbox)
            self.unsubscribe(pattern, mailbox)

    def subscribe(self, pattern: str, mailbox: Mailbox) -> bool:
        """
        Let *mailbox* have the topics that match *pattern*; return whether it had not before.

        Raises:
            LimitExceeded: there are as many patterns as there may be.
        """
        if not self._add(self.topics, pattern, mailbox):
            return False
        self.lanes.want(lanes_of(pattern, self._lane_count))
        return True

    def unsubscribe(self, pattern: str, mailbox: Mailbox) -> None:
        """Undo :meth:`subscribe`, if there is something to undo."""
        if self._remove(self.topics, pattern, mailbox):
            self.lanes.unwant(lanes_of(pattern, self._lane_count))

    async def joined(self, pattern: str) -> None:
        """Return once every event that matches *pattern* and is published from now on will arrive."""
        await self.lanes.joined(lanes_of(pattern, self._lane_count))

    def _add(self, index: PatternIndex[Mailbox], pattern: str, mailbox: Mailbox) -> bool:
        if not index.add(pattern, mailbox):
            return False
        if self._patterns >= self._limit:
            index.remove(pattern, mailbox)
            mend = "unsubscribe from some, use wildcards, or raise it"
            raise LimitExceeded(f"no room for the pattern {pattern!r}", "max_patterns", self._limit, mend)
        self._patterns += 1
        return True

    def _remove(self, index: PatternIndex[Mailbox], pattern: str, mailbox: Mailbox) -> bool:
        removed = index.remove(pattern, mailbox)
        self._patterns -= removed
        return removed


def _partitions(lanes: Iterable[int]) -> list[Partition]:
    return [lane_partition(lane) for lane in sorted(lanes)]
