"""Servers to connect to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.servers import Gateway, gateways
from tests.servers import RedisServer


@pytest.fixture(scope="module")
def three(redis_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Gateway]]:
    """Three servers that no test harms."""
    folder = tmp_path_factory.mktemp("gateways")
    with gateways(f"{redis_uri}?namespace={folder.name}", folder) as started:
        yield started


@pytest.fixture
def fleet(redis_server: RedisServer, tmp_path: Path) -> Iterator[list[Gateway]]:
    """Three servers, and a Redis, of the test's own: ``redis_server`` is theirs."""
    with gateways(redis_server.uri, tmp_path) as started:
        yield started
