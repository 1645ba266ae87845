"""``eventbus doctor``: its findings on healthy servers, and on servers with a fault."""

from __future__ import annotations

import json
import shlex
from asyncio import StreamWriter
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from anyio import to_thread
from redis import Redis

import eventbus
from eventbus_core.api.discovery import load_backend
from eventbus_core.backend import Finding, TransportURI
from eventbus_core.errors import EventBusError
from eventbus_core.options import parse_options
from eventbus_core.session.wire import WIRE_VERSION
from eventbus_core.testing import until
from eventbus_redis.checks import encryption, read_settings
from eventbus_redis.commands import Commands
from eventbus_redis.options import RedisOptions
from eventbus_redis.server import Server
from tests.cli.nodes import two_nodes
from tests.cli.programs import run
from tests.redis_backend.support import Relay
from tests.servers import HOST, RedisServer, free_port

CHECKS = [
    *("connection", "server", "TLS", "rights", "output buffer", "memory", "clock", "round trip"),
    *("namespace", "nodes", "versions"),
]


def examined(uri: str, status: int) -> dict[str, Finding]:
    ended = run("doctor", uri, "--json")
    assert ended.returncode == status, ended.stdout + ended.stderr
    return {row["check"]: Finding(**row) for row in json.loads(ended.stdout)}


def redis(server: RedisServer, *commands: str) -> None:
    """Run *commands* on *server*."""
    with Redis(port=server.port) as connection:
        for command in commands:
            connection.execute_command(*shlex.split(command))


async def test_every_check_of_a_healthy_server_is_ok(redis_server: RedisServer) -> None:
    async with two_nodes(redis_server.uri) as place:
        done = await place.run("doctor", "--json")
        shown = await place.run("doctor")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    assert [finding["check"] for finding in found] == CHECKS
    # How long a round trip takes is up to this machine and its load.
    assert {finding["level"] for finding in found if finding["check"] != "round trip"} == {"ok"}, found
    assert found[-2]["detail"] == "2 live, all answer"
    assert all(check in shown.stdout for check in CHECKS)
    assert done.returncode == 0


def test_a_backend_without_own_checks_gets_the_common_ones() -> None:
    assert examined("memory://", 0).keys() == {"connection", "round trip", "namespace", "nodes", "versions"}


def test_an_empty_namespace_is_said_to_be_empty() -> None:
    assert examined("memory://", 0)["nodes"].detail == "none is live in this namespace"


def test_a_server_that_is_down() -> None:
    found = examined("redis://user:secret@127.0.0.1:1/0", 1)
    assert found.keys() == {"connection"}
    assert "secret" not in found["connection"].detail
    assert "start the broker" in found["connection"].hint


def test_settings_that_lose_data_are_found_and_the_hint_corrects_them(redis_server: RedisServer) -> None:
    redis(redis_server, "CONFIG SET maxmemory 100mb maxmemory-policy allkeys-lru")
    redis(redis_server, "CONFIG SET client-output-buffer-limit 'pubsub 64kb 64kb 10'")
    found = examined(redis_server.uri, 1)
    assert (found["memory"].level, found["output buffer"].level) == ("error", "warning")
    assert found["output buffer"].detail.startswith("subscribers are cut at 64 KiB, 64 KiB for 10 s; up to 1 MiB")
    redis(redis_server, *(found[check].hint.partition(",")[0] for check in ("memory", "output buffer")))
    found = examined(redis_server.uri, 0)
    assert (found["memory"].level, found["output buffer"].level) == ("ok", "ok")


def test_missing_rights_are_named_and_the_hint_grants_them(redis_server: RedisServer) -> None:
    redis(redis_server, "ACL SETUSER app on >secret resetchannels ~eventbus:* &eventbus:* +@all -@admin -hset -evalsha")
    uri = redis_server.uri.replace("//", "//app:secret@")
    found = examined(uri, 1)
    assert found["rights"].level == "error"
    assert "may not run HSET, EVALSHA" in found["rights"].detail
    assert "secret" not in str(found)
    assert found["memory"].level == "unknown"
    redis(redis_server, found["rights"].hint)
    assert examined(uri, 0)["rights"].level == "ok"


def test_rights_that_only_retained_topics_need_are_a_warning(redis_server: RedisServer) -> None:
    redis(redis_server, "ACL SETUSER app on >secret ~eventbus:* &eventbus:* +@all -xadd -xdel -xrange")
    found = examined(redis_server.uri.replace("//", "//app:secret@"), 0)
    assert found["rights"].level == "warning"
    assert "may not run XADD, XRANGE, XDEL, which retained topics need" in found["rights"].detail
    assert found["rights"].hint.endswith("+xadd +xrange +xdel")


class CutAfterWrites(Relay):
    """Breaks every connection by which an entry was added to a stream, once the server has done that."""

    async def _give(self, writer: StreamWriter, data: bytes) -> None:
        await super()._give(writer, data)
        if b"XADD" in data:
            with Redis(port=self.target) as connection:
                await until(lambda: "cmdstat_xadd" in connection.info("commandstats"))
            self.cut()


async def test_a_connection_that_breaks_leaves_no_key_without_an_end(redis_server: RedisServer) -> None:
    async with CutAfterWrites(redis_server.port) as relay:
        found = await load_backend("redis")(TransportURI.parse(relay.uri), "n0").diagnose()
    assert {finding.check: finding.level for finding in found}["rights"] == "unknown"
    with Redis(port=redis_server.port) as connection:
        assert [key for key in connection.keys("*doctor*") if connection.ttl(key) < 0] == []


async def test_settings_that_a_server_does_not_tell(redis_server: RedisServer) -> None:
    """Managed services answer CONFIG GET, but leave out what their customers may not see."""
    commands = Commands(Server(TransportURI.parse(redis_server.uri), RedisOptions()), 5.0)
    try:
        assert await read_settings(commands, "maxmemory") == {"maxmemory": "0"}
        with pytest.raises(EventBusError, match="the answer lacks no-such-setting"):
            await read_settings(commands, "maxmemory", "no-such-setting")
    finally:
        commands.close()


def test_a_channel_that_may_not_be_subscribed_to(redis_server: RedisServer) -> None:
    redis(redis_server, "ACL SETUSER app on >secret ~eventbus:* resetchannels +@all")
    found = examined(redis_server.uri.replace("//", "//app:secret@"), 1)
    assert found["connection"].level == "error"
    assert "eventbus acl" in found["connection"].detail
    assert found["rights"].level == "error"
    assert "&eventbus:default:*" in found["rights"].hint


def test_a_server_without_config(tmp_path: Path) -> None:
    """Managed services rename or close CONFIG."""
    with RedisServer(tmp_path, "--rename-command", "CONFIG", "") as server:
        found = examined(server.uri, 0)
    assert {check for check, finding in found.items() if finding.level != "ok"} == {"output buffer", "memory"}
    assert "unknown command" in found["memory"].detail


def test_a_replica_is_no_primary(redis_server: RedisServer) -> None:
    redis(redis_server, "REPLICAOF 127.0.0.1 1")
    found = examined(redis_server.uri, 1)
    assert found["server"].level == "error"
    assert "name its primary" in found["server"].hint


def test_a_server_of_a_cluster_is_refused(tmp_path: Path) -> None:
    # Else its second port is 10,000 above the first, where the system may have given it to a client.
    with RedisServer(tmp_path, "--cluster-enabled", "yes", "--cluster-port", str(free_port())) as server:
        assert "cluster mode" in examined(server.uri, 1)["connection"].detail


async def test_a_namespace_of_another_lane_count(redis_uri: str) -> None:
    async with two_nodes(redis_uri) as place:
        done = await place.run("doctor", f"{place.uri}&lanes=32", "--json")
    finding = next(row for row in json.loads(done.stdout) if row["check"] == "namespace")
    assert finding["level"] == "error"
    assert "lanes=, retain=, retain_clients= and retain_queues=" in finding["hint"]


async def test_lanes_and_retention_are_taken_from_the_namespace(redis_uri: str) -> None:
    """Unless the URI names others."""
    uri = f"{redis_uri}?namespace=cli-{uuid4().hex}"
    retained = "retain=chat.>=10/60/1024&retain_queues=jobs=100/60/1024"
    async with eventbus.connect(f"{uri}&lanes=8&{retained}", node="server-1"):
        found = await to_thread.run_sync(examined, uri, 0)
        assert found["namespace"].detail.endswith(f"8 lanes, wire version {WIRE_VERSION}")
        assert found["nodes"].detail == "1 live, all answer"
        other = (await to_thread.run_sync(examined, f"{uri}&retain_queues=jobs=1/1/1024", 1))["namespace"]
    assert (other.level, f"the retention '{retained}'" in other.detail) == ("error", True)


async def test_nodes_of_another_version(redis_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with two_nodes(redis_uri) as place:
        monkeypatch.setattr("eventbus_core.node.snapshot.__version__", "0.0.9")
        done = await place.run("doctor", "--json")
    found = {row["check"]: Finding(**row) for row in json.loads(done.stdout)}
    assert found["versions"].level == "warning"
    assert f"server-2 runs 0.0.9; this is {eventbus.__version__}" in found["versions"].detail
    assert found["nodes"].level == "ok"


async def test_checks_leave_no_keys_behind(redis_server: RedisServer) -> None:
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
        ("redis://redis.example", "warning"),
        ("redis://redis.internal", "warning"),
        ("rediss://redis.internal", "ok"),
        ("rediss://redis.internal?ssl_cert_reqs=none", "warning"),
    ],
)
def test_plain_text_traffic_is_found(uri: str, level: str) -> None:
    parsed = TransportURI.parse(uri)
    finding = encryption(parsed, parse_options(RedisOptions, parsed.options))
    assert finding.level == level
    assert bool(finding.hint) == (level != "ok")


def test_the_replicas_of_a_server_are_shown(redis_server: RedisServer, tmp_path: Path) -> None:
    redis(redis_server, "CONFIG SET repl-diskless-sync-delay 0")
    with RedisServer(tmp_path, "--replicaof", f"{HOST} {redis_server.port}"), Redis(port=redis_server.port) as admin:
        admin.wait(1, 20_000)
        assert "with 1 replicas; frames are published by a script" in examined(redis_server.uri, 0)["server"].detail


def test_the_right_to_ask_for_replicas_is_optional(redis_server: RedisServer) -> None:
    redis(redis_server, "ACL SETUSER app on >secret ~eventbus:* &eventbus:* +@all -role")
    found = examined(redis_server.uri.replace("//", "//app:secret@"), 0)["rights"]
    assert found.level == "warning"
    assert "may not run ROLE, which keeps frames out of the replication stream" in found.detail
    assert found.hint.endswith("+role")
