"""What docs/redis.md says of a Redis server, tried on one."""

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
from tests.bus.support import DEADLINE, until
from tests.cli.programs import run
from tests.docs.test_docs import ROOT, blocks_of
from tests.servers import HOST, RedisServer, ServerError, free_port

PAGE = ROOT / "docs/redis.md"


def rights() -> list[str]:
    """The words of the page's ACL entry, after the user's name."""
    (block,) = [block for block in blocks_of(PAGE) if block.marker == "acl"]
    head, name, *words = block.text.split()
    assert (head, name) == ("user", "eventbus")
    return words


@pytest.fixture
def uri(redis_server: RedisServer) -> str:
    """The server's URI with the page's user."""
    allow(redis_server, *rights())
    return redis_server.uri.replace("//", "//eventbus:CHANGE-ME@")


def allow(server: RedisServer, *words: str) -> None:
    with Redis(port=server.port) as admin:
        admin.execute_command("ACL", "SETUSER", "eventbus", *words)


def refusals(server: RedisServer) -> set[str]:
    """What the server refused to the user so far."""
    with Redis(port=server.port, decode_responses=True) as admin:
        entries = admin.execute_command("ACL", "LOG")
    return {entry["object"] for entry in entries if entry["username"] == "eventbus"}


async def use(uri: str) -> None:
    """Do all that makes a node talk to Redis: claims, moves, topics, look-ups, pages, and the end of a dead node."""
    async with eventbus.connect(uri, node="one", lease=0.5) as one, eventbus.connect(uri, node="two") as two:
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


async def alice_is_gone(bus: eventbus.Bus) -> None:
    async def gone() -> bool:
        return await bus.locate("acme/alice") is None

    await until(gone, "alice was released")


async def leave_a_dead_node_behind(uri: str) -> None:
    """Hold clients, and end without a word."""
    program = (
        "import anyio, os, eventbus\n"
        "async def main():\n"
        f"    bus = eventbus.connect({uri!r}, node='dead', lease=0.3)\n"
        "    async with bus, bus.client('acme/dead'):\n"
        "        os._exit(0)\n"
        "anyio.run(main)"
    )
    await anyio.run_process([sys.executable, "-c", program])


async def test_the_rights_on_the_page_are_enough(redis_server: RedisServer, uri: str) -> None:
    with anyio.fail_after(DEADLINE):
        await use(uri)
        await leave_a_dead_node_behind(uri)
        with Redis(port=redis_server.port) as admin:
            async with eventbus.connect(uri, lease=0.5):
                await until(lambda: not admin.hlen("eventbus:default:owners"), "the dead node's client is cleared away")
    assert refusals(redis_server) <= {"client|setinfo"}
    found = {row["check"]: row["level"] for row in json.loads(run("doctor", uri, "--json").stdout)}
    assert found.pop("rights") == "ok"
    assert {check for check, level in found.items() if level != "ok"} == {"output buffer", "memory"}
    allow(redis_server, "+config|get")
    assert {row["level"] for row in json.loads(run("doctor", uri, "--json").stdout)} == {"ok"}


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
        ):
            with pytest.raises(NoPermissionError):
                user.execute_command(*command)


def test_every_right_on_the_page_is_needed() -> None:
    """Each is of a command that the package sends, or calls in a script; SELECT is sent by redis-py."""
    folder = Path(eventbus_redis.__file__).parent
    sources = [path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*")) if path.suffix in (".py", ".lua")]
    sent = set(re.findall(r"""(?:call|pack|ask|_scan)\(\s*["']([A-Z]+)["']""", "\n".join(sources)))
    granted = {word[1:].partition("|")[0].upper() for word in rights() if word[0] == "+"}
    assert granted == sent - {"HELLO", "CONFIG"} | {"SELECT"}


def test_tls_as_the_page_sets_it_up(tmp_path: Path) -> None:
    certificate = [
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=redis"),
        *("-addext", f"subjectAltName=IP:{HOST}", "-keyout", "key.pem", "-out", "cert.pem"),
    ]
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    subprocess.run(certificate, cwd=tmp_path, check=True, capture_output=True)
    port = free_port()
    options = ["--tls-port", str(port), "--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem"]
    options += ["--tls-ca-cert-file", "cert.pem"]
    server = RedisServer(tmp_path, *options)
    try:
        server.start()
    except ServerError as error:
        if "tls" not in str(error).lower():
            raise
        pytest.skip(f"{server.program} was built without TLS")
    with server:
        plain = f"rediss://{HOST}:{port}/0"
        trusted = f"{plain}?ssl_ca_certs={tmp_path}/cert.pem"
        known = f"{trusted}&ssl_certfile={tmp_path}/cert.pem&ssl_keyfile={tmp_path}/key.pem"
        anyio.run(use, known)
        with pytest.raises(eventbus.ConfigurationError, match="certificate verify failed"):
            anyio.run(use, plain)
        with pytest.raises(eventbus.EventBusError):  # how the server refuses depends on who is faster
            anyio.run(use, trusted)
