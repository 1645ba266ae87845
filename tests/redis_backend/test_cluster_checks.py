"""What ``eventbus doctor`` finds in a cluster."""

from collections.abc import Iterator

import pytest

from eventbus_core.backend import Finding, TransportURI
from eventbus_core.errors import ConfigurationError
from eventbus_redis import RedisClusterTransport, RedisTransport
from tests.clusters import RedisCluster
from tests.servers import RedisServer

pytestmark = [pytest.mark.redis, pytest.mark.parametrize("anyio_backend", ["asyncio"])]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    with RedisCluster(tmp_path_factory.mktemp("cluster"), replicas=1) as cluster:
        yield cluster


async def findings(uri: str) -> dict[str, Finding]:
    return {finding.check: finding for finding in await RedisClusterTransport(TransportURI.parse(uri), "n0").diagnose()}


async def test_a_healthy_cluster_has_no_fault(cluster: RedisCluster) -> None:
    found = await findings(cluster.uri)
    assert {finding.level for finding in found.values()} == {"ok"}, found
    assert found["cluster"].detail.startswith("3 primaries for 16,384 of 16,384 slots")


async def test_a_slow_promotion_is_a_warning(cluster: RedisCluster) -> None:
    cluster.servers[1].call("CONFIG", "SET", "cluster-node-timeout", 15_000)
    try:
        found = (await findings(cluster.uri))["promotion"]
    finally:
        cluster.servers[1].call("CONFIG", "SET", "cluster-node-timeout", 2_000)
    assert found.level == "warning"
    assert found.detail.startswith(f"127.0.0.1:{cluster.servers[1].port}: a dead primary is replaced within about 20 s")
    assert "cluster-node-timeout 5000" in found.hint


async def test_a_primary_that_refuses_the_user_is_not_said_to_be_down(cluster: RedisCluster) -> None:
    others = [server for server in cluster.servers if server is not cluster.servers[1]]
    for server in others:
        server.call("ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all")
    try:
        found = (await findings(cluster.uri.replace("//", "//app:secret@")))["primaries"]
    finally:
        for server in others:
            server.call("ACL", "DELUSER", "app")
    assert found.level == "error"
    assert f"127.0.0.1:{cluster.servers[1].port} refuses the login" in found.detail
    assert "secret" not in found.detail


async def test_a_cluster_has_one_database(cluster: RedisCluster) -> None:
    with pytest.raises(ConfigurationError, match="database 0 only, not 3"):
        RedisClusterTransport(TransportURI.parse(f"{cluster.uri}/3"), "n0")


async def test_each_scheme_names_the_other(cluster: RedisCluster) -> None:
    """Whoever takes a cluster for one server, or the other way round, is told what to write."""
    one = cluster.servers[0].uri
    with pytest.raises(ConfigurationError, match=r"in cluster mode.*write .*redis\+cluster://"):
        await RedisTransport(TransportURI.parse(one), "n0").open()
    with RedisServer(cluster.servers[0].directory / "..") as single:
        uri = single.uri.replace("redis://", "redis+cluster://")
        with pytest.raises(ConfigurationError, match="in standalone mode"):
            await RedisClusterTransport(TransportURI.parse(uri), "n0").open()
