"""The in-memory backend, held against the guarantees: on both event loops, and without its directory."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from eventbus import register
from eventbus_core.backend import TransportURI
from eventbus_core.testing import BackendSuite
from eventbus_memory import MemoryTransport
from tests.sharded_memory import Sharded


class TestMemory(BackendSuite):
    @pytest.fixture
    def uri(self) -> str:
        return "memory://conformance"


class TestMemoryOnTrio(TestMemory):
    examples = 5

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "trio"


class TestShardedMemory(BackendSuite):
    examples = 5

    @pytest.fixture
    def uri(self) -> str:
        register("sharded", Sharded)
        return "sharded://conformance"

    @pytest.fixture
    def freeze_one(self) -> Callable[[], AbstractContextManager[str]]:
        return Sharded.freeze_one


class MemoryWithoutDirectory(MemoryTransport):
    def __init__(self, uri: TransportURI, node: str) -> None:
        super().__init__(uri, node)
        self.directory = None


class TestMemoryWithoutDirectory(BackendSuite):
    examples = 5

    @pytest.fixture
    def uri(self) -> str:
        register("directoryless", MemoryWithoutDirectory)
        return "directoryless://conformance"
