"""The in-memory backend, held against the guarantees: on both event loops, and without its directory."""

import pytest

from eventbus_core import TransportURI, register
from eventbus_core.testing import BackendSuite
from eventbus_memory import MemoryTransport


class TestMemory(BackendSuite):
    @pytest.fixture
    def uri(self) -> str:
        return "memory://conformance"


class TestMemoryOnTrio(TestMemory):
    examples = 5

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "trio"


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
