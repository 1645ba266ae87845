"""That a soak can fail; and, if ``EVENTBUS_SOAK`` says for how many minutes, a soak of each backend."""

from __future__ import annotations

import os

import anyio
import pytest

from tests.servers import RedisServer
from tests.soak.life import Life
from tests.soak.memory import Growth, Sample
from tests.soak.run import soak

MINUTES = float(os.environ.get("EVENTBUS_SOAK", "0"))
long = pytest.mark.skipif(not MINUTES, reason="takes minutes: EVENTBUS_SOAK=2 says how many")
SHORT = 0.25


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def _samples(per_operation: int, noise: int = 200_000) -> list[Sample]:
    return [
        Sample(number * 1000, 5_000_000 + number * 1000 * per_operation + number % 7 * noise // 7, 60_000_000)
        for number in range(200)
    ]


def test_noise_is_no_growth_and_one_object_an_operation_is() -> None:
    """The smallest object in a list takes 24 bytes."""
    assert Growth.of(_samples(0)).flat
    assert not Growth.of(_samples(24)).flat


async def test_a_soak_finds_what_is_kept_for_good() -> None:
    """A planted leak is found within seconds, and where it was allocated, however few operations there were."""
    leak: list[bytes] = []

    class Leaking(Life):
        async def run(self) -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(super().run)
                while True:
                    leak.append(bytes(1024 * 1024))
                    await anyio.sleep(0.1)

    told: list[str] = []
    growth = await soak(Leaking("memory://leak", seed=1), SHORT, told.append)
    assert not growth.flat, growth
    assert "test_soak.py" in "\n".join(told)


@long
async def test_g11_memory_stays_flat_in_one_process() -> None:
    growth = await soak(Life("memory://soak", seed=1), MINUTES, print)
    assert growth.flat, growth


@long
async def test_g11_memory_stays_flat_on_redis(redis_server: RedisServer) -> None:
    growth = await soak(Life(redis_server.uri, seed=1), MINUTES, print)
    assert growth.flat, growth
