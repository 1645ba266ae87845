"""After a write the outbox gives running senders a few turns, so that the next frames have more events."""

from __future__ import annotations

from typing import Any

import pytest

from eventbus_core.outbox.route_queue import GATHER_SIZE, RouteQueue

pytestmark = pytest.mark.anyio


class _Growing:
    """A queue to which *growth* bytes are sent in each turn."""

    def __init__(self, growth: int) -> None:
        self.turns = -1  # the first look is before the first turn
        self._growth = growth

    @property
    def size(self) -> int:
        self.turns += 1
        return 1 + self._growth * self.turns


async def turns_taken(partitions: int, growth: int) -> int:
    """Return for how many turns a route gathers events for so many *partitions*, each of which grows by *growth*."""
    unused: Any = None
    route = RouteQueue("", unused, 0, 0)
    queues: list[Any] = [_Growing(growth) for _ in range(partitions)]
    for queue in queues:
        route.add(queue)
    await route.gather()
    return int(queues[0].turns)


@pytest.mark.parametrize(("partitions", "turns"), [(1, 4), (16, 8), (100, 16)])
async def test_the_more_partitions_the_more_turns(partitions: int, turns: int) -> None:
    """What senders send in a turn is divided among the partitions."""
    assert await turns_taken(partitions, 10) == turns


@pytest.mark.parametrize("partitions", [1, 8])
async def test_large_frames_wait_for_no_more_events(partitions: int) -> None:
    assert await turns_taken(partitions, GATHER_SIZE) == 1


async def test_a_turn_without_events_is_the_last() -> None:
    assert await turns_taken(100, 0) == 1
