"""The backend for Redis Cluster, held against the guarantees."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from eventbus_core.testing import BackendSuite
from tests.clusters import RedisCluster
from tests.servers import HOST


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    with RedisCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.mark.redis
class TestRedisCluster(BackendSuite):
    @pytest.fixture
    def uri(self, cluster: RedisCluster) -> str:
        return cluster.uri

    @pytest.fixture
    def restart(self, cluster: RedisCluster) -> Callable[[], object]:
        return cluster.restart

    @pytest.fixture
    def freeze_one(self, cluster: RedisCluster) -> Callable[[], AbstractContextManager[str]]:
        @contextmanager
        def freeze_one() -> Iterator[str]:
            server = cluster.servers[1]
            server.pause()
            try:
                yield f"{HOST}:{server.port}"
            finally:
                server.resume()

        return freeze_one

    @pytest.fixture
    def freeze(self, cluster: RedisCluster) -> Callable[[], AbstractContextManager[object]]:
        @contextmanager
        def freeze() -> Iterator[None]:
            cluster.pause()
            try:
                yield
            finally:
                cluster.resume()

        return freeze
