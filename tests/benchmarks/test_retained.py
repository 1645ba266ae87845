"""Readers that come back cost few calls of the server: counts, which no noise can change."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.benchmarks.report.tables import resumed_table, retained_table
from tests.benchmarks.retained import (
    WAYS,
    Figures,
    load_retained,
    measure_latencies,
    measure_publishing,
    measure_resuming,
    running,
)

READERS = 40
OTHERS = 8
"""Calls of the bus itself that may fall into a measurement: leases are renewed."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.redis
async def test_a_resume_takes_one_call_and_readers_at_one_position_share_it(tmp_path: Path) -> None:
    async with running() as server:
        shared = await measure_resuming(server, 1, READERS)
        apart = await measure_resuming(server, READERS, READERS)
        published = [await measure_publishing(server, way, 10, seconds=0.05) for way in WAYS]
        took = await measure_latencies(server, 3)
    assert shared.calls <= 2 + OTHERS
    assert READERS <= apart.calls <= READERS + OTHERS
    found: list[Figures] = [shared, apart, *published, took]
    path = tmp_path / "retained.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode({type(one).__name__: one}) + b"\n" for one in found))
    assert load_retained(path) == found
    assert retained_table(found).count("\n") == 2
    assert "durable=True" in resumed_table(found)
