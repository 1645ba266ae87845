"""A primary that sentinels name: nodes find it, and follow it when another server takes over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import anyio
import pytest
from redis import Redis

from eventbus_core.backend import Claim, Directory, Disconnected, Frame, Interrupted, TransportURI, lane_partition
from eventbus_core.errors import ConfigurationError, EventBusError, TransportUnavailable
from eventbus_redis import SentinelTransport
from eventbus_redis.packing import load_script
from eventbus_redis.sentinel.watch import Sentinels
from eventbus_redis.server import Server
from tests.redis_backend.support import TERMS, directory_of, interruptions, run
from tests.sentinels import SERVICE, Service
from tests.servers import HOST, RedisServer, free_port
from tests.support import DEADLINE, until

pytestmark = pytest.mark.redis

LANE = lane_partition(3)
RIGHTS = ("resetchannels", "&+switch-master", "-@all", "+subscribe")
QUESTIONS = ("+sentinel|master", "+sentinel|get-master-addr-by-name")
Items = list[Frame | Interrupted | Disconnected]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("service")) as service:
        yield service


@asynccontextmanager
async def opened(uri: str) -> AsyncIterator[tuple[SentinelTransport, Items]]:
    """Open a transport that has joined the lane, and read from it; yield it and what it has received."""
    items: Items = []
    transport = SentinelTransport(TransportURI.parse(uri), "n0")

    async def read() -> None:
        async for item in transport.receive():
            items.append(item)

    async with anyio.create_task_group() as group, transport:
        group.start_soon(read)
        await transport.join([LANE])
        yield transport, items
        group.cancel_scope.cancel()


def ours(server: RedisServer) -> list[str]:
    """Return the connections of nodes to *server*: those of sentinels and replicas have names, or are marked."""
    clients: str = run(server, "CLIENT", "LIST")
    own = ("name=sentinel", "flags=S", "cmd=client|list", "cmd=replconf", "cmd=psync")
    return [line for line in clients.splitlines() if not any(sign in line for sign in own)]


async def test_frames_are_not_sent_to_replicas(service: Service) -> None:
    async with opened(service.uri) as (transport, items):
        assert await transport.publish([Frame(LANE, b"first")]) == [1]
        before = run(service.primary, "INFO", "replication")["master_repl_offset"]
        assert await transport.publish([Frame(LANE, bytes(100_000))] * 10) == [1] * 10
        await until(lambda: len(items) == 11, "all frames arrived")
        assert run(service.primary, "INFO", "replication")["master_repl_offset"] - before < 10_000


async def test_scripts_that_were_flushed_are_loaded_again(service: Service) -> None:
    async with opened(service.uri) as (transport, items):
        for _ in range(2):
            run(service.primary, "SCRIPT", "FLUSH")
            assert await transport.publish([Frame(LANE, b"1"), Frame(LANE, b"2")]) == [1, 1]
        await until(lambda: len(items) == 4, "all frames arrived, once")


async def test_a_server_that_keeps_no_script_is_an_error(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    other = load_script("read", "")
    async with opened(service.uri) as (transport, _):
        run(service.primary, "SCRIPT", "FLUSH")
        monkeypatch.setattr(transport._line, "_script", other)
        with anyio.fail_after(DEADLINE), pytest.raises(EventBusError, match="NOSCRIPT"):
            await transport.publish([Frame(LANE, b"1")])


async def test_nobody_waits_for_sentinels_that_are_not_followed_any_more(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sentinels() -> Sentinels:
        return SentinelTransport(TransportURI.parse(service.uri), "n0")._server.sentinels

    never, cut_off, broken = sentinels(), sentinels(), sentinels()
    await never.aclose()
    with anyio.fail_after(DEADLINE):
        for _ in range(2):
            with pytest.raises(TransportUnavailable, match="not followed any more: closed"):
                await never.primary()
        async with anyio.create_task_group() as group:
            group.start_soon(cut_off.aclose)
            with pytest.raises(TransportUnavailable, match="not followed any more: closed"):
                await cut_off.primary()
        monkeypatch.setattr(Server, "connect", lambda *_, **__: 1 / 0)
        for _ in range(2):
            with pytest.raises(TransportUnavailable, match="not followed any more") as caught:
                await broken.primary()
            assert isinstance(caught.value.__cause__, ExceptionGroup)


async def test_a_planned_fail_over_moves_all_connections(service: Service) -> None:
    """The former primary goes on, and its connections survive: only the sentinels tell."""
    async with opened(service.uri) as (transport, items):
        directory = directory_of(transport)
        await directory.enter("n0", 60.0, TERMS)
        former = service.primary
        await anyio.to_thread.run_sync(service.fail_over)
        await until(lambda: interruptions(items) == 1, "the reading connection was reopened")
        assert run(former, "ROLE")[0] == "master"
        assert await directory.renew()
        assert await transport.publish([Frame(LANE, b"here")]) == [1]
        await until(lambda: Frame(LANE, b"here") in items, "frames go by way of the new primary")
        assert not ours(former)


async def test_another_primary_is_tried_at_once(service: Service) -> None:
    """However long the pauses have become while the former one was down."""
    async with opened(service.uri) as (transport, _), anyio.create_task_group() as group:
        group.start_soon(transport._server.pause, 3600.0)
        await anyio.to_thread.run_sync(service.fail_over)


@pytest.mark.parametrize("refusal", ["READONLY", "NOREPLICAS"])
async def test_a_server_that_is_not_the_primary_takes_no_frame(service: Service, refusal: str) -> None:
    """PUBLISH never fails there, and its count is 0."""
    async with opened(service.uri) as (transport, _):
        await transport.publish([Frame(LANE, b"before")])
        primary = service.primary
        if refusal == "READONLY":
            run(primary, "REPLICAOF", HOST, free_port())
        else:
            run(primary, "CONFIG", "SET", "min-replicas-to-write", 3)
        with pytest.raises(TransportUnavailable, match=r"rejects writes"):
            await transport.publish([Frame(LANE, b"refused")])
        run(primary, "REPLICAOF", "NO", "ONE")
        run(primary, "CONFIG", "SET", "min-replicas-to-write", 0)

        async def taken() -> bool:
            try:
                return await transport.publish([Frame(LANE, b"after")]) == [1]
            except TransportUnavailable:
                return False

        await until(taken, "frames are taken again")


async def test_a_sentinel_that_hangs_or_is_down_delays_nothing(service: Service) -> None:
    hung, down, _ = service.sentinels
    hung.pause()
    try:
        async with opened(service.uri) as (transport, _):
            assert await transport.publish([Frame(LANE, b"")]) == [1]
    finally:
        hung.resume()
    down.stop()
    try:
        async with opened(service.uri) as (transport, _):
            assert await transport.publish([Frame(LANE, b"")]) == [1]
    finally:
        down.start()


async def test_the_last_primary_is_used_while_no_sentinel_answers(service: Service) -> None:
    async with opened(service.uri) as (transport, items):
        for sentinel in service.sentinels:
            sentinel.pause()
        try:
            transport._server.close("the test cuts all connections")
            await until(lambda: interruptions(items) == 1, "the reading connection was reopened")
            assert await transport.publish([Frame(LANE, b"")]) == [1]
        finally:
            for sentinel in service.sentinels:
                sentinel.resume()


async def test_mistakes_are_errors_that_say_what_to_do(service: Service) -> None:
    port = free_port()
    sentinels = service.uri.removesuffix(f"/{SERVICE}/0")
    for uri, kind, text in (
        (f"{sentinels}/other/0", ConfigurationError, "monitors no service 'other'"),
        (sentinels, ConfigurationError, "names no service; write redis"),
        (f"redis+sentinel://{HOST}:{port}/{SERVICE}", TransportUnavailable, "names a primary: .*cannot be reached"),
        (f"redis+sentinel://{HOST}:{service.primary.port}/{SERVICE}", ConfigurationError, "is a Redis in standalone"),
        (f"{service.uri}?sentinel_password=s3cret", ConfigurationError, "refuses the login"),
    ):
        with pytest.raises(kind, match=text) as caught:
            async with SentinelTransport(TransportURI.parse(uri), "n0"):
                pass
        assert "s3cret" not in str(caught.value)


async def test_sentinels_have_a_login_of_their_own(service: Service) -> None:
    for sentinel in service.sentinels:
        run(sentinel, "ACL", "SETUSER", "admin", "on", ">other", "+@all", "allchannels")
        run(sentinel, "ACL", "SETUSER", "watcher", "on", ">hush", *RIGHTS, *QUESTIONS)
        run(sentinel, "ACL", "SETUSER", "default", "resetpass", ">another", "on")
    uri = service.uri.replace("//", "//app:secret@") + "?sentinel_username=watcher&sentinel_password=hush"
    for server in service.servers:
        run(server, "ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all")
    try:
        async with opened(uri) as (transport, _):
            assert await transport.publish([Frame(LANE, b"")]) == [1]
            assert "secret" not in str(transport._server.uri)
    finally:
        for sentinel in service.sentinels:
            with Redis.from_url(sentinel.uri.replace("//", "//admin:other@")) as admin:
                admin.execute_command("ACL", "SETUSER", "default", "on", "nopass", "+@all")


async def test_doctor_says_what_a_fail_over_can_lose(service: Service) -> None:
    async def levels() -> dict[str, str]:
        findings = await SentinelTransport(TransportURI.parse(service.uri), "n0").diagnose()
        return {finding.check: finding.level for finding in findings}

    await anyio.to_thread.run_sync(service.wait, service.settled, "all servers are in their places")
    found = await levels()
    assert (found["server"], found["rights"], found["sentinels"]) == ("ok", "ok", "ok")
    assert found["replicas"] == "warning"
    for server in service.servers:
        run(server, "CONFIG", "SET", "min-replicas-to-write", 1, "min-replicas-max-lag", 2)
    assert (await levels())["replicas"] == "ok"
    service.sentinels[2].stop()
    try:
        assert (await levels())["sentinels"] == "warning"
    finally:
        service.sentinels[2].start()
        for server in service.servers:
            run(server, "CONFIG", "SET", "min-replicas-to-write", 0)


async def test_no_epoch_is_issued_twice_while_another_server_takes_over(service: Service) -> None:
    """Two nodes take clients from each other meanwhile; in the end each client has one owner, as both nodes see it."""
    clients = [f"c{number}" for number in range(20)]
    epochs: list[tuple[str, int]] = []
    last: dict[str, dict[str, Claim]] = {"taker-0": {}, "taker-1": {}}
    over = anyio.Event()

    async def take(node: str, directory: Directory) -> None:
        while not over.is_set():
            try:
                if not await directory.renew():
                    await directory.enter(node, 10.0, TERMS)
                for claim in await directory.claim(clients, True):
                    assert isinstance(claim, Claim)
                    epochs.append((claim.client, claim.epoch))
                    last[node][claim.client] = claim
            except TransportUnavailable:
                await anyio.sleep(0.01)

    async with opened(service.uri) as (one, _), opened(service.uri) as (two, _):
        directories = dict(zip(last, (directory_of(one), directory_of(two)), strict=True))
        async with anyio.create_task_group() as group:
            for node, directory in directories.items():
                await directory.enter(node, 10.0, TERMS)
                group.start_soon(take, node, directory)
            await until(lambda: len(epochs) > 1000, "claims are made")
            await anyio.to_thread.run_sync(service.fail_over)
            made = len(epochs)
            await until(lambda: len(epochs) > made + 1000, "claims are made at the new primary")
            over.set()
        assert len(set(epochs)) == len(epochs)
        for directory in directories.values():
            assert await directory.renew()
        held = [await directory.confirm(list(last[node].values())) for node, directory in directories.items()]
        assert [sum(both) for both in zip(*held, strict=True)] == [1] * len(clients)
