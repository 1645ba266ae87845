"""``eventbus acl`` on real servers of every topology: its rights are enough, and none is too many."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from redis import Redis

import eventbus
from eventbus import EventBusError, Retention
from tests.cli.programs import run
from tests.clusters import RedisCluster
from tests.sentinels import Service, command
from tests.servers import HOST, RedisServer
from tests.shards import Shards
from tests.support import DEADLINE, take, until

RETAIN = {"chat.>": Retention()}
Call = Callable[..., Any]


@contextmanager
def topology(name: str, folder: Path) -> Iterator[tuple[str, list[Call], list[Call]]]:
    """Yield the URI of servers, and for each server, and each sentinel, a function that sends it a command."""
    if name == "cluster":
        with RedisCluster(folder) as cluster:
            yield cluster.uri, [server.call for server in cluster.servers], []
    elif name == "sentinel":
        with Service(folder, replicas=1) as service:
            calls = [[lambda *words, of=of: command(of, *words) for of in each] for each in _members(service)]
            yield service.uri, calls[0], calls[1]
    elif name == "shards":
        with Shards(folder, 2) as shards:
            yield shards.uri, [lambda *words, of=of: command(of, *words) for of in shards.servers], []
    else:
        with RedisServer(folder) as server:
            yield server.uri, [lambda *words: command(server, *words)], []


def _members(service: Service) -> tuple[list[RedisServer], list[RedisServer]]:
    return list(service.servers), list(service.sentinels)


def rules(uri: str, *options: str) -> list[list[str]]:
    """Return the words of each entry that the command prints."""
    done = run("acl", uri, *options)
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines()]


def grant(entries: list[list[str]], servers: list[Call], sentinels: list[Call]) -> str:
    """Give the user these rights; return its name."""
    for calls, entry in ((servers, entries[0]), (sentinels, entries[-1])):
        for call in calls:
            call("ACL", "SETUSER", *entry[1:])
            call("ACL", "LOG", "RESET")
    return entries[0][1]


def refusals(servers: list[Call]) -> set[str]:
    logs = [entry for call in servers for entry in call("ACL", "LOG")]
    rows = [entry if isinstance(entry, dict) else dict(zip(entry[::2], entry[1::2], strict=True)) for entry in logs]
    return {str(_text(row.get("object", row.get(b"object")))) for row in rows}


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def login(uri: str, user: str, *, sentinel: bool) -> str:
    extra = f"?sentinel_username={user}&sentinel_password=CHANGE-ME" if sentinel else ""
    return uri.replace("://", f"://{user}:CHANGE-ME@", 1) + extra


async def use(mine: str, uri: str) -> None:
    """Use each part of a node with the rights in *mine*, beside one with all rights."""
    async with (
        eventbus.connect(mine, node="server-1", lease=6.0, retain=RETAIN) as one,
        eventbus.connect(uri, node="peer", lease=6.0, retain=RETAIN) as two,
    ):
        async with one.client("acme/alice") as alice, two.client("acme/bob") as bob:
            await alice.subscribe("room.*")
            await two.publish("room.42", "hi")
            await two.send("acme/alice", "n", 1)
            assert {event.data for event in await take(alice, 2)} == {"hi", 1}
            await one.send("acme/bob", "n", 2)
            assert (await bob.receive()).data == 2
            await one.publish("chat.1", 3, durable=True)
            assert [event.data for event in await one.history("chat.1")] == [3]
            assert [client async for client in one.clients("peer")] == ["acme/bob"]
            assert sorted([client async for client in one.clients()]) == ["acme/alice", "acme/bob"]
            async with one.client("acme/bob"):
                assert (await two.locate("acme/bob")) is not None
            await alice.unsubscribe("room.*")
        renewed = one._node.lease._renewed_at
        await until(lambda: one._node.lease._renewed_at > renewed, "the lease is renewed")


@pytest.mark.redis
@pytest.mark.parametrize("name", ["single", "sentinel", "cluster", "shards"])
async def test_the_rights_are_enough(name: str, tmp_path: Path) -> None:
    with topology(name, tmp_path) as (uri, servers, sentinels), anyio.fail_after(6 * DEADLINE):
        user = grant(rules(uri, "--node", "server-1"), servers, sentinels)
        await use(login(uri, user, sentinel=bool(sentinels)), uri)
        assert not refusals(servers + sentinels)
        async with eventbus.connect(uri, node="peer", retain=RETAIN) as peer, peer.client("carol"):
            user = grant(rules(uri, "--role", "observer"), servers, sentinels)
            mine = login(uri, user, sentinel=bool(sentinels))
            history = ("history", "chat.1", "--since", "unknown", "--uri")  # claims a client, and releases it
            for words in (("clients", "--json"), ("top", "--count", "1"), history):
                done = await anyio.to_thread.run_sync(partial(run, *words, mine))
                assert done.returncode == 0, (words, done.stderr)
            assert not refusals(servers + sentinels)
            user = grant(rules(uri, "--role", "doctor"), servers, sentinels)
            mine = login(uri, user, sentinel=bool(sentinels))
            done = await anyio.to_thread.run_sync(lambda: run("doctor", mine, "--json"))
            assert {row["level"] for row in json.loads(done.stdout) if "rights" in row["check"]} == {"ok"}
            assert not refusals(servers + sentinels)
            user = grant(rules(uri, "--role", "doctor", "--node", "web-9"), servers, sentinels)
            own = login(uri, user, sentinel=bool(sentinels)) + ("&" if sentinels else "?") + "node=web-9"
            done = await anyio.to_thread.run_sync(lambda: run("doctor", own, "--json"))
            assert {"connection", "round trip", "namespace"} <= {row["check"] for row in json.loads(done.stdout)}
            assert not refusals(servers + sentinels)


async def test_each_right_is_needed(redis_server: RedisServer) -> None:
    """Without one, the server refuses a command of a node that is named in its log, or doctor names it."""
    (entry,) = rules(redis_server.uri, "--node", "server-1")
    with Redis(host=HOST, port=redis_server.port, decode_responses=True) as admin:
        mine = login(redis_server.uri, "server-1", sentinel=False)
        for right in [word for word in entry if word.startswith("+")]:
            admin.execute_command("ACL", "SETUSER", "server-1", "reset", *entry[2:])
            admin.execute_command("ACL", "SETUSER", "server-1", f"-{right[1:]}")
            transport = eventbus.connect(mine, node="server-1")._node.transport
            try:
                findings = await transport.diagnose()
                named = " ".join(finding.hint for finding in findings if finding.check == "rights")
            except EventBusError as error:
                named = f"+{error}"
            if right == "+unsubscribe":
                async with eventbus.connect(mine, node="server-1") as bus, bus.client("a") as client:
                    await client.subscribe("room.1")
                    await client.unsubscribe("room.1")
                    await until(lambda: "unsubscribe" in {row["object"] for row in admin.execute_command("ACL", "LOG")})
                continue
            assert right[1:].partition("|")[0] in named, right
    selectors = " ".join(entry).split(" (")[1:]
    assert len(selectors) == 2


async def test_a_node_cannot_listen_to_the_channel_of_another(redis_server: RedisServer) -> None:
    grant(rules(redis_server.uri, "--node", "server-1"), [lambda *words: command(redis_server, *words)], [])
    mine = login(redis_server.uri, "server-1", sentinel=False)
    async with eventbus.connect(mine, node="server-1"):
        pass
    with pytest.raises(eventbus.ConfigurationError, match=r"[np]:server-2"):
        async with eventbus.connect(mine, node="server-2"):
            pass


def test_a_server_starts_with_the_output_as_its_acl_file(tmp_path: Path) -> None:
    done = run("acl", "redis://localhost:6379/0", "--node", "server-1")
    assert done.stderr == "# on the server\n"
    entries = tmp_path / "users.acl"
    entries.write_text(done.stdout, encoding="utf-8")
    with RedisServer(tmp_path, "--aclfile", str(entries)) as server:
        assert {_text(user) for user in command(server, "ACL", "USERS")} == {"default", "server-1"}


def test_a_backend_without_users_says_so() -> None:
    done = run("acl", "memory://", "--role", "observer")
    assert done.returncode == 2
    assert "has no users" in done.stderr
    done = run("acl", "redis://localhost:6379/0")
    assert "--node" in done.stderr


def test_an_observer_has_another_name_than_the_node(tmp_path: Path) -> None:
    """An entry of the same name would replace the rights of the node."""
    done = run("acl", "redis://localhost:6379/0", "--node", "server-1", "--role", "observer")
    assert done.stdout.startswith("user server-1-observer on ")


def test_an_unknown_role_is_refused_with_those_that_there_are() -> None:
    done = run("acl", "redis://localhost:6379/0", "--role", "bad")
    assert done.returncode == 2
    assert done.stderr.startswith("error: invalid value for '--role': 'bad' is not one of 'node', 'observer'")
