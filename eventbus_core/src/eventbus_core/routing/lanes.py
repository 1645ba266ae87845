"""The topic lanes that a node joins, as its subscribers need them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from math import inf
from time import monotonic
from typing import Final, TypeAlias

import anyio

from eventbus_core.backend import Partition, Transport, lane_partition
from eventbus_core.concurrency.backoff import Backoff, retry_pause
from eventbus_core.concurrency.notifier import Notifier
from eventbus_core.concurrency.service_group import ServiceGroup
from eventbus_core.concurrency.worker import Worker
from eventbus_core.errors import ConfigurationError, EventBusError, PartitionRefused, fresh_copy
from eventbus_core.observability.log import LogLimit, get_logger
from eventbus_core.session.registry import Sessions

logger = get_logger("eventbus")

FIRST_RETRY: Final = 10.0
"""Seconds until lanes that the broker refused are tried again, up to a half less; then twice as many, and so on."""
LONGEST_RETRY: Final = 60.0

Joined: TypeAlias = Callable[[Sequence[Partition]], Awaitable[None]]
"""Called with partitions that the transport has joined; they count as joined once it has returned."""


class Lanes:
    """
    The lanes that are wanted, joined and left by one task.

    A subscriber says what it wants; the task joins and leaves until that holds. So no two subscriptions can race,
    and a subscriber that is cancelled while it waits leaves no trace. Lanes that the broker refuses do not hold up the
    others: they are tried again now and then, and at once if a subscriber waits for them.

    Attributes:
        accepted: the partitions of lanes from which frames are taken; others may still come after a leave.
    """

    def __init__(self, transport: Transport, sessions: Sessions, services: ServiceGroup) -> None:
        self.accepted: set[Partition] = set()
        self._transport = transport
        self._sessions = sessions
        self._wanted: Counter[int] = Counter()
        self._held: set[int] = set()
        self._joined: set[int] = set()
        self._refused: dict[int, ConfigurationError] = {}
        self._retry_at = inf
        self._backoff = Backoff(FIRST_RETRY, LONGEST_RETRY)
        self._log = LogLimit()
        self._on_joined: Joined = _nothing_follows
        self._worker = Worker(services, self._run)
        self._wishes = Notifier()
        self._changed = Notifier()

    def when_joined(self, callback: Joined) -> None:
        """Call *callback* with partitions that the transport has joined; they count as joined once it has returned."""
        self._on_joined = callback

    def want(self, lanes: Iterable[int]) -> None:
        """Count one more subscriber of each of *lanes*."""
        self._wanted.update(lanes)
        self._work()

    def unwant(self, lanes: Iterable[int]) -> None:
        """Count one subscriber less of each of *lanes*."""
        self._wanted.subtract(lanes)
        self._work()
        self._changed.notify()

    async def joined(self, lanes: Iterable[int] | None = None) -> None:
        """
        Return once every one of *lanes*, or every one wanted now, is joined, or not wanted any more.

        Raises:
            ConfigurationError: the broker refuses one of them until its configuration changes.
        """
        needed = set(+self._wanted if lanes is None else lanes)
        self._retry(needed)
        while missing := {lane for lane in needed - self._joined if self._wanted[lane] > 0}:
            await self._changed.wait()
            if refused := missing & self._refused.keys():
                raise fresh_copy(self._refused[min(refused)])

    def retry(self) -> None:
        """Try the lanes that the broker refused again."""
        self._retry(list(self._refused))

    def _work(self) -> None:
        """Have lanes joined and left as wanted."""
        self._wishes.notify()
        self._worker.wake()

    async def _run(self) -> None:
        """Join and leave until all is as wanted, or as the broker allows."""
        while True:
            wanted = set(+self._wanted)
            missing, surplus = wanted - self._joined - self._refused.keys(), self._held - wanted
            if not (missing or surplus):
                if not self._refused:
                    return
                await self._wait_to_retry()
                continue
            done = [await self._try_to_join(lanes) for lanes in self._by_route(missing)]
            if not missing:
                done = [await self._try_to_leave(surplus)]
            if not all(done):
                await anyio.sleep(retry_pause())

    def _by_route(self, lanes: Iterable[int]) -> list[set[int]]:
        """Return *lanes* apart by the server that carries them: one that does not serve holds up its own only."""
        parts: dict[str, set[int]] = {}
        for lane in lanes:
            parts.setdefault(self._transport.route(lane_partition(lane)), set()).add(lane)
        return list(parts.values())

    async def _try_to_join(self, lanes: set[int]) -> bool:
        """Join *lanes*, or note that they are refused; return whether the broker has answered."""
        try:
            await self._join(lanes)
        except ConfigurationError as error:
            self._refuse(lanes, error)
        except EventBusError:
            return False
        self._changed.notify()
        return True

    async def _try_to_leave(self, lanes: set[int]) -> bool:
        try:
            await self._leave(lanes)
        except EventBusError:
            return False
        self._changed.notify()
        return True

    async def _join(self, lanes: set[int]) -> None:
        self.accepted.update(_partitions(lanes))
        self._held |= lanes
        await self._transport.join(_partitions(lanes))
        await self._on_joined(_partitions(lanes))
        self._joined |= lanes
        if not self._refused:
            self._log.reset()
            self._retry_at = inf
            self._backoff.reset()

    async def _leave(self, lanes: set[int]) -> None:
        self._joined -= lanes
        for lane in lanes:
            self._refused.pop(lane, None)
        self._forget(_partitions(lanes))
        await self._transport.leave(_partitions(lanes))
        self._held -= lanes

    async def _wait_to_retry(self) -> None:
        """Return when subscribers have changed what they want, or refused lanes are to be tried again."""
        with anyio.move_on_after(self._retry_at - monotonic()):
            await self._wishes.wait()
        if monotonic() >= self._retry_at:
            self._retry_at = inf
            self._refused.clear()

    def _refuse(self, lanes: set[int], error: ConfigurationError) -> None:
        """Have waiters for those of *lanes* that the broker refuses raise *error*; without a list, that is all."""
        named = error.partitions if isinstance(error, PartitionRefused) else ()
        refused = {lane for lane in lanes if lane_partition(lane) in named} or lanes
        self._refused.update(dict.fromkeys(refused, error))
        self.accepted.difference_update(_partitions(refused))
        if self._retry_at == inf:
            self._retry_at = monotonic() + self._backoff.next()
        if self._log.allows(str(error)):
            text = "node %s receives no topics of %d lanes, and tries to join them again now and then: %s"
            extra = {"node": self._transport.node, "lanes": sorted(refused), "error": str(error)}
            logger.warning(text, self._transport.node, len(refused), error, extra=extra)

    def _retry(self, lanes: Iterable[int]) -> None:
        if refused := self._refused.keys() & lanes:
            for lane in refused:
                del self._refused[lane]
            self._work()

    def _forget(self, partitions: Iterable[Partition]) -> None:
        for partition in partitions:
            self.accepted.discard(partition)
            self._sessions.left(partition)


async def _nothing_follows(_partitions: Sequence[Partition]) -> None:
    """Take partitions as joined at once."""


def _partitions(lanes: Iterable[int]) -> list[Partition]:
    return [lane_partition(lane) for lane in sorted(lanes)]
