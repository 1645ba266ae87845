"""What nodes send each other to join, and then without a task: counts, which no noise can change."""

from __future__ import annotations

import asyncio

import pytest

from tests.benchmarks.joining import joined_buses, measure_joining
from tests.support import until

NODES = 20

MOST_TASKS = 2
"""Of an idle node: each takes about 5 KiB."""

# Of each pair: a question to all nodes that the other receives, and an answer. Nodes that join together both ask.
MOST_SENT = {False: 1.2, True: 2.3}
MOST_RECEIVED = {False: 2.2, True: 4.4}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("wildcard", [False, True], ids=["no lanes", "all lanes"])
@pytest.mark.parametrize("together", [False, True], ids=["one by one", "together"])
async def test_joining_takes_few_frames_for_each_pair_of_nodes(wildcard: bool, together: bool) -> None:
    """However many lanes are joined; and idle nodes send nothing."""
    found = await measure_joining("memory://guard", NODES, wildcard=wildcard, together=together, settling=0.5, idle=0.5)
    assert 0 < found.sent / found.pairs < MOST_SENT[together]
    assert 0 < found.received / found.pairs < MOST_RECEIVED[together]
    assert found.idle_sent == found.idle_received == 0


async def test_joining_takes_as_few_frames_through_a_server(redis_uri: str) -> None:
    found = await measure_joining(redis_uri, 5, wildcard=True, together=False, settling=0.5, idle=0.5)
    assert 0 < found.sent / found.pairs < 3
    assert found.idle_sent == found.idle_received == 0


async def test_an_idle_node_has_few_tasks() -> None:
    before = len(asyncio.all_tasks())
    async with joined_buses("memory://tasks", NODES, wildcard=False, together=False):
        await until(lambda: len(asyncio.all_tasks()) - before <= MOST_TASKS * NODES)
