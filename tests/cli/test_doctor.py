"""``eventbus doctor``: what it finds on servers that are well, and on servers that are not."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

import eventbus
from eventbus_core import Finding, TransportURI, load_backend
from eventbus_core.options import parse_options
from eventbus_redis.diagnosis import encryption
from eventbus_redis.options import RedisOptions
from tests.cli.nodes import two_nodes
from tests.cli.programs import run
from tests.servers import RedisServer, free_port

CHECKS = [
    *("connection", "server", "TLS", "rights", "output buffer", "memory", "clock", "round trip"),
    *("namespace", "nodes", "versions"),
]


def examined(uri: str, status: int) -> dict[str, Finding]:
    ended = run("doctor", uri, "--json")
    assert ended.returncode == status, ended.stdout + ended.stderr
    return {row["check"]: Finding(**row) for row in json.loads(ended.stdout)}


def redis(server: RedisServer, *commands: str) -> None:
    """Have *server* do *commands*."""
    with Redis(port=server.port) as connection:
        for command in commands:
            connection.execute_command(*shlex.split(command))


async def test_on_a_server_that_is_well_all_is_ok(redis_server: RedisServer) -> None:
    async with two_nodes(redis_server.uri) as place:
        done = await place.run("doctor", "--json")
        shown = await place.run("doctor")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    assert [finding["check"] for finding in found] == CHECKS
    assert {finding["level"] for finding in found} == {"ok"}, found
    assert found[-2]["detail"] == "2 live, all answer"
    assert all(check in shown.stdout for check in CHECKS)
    assert done.returncode == 0


def test_a_backend_without_checks_of_its_own_is_tried_out() -> None:
    assert examined("memory://", 0).keys() == {"connection", "round trip", "namespace", "nodes", "versions"}


def test_a_server_that_is_down() -> None:
    found = examined("redis://user:secret@127.0.0.1:1/0", 1)
    assert found.keys() == {"connection"}
    assert "secret" not in found["connection"].detail
    assert "start the broker" in found["connection"].mend


def test_settings_that_lose_data_are_found_and_the_mend_works(redis_server: RedisServer) -> None:
    redis(redis_server, "CONFIG SET maxmemory 100mb maxmemory-policy allkeys-lru")
    redis(redis_server, "CONFIG SET client-output-buffer-limit 'pubsub 64kb 64kb 10'")
    found = examined(redis_server.uri, 1)
    assert (found["memory"].level, found["output buffer"].level) == ("error", "warning")
    assert found["output buffer"].detail.startswith("subscribers are cut at 64 KiB, 64 KiB for 10 s; up to 256 KiB")
    redis(redis_server, *(found[check].mend.partition(",")[0] for check in ("memory", "output buffer")))
    found = examined(redis_server.uri, 0)
    assert (found["memory"].level, found["output buffer"].level) == ("ok", "ok")


def test_rights_that_lack_are_named_and_the_mend_works(redis_server: RedisServer) -> None:
    redis(redis_server, "ACL SETUSER app on >secret resetchannels ~eventbus:* &eventbus:* +@all -@admin -hset -evalsha")
    uri = redis_server.uri.replace("//", "//app:secret@")
    found = examined(uri, 1)
    assert found["rights"].level == "error"
    assert "may not do HSET, EVALSHA" in found["rights"].detail
    assert "secret" not in str(found)
    assert found["memory"].level == "unknown"
    redis(redis_server, found["rights"].mend)
    assert examined(uri, 0)["rights"].level == "ok"


def test_a_channel_that_may_not_be_subscribed_to(redis_server: RedisServer) -> None:
    redis(redis_server, "ACL SETUSER app on >secret ~eventbus:* resetchannels +@all")
    found = examined(redis_server.uri.replace("//", "//app:secret@"), 1)
    assert found["connection"].level == "error"
    assert "ACL SETUSER" in found["connection"].detail
    assert found["rights"].level == "error"
    assert "&eventbus:default:*" in found["rights"].mend


def test_a_server_that_keeps_its_settings_to_itself(tmp_path: Path) -> None:
    """As managed services do."""
    with RedisServer(tmp_path, "--rename-command", "CONFIG", "") as server:
        found = examined(server.uri, 0)
    assert {check for check, finding in found.items() if finding.level != "ok"} == {"output buffer", "memory"}
    assert "unknown command" in found["memory"].detail


def test_a_replica_is_no_primary(redis_server: RedisServer) -> None:
    redis(redis_server, "REPLICAOF 127.0.0.1 1")
    found = examined(redis_server.uri, 1)
    assert found["server"].level == "error"
    assert "name its primary" in found["server"].mend


def test_a_server_of_a_cluster_is_refused(tmp_path: Path) -> None:
    # Else its second port is 10,000 above the first, where the system may have given it to a client.
    with RedisServer(tmp_path, "--cluster-enabled", "yes", "--cluster-port", str(free_port())) as server:
        assert "cluster mode" in examined(server.uri, 1)["connection"].detail


async def test_a_namespace_of_another_lane_count(redis_uri: str) -> None:
    async with two_nodes(redis_uri) as place:
        done = await place.run("doctor", f"{place.uri}&lanes=32", "--json")
    finding = next(row for row in json.loads(done.stdout) if row["check"] == "namespace")
    assert finding["level"] == "error"
    assert "lanes=" in finding["mend"]


async def test_nodes_of_another_version(redis_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with two_nodes(redis_uri) as place:
        monkeypatch.setattr("eventbus_core.node.__version__", "0.0.9")
        done = await place.run("doctor", "--json")
    found = {row["check"]: Finding(**row) for row in json.loads(done.stdout)}
    assert found["versions"].level == "warning"
    assert f"server-2 runs 0.0.9; this is {eventbus.__version__}" in found["versions"].detail
    assert found["nodes"].level == "ok"


async def test_what_is_tried_leaves_nothing_behind(redis_server: RedisServer) -> None:
    uri = TransportURI.parse(redis_server.uri)
    await load_backend("redis")(uri, "doctor").diagnose()
    with Redis(port=redis_server.port) as connection:
        assert connection.dbsize() == 0


@pytest.mark.parametrize(
    ("uri", "level"),
    [
        ("redis://localhost", "ok"),
        ("redis://127.0.0.1", "ok"),
        ("unix:///redis.sock", "ok"),
        ("redis://10.0.0.1", "warning"),
        ("redis://redis.internal", "warning"),
        ("rediss://redis.internal", "ok"),
        ("rediss://redis.internal?ssl_cert_reqs=none", "warning"),
    ],
)
def test_what_travels_in_the_clear_is_found(uri: str, level: str) -> None:
    parsed = TransportURI.parse(uri)
    finding = encryption(parsed, parse_options(RedisOptions, parsed.options))
    assert finding.level == level
    assert bool(finding.mend) == (level != "ok")
