"""
A pytest plugin for applications: ``pytest_plugins = ["eventbus_core.testing.plugin"]`` in ``conftest.py``.

It needs the package ``eventbus-memory``, and no broker.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from eventbus_core.api.bus import Bus
from eventbus_core.api.connect import connect
from eventbus_core.testing.hosts import fresh_namespace


@pytest.fixture
def memory_uri() -> str:
    """Return the URI of an in-memory bus for this test alone; all buses that connect to it see each other."""
    return f"memory://{fresh_namespace()}"


@pytest.fixture
async def memory_bus(memory_uri: str, anyio_backend: object) -> AsyncIterator[Bus]:
    """Return a bus that is open at ``memory_uri``, as the node ``test``; for tests that anyio's plugin runs."""
    async with connect(memory_uri, node="test") as bus:
        yield bus
