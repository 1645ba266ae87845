"""The Redis backend, held against the guarantees."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from eventbus_core.testing import BackendSuite
from tests.servers import RedisServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.mark.redis
class TestRedis(BackendSuite):
    @pytest.fixture
    def uri(self, server: RedisServer) -> str:
        return server.uri

    @pytest.fixture
    def restart(self, server: RedisServer) -> Callable[[], object]:
        return server.restart

    @pytest.fixture
    def freeze(self, server: RedisServer) -> Callable[[], AbstractContextManager[object]]:
        @contextmanager
        def freeze() -> Iterator[None]:
            server.pause()
            try:
                yield
            finally:
                server.resume()

        return freeze
