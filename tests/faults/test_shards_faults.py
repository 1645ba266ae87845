"""One of several independent servers hangs, or is killed and comes back: its partitions wait, and nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from tests.faults.form import CHOSEN, FORM
from tests.faults.trial import Trial, nothing_lost, trial
from tests.shards import Shards

pytestmark = [
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),
    pytest.mark.skipif(not CHOSEN, reason="set EVENTBUS_FAULTS=short or long: they take minutes"),
]

SERVERS = 4
FAULTY = 3


@pytest.fixture
def shards(tmp_path: Path) -> Iterator[Shards]:
    with Shards(tmp_path, SERVERS) as shards:
        yield shards


async def test_41_a_server_hangs(shards: Shards) -> None:
    async with trial("41 one of four servers stopped", shards.servers[0], place=shards.uri) as here:
        await under_load(here)
        shards.servers[FAULTY].pause()
        await anyio.sleep(FORM.hang)
        shards.servers[FAULTY].resume()
        await here.flowing()
    nothing_lost(here.figures)


async def test_42_a_server_is_killed_and_comes_back(shards: Shards) -> None:
    async with trial("42 one of four servers killed, and started again", shards.servers[0], place=shards.uri) as here:
        await under_load(here)
        shards.servers[FAULTY].kill()
        await anyio.sleep(FORM.hang)
        shards.servers[FAULTY].start()
        await here.flowing()
    nothing_lost(here.figures)


async def under_load(here: Trial) -> None:
    await here.load(FORM.shared)
    await here.flowing()
