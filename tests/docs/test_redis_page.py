"""The statements of docs/redis.md about a Redis server, tried on one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from redis import Redis
from redis.exceptions import NoPermissionError

import eventbus
import eventbus_redis
from tests.cli.programs import run
from tests.clusters import TLS_PORT, RedisCluster
from tests.docs.test_docs import ROOT, blocks_of
from tests.servers import HOST, RedisServer, ServerError, free_port
from tests.support import DEADLINE, until

PAGE = ROOT / "docs/redis.md"


def rights() -> list[str]:
    """The words of the page's ACL entry, after the user's name."""
    (block,) = [block for block in blocks_of(PAGE) if block.marker == "acl"]
    head, name, *words = block.text.split()
    assert (head, name) == ("user", "eventbus")
    return words


def more_rights() -> list[str]:
    """The words that the page adds for a cluster."""
    (block,) = [block for block in blocks_of(PAGE) if block.marker == "cluster acl"]
    return block.text.split()


@pytest.fixture
def uri(redis_server: RedisServer) -> str:
    """The server's URI with the page's user."""
    allow(redis_server, *rights())
    return redis_server.uri.replace("//", "//eventbus:CHANGE-ME@")


def allow(server: RedisServer, *words: str) -> None:
    with Redis(port=server.port) as admin:
        admin.execute_command("ACL", "SETUSER", "eventbus", *words)


def refusals(server: RedisServer) -> set[str]:
    """Return the objects of all refusals to the user so far."""
    with Redis(port=server.port, decode_responses=True) as admin:
        entries = admin.execute_command("ACL", "LOG")
    return {entry["object"] for entry in entries if entry["username"] == "eventbus"}


async def use(uri: str) -> None:
    """Use each part of a node that talks to Redis: claims, takeovers, topics, look-ups, pages."""
    async with eventbus.connect(uri, node="one", lease=6.0) as one, eventbus.connect(uri, node="two") as two:
        async with one.client("acme/alice") as alice, two.client("acme/bob") as bob:
            await alice.subscribe("room.*")
            await two.publish("room.42", "hi")
            assert (await alice.receive()).data == "hi"
            await one.send("acme/bob", "number", 1)
            assert (await bob.receive()).data == 1
            assert [node.id for node in await one.nodes()] == ["one", "two"]
            assert [client async for client in one.clients()] == ["acme/alice", "acme/bob"]
            assert [client async for client in one.clients("two")] == ["acme/bob"]
            async with two.client("acme/alice"):
                assert (await one.explain("acme/alice")).owner is not None
            await alice_is_gone(one)
            with pytest.raises(eventbus.ClientAlreadyClaimed):
                await one.client("acme/bob", takeover=False).__aenter__()
        await two.broadcast("config.changed")
        await one.flush()
        renewed = one._node.lease._renewed_at
        await until(lambda: one._node.lease._renewed_at > renewed, "the lease is renewed")


async def alice_is_gone(bus: eventbus.Bus) -> None:
    async def gone() -> bool:
        return await bus.locate("acme/alice") is None

    await until(gone, "alice was released")


async def leave_a_dead_node_behind(uri: str) -> None:
    """Hold a client in a process that exits without closing the bus."""
    program = (
        "import anyio, os, eventbus\n"
        "async def main():\n"
        f"    bus = eventbus.connect({uri!r}, node='dead', lease=0.3)\n"
        "    async with bus, bus.client('acme/dead'):\n"
        "        os._exit(0)\n"
        "anyio.run(main)"
    )
    await anyio.run_process([sys.executable, "-c", program])


def faults_found(uri: str) -> set[str]:
    """Return the checks that do not find all well; that of the round trip measures this machine and its load."""
    rows = json.loads(run("doctor", uri, "--json").stdout)
    return {row["check"] for row in rows if row["level"] != "ok"} - {"round trip"}


async def test_the_rights_on_the_page_are_enough(redis_server: RedisServer, uri: str) -> None:
    with anyio.fail_after(DEADLINE):
        await use(uri)
        await leave_a_dead_node_behind(uri)
        with Redis(port=redis_server.port) as admin:
            async with eventbus.connect(uri, lease=0.5):
                owners = "eventbus:default:owners"
                await until(lambda: not admin.hexists(owners, "acme/dead"), "the dead node's client is cleared away")
    assert not refusals(redis_server)
    assert faults_found(uri) == {"output buffer", "memory"}
    allow(redis_server, "+config|get")
    assert not faults_found(uri)


@pytest.mark.redis
async def test_the_rights_on_the_page_are_enough_for_a_cluster(tmp_path: Path) -> None:
    with RedisCluster(tmp_path) as cluster:
        for server in cluster.servers:
            server.call("ACL", "SETUSER", "eventbus", *rights(), *more_rights())
        uri = cluster.uri.replace("//", "//eventbus:CHANGE-ME@")
        with anyio.fail_after(DEADLINE):
            await use(uri)
        for server in cluster.servers:
            assert not refusals(server)
        found = {row["check"]: row["level"] for row in json.loads(run("doctor", uri, "--json").stdout)}
        assert found.pop("rights") == "ok"
        for server in cluster.servers:
            server.call("ACL", "SETUSER", "eventbus", "-get")
        rows = {row["check"]: row for row in json.loads(run("doctor", uri, "--json").stdout)}
        assert "+get" in rows["rights"]["hint"]


async def test_the_rights_on_the_page_are_no_more_than_the_prefix(redis_server: RedisServer, uri: str) -> None:
    with Redis.from_url(uri) as user:
        for command in (
            ("HGET", "other:key", "field"),
            ("DEL", "other:key"),
            ("PUBLISH", "other", ""),
            ("PSUBSCRIBE", "*"),
            ("KEYS", "*"),
            ("FLUSHALL",),
            ("CONFIG", "GET", "*"),
            ("ACL", "LIST"),
            ("EVAL", "return 1", "0"),
            ("SELECT", "1"),
            ("SCRIPT", "FLUSH"),
            ("FUNCTION", "LIST"),
        ):
            with pytest.raises(NoPermissionError):
                user.execute_command(*command)


async def test_another_database_needs_the_right_to_select(redis_server: RedisServer) -> None:
    allow(redis_server, *rights(), "resetchannels", "&eventbus/1:*")
    uri = redis_server.uri.replace("//", "//eventbus:CHANGE-ME@").removesuffix("0") + "1"
    with pytest.raises(eventbus.ConfigurationError, match="'select'"):
        await eventbus.connect(uri).__aenter__()
    allow(redis_server, "+select")
    await use(uri)


async def test_the_rights_on_the_page_do_not_limit_the_load(redis_server: RedisServer, uri: str) -> None:
    """A script may run for as long as it likes, stay in memory, and write into the log of the server."""
    with Redis.from_url(uri) as user:
        loop = (
            "redis.log(redis.LOG_WARNING, 'written by a script') local n = 0 for i = 1, ARGV[1] do n = i end return n"
        )
        assert user.evalsha(user.script_load(loop), 0, 1_000_000) == 1_000_000
    assert "by a script" in redis_server.log.read_text()


def test_every_right_on_the_page_is_needed() -> None:
    """The package sends each granted command, or calls it in a script; SENTINEL goes to sentinels."""
    folder = Path(eventbus_redis.__file__).parent
    sources = [path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*")) if path.suffix in (".py", ".lua")]
    sent = set(
        re.findall(
            r"""(?:call|pack|ask|_scan|_request)\((?:True, |False, |Kind\.\w+, )?\s*["']([A-Z]+)["']""",
            "\n".join(sources),
        )
    )
    granted = {word[1:].partition("|")[0].upper() for word in (*rights(), *more_rights()) if word[0] == "+"}
    sent.add("SPUBLISH")  # packed by hand
    assert granted == sent - {"AUTH", "HELLO", "CONFIG", "SELECT", "SENTINEL"}


@pytest.fixture
def with_tls(tmp_path: Path) -> list[str]:
    """Options of a server that speaks TLS, at a port yet to be filled in."""
    certificate = [
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=redis"),
        *("-addext", f"subjectAltName=IP:{HOST}", "-keyout", "key.pem", "-out", "cert.pem"),
    ]
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    subprocess.run(certificate, cwd=tmp_path, check=True, capture_output=True)
    options = ["--tls-port", TLS_PORT, "--tls-cert-file", f"{tmp_path}/cert.pem"]
    options += ["--tls-key-file", f"{tmp_path}/key.pem", "--tls-ca-cert-file", f"{tmp_path}/cert.pem"]
    server = RedisServer(tmp_path, *filled(options, free_port()))
    try:
        server.start()
    except ServerError as error:
        if "tls" not in str(error).lower():
            raise
        pytest.skip(f"{server.program} was built without TLS")
    server.stop()
    return options


def filled(options: list[str], port: int) -> list[str]:
    return [option.replace(TLS_PORT, str(port)) for option in options]


@pytest.mark.redis
async def test_tls_to_a_cluster(tmp_path: Path, with_tls: list[str]) -> None:
    """The servers are known by the addresses that they announce, which the certificate must name."""
    with RedisCluster(tmp_path, *with_tls, "--tls-cluster", "yes", "--tls-auth-clients", "no") as cluster:
        seeds = ",".join(f"{HOST}:{server.tls_port}" for server in cluster.servers)
        uri = f"rediss+cluster://{seeds}"
        await use(f"{uri}?ssl_ca_certs={tmp_path}/cert.pem")
        with pytest.raises(eventbus.ConfigurationError, match="certificate verify failed"):
            await use(uri)


def test_tls_as_the_page_sets_it_up(tmp_path: Path, with_tls: list[str]) -> None:
    port = free_port()
    with RedisServer(tmp_path, *filled(with_tls, port)):
        plain = f"rediss://{HOST}:{port}/0"
        trusted = f"{plain}?ssl_ca_certs={tmp_path}/cert.pem"
        known = f"{trusted}&ssl_certfile={tmp_path}/cert.pem&ssl_keyfile={tmp_path}/key.pem"
        anyio.run(use, known)
        with pytest.raises(eventbus.ConfigurationError, match="certificate verify failed"):
            anyio.run(use, plain)
        with pytest.raises(eventbus.EventBusError):  # the error depends on timing
            anyio.run(use, trusted)
