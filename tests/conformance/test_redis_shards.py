"""The Redis backend on several independent servers, held against the guarantees."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest

from eventbus_core.testing import BackendSuite
from tests.servers import RedisServer
from tests.shards import Shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shards]:
    with Shards(tmp_path_factory.mktemp("shards"), 2) as shards:
        yield shards


@pytest.mark.redis
class TestRedisShards(BackendSuite):
    examples = 5

    @pytest.fixture
    def uri(self, shards: Shards) -> str:
        return shards.uri

    @pytest.fixture
    def restart(self, shards: Shards) -> Callable[[], object]:
        def restart() -> None:
            for server in shards.servers:
                server.restart()

        return restart

    @pytest.fixture
    def freeze(self, shards: Shards) -> Callable[[], AbstractContextManager[object]]:
        @contextmanager
        def freeze() -> Iterator[None]:
            with ExitStack() as stack:
                for server in shards.servers:
                    stack.enter_context(hung(server))
                yield

        return freeze

    @pytest.fixture
    def freeze_one(self, shards: Shards) -> Callable[[], AbstractContextManager[str]]:
        @contextmanager
        def freeze_one() -> Iterator[str]:
            with hung(shards.servers[1]):
                yield shards.name(1)

        return freeze_one


@contextmanager
def hung(server: RedisServer) -> Iterator[None]:
    server.pause()
    try:
        yield
    finally:
        server.resume()
