"""What a server refuses until it is configured otherwise: only that fails, and the error names the cause."""

from __future__ import annotations

import logging
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketStream

import eventbus
from eventbus_core.backend import ALL_NODES, Frame, lane_partition
from eventbus_core.errors import ConfigurationError, PartitionRefused, TransportUnavailable
from eventbus_redis.server import Hello
from tests.redis_backend.support import interruptions, run, transport
from tests.servers import HOST, RedisServer, free_port
from tests.support import until

pytestmark = pytest.mark.redis

GRANTED, REFUSED = lane_partition(1), lane_partition(2)
CHANNELS = ("&eventbus:default:n:*", "&eventbus:default:p:*", "&eventbus:default:all", "&eventbus:default:l:1")


@pytest.fixture
def user_uri(redis_server: RedisServer) -> str:
    """The URI of a user without a right to lane 2."""
    run(redis_server, "ACL", "SETUSER", "app", "on", ">secret", "~*", "resetchannels", *CHANNELS, "+@all")
    return redis_server.uri.replace("//", "//app:secret@")


async def test_a_join_of_a_refused_lane_fails_alone(user_uri: str) -> None:
    async with transport(user_uri) as (opened, items):
        for _ in range(3):
            with pytest.raises(
                PartitionRefused, match=r"cannot subscribe to eventbus:default:l:2: .*eventbus acl"
            ) as caught:
                await opened.join([GRANTED, REFUSED])
            assert caught.value.partitions == (REFUSED,)
            assert "secret" not in str(caught.value)
        await opened.join([ALL_NODES, GRANTED])
        assert await opened.publish([Frame(GRANTED, b"1"), Frame(ALL_NODES, b"2")]) == [1, 1]
        await until(lambda: len(items) == 2, "both frames arrived")
        assert not interruptions(items)


async def test_a_refused_frame_holds_up_no_other(user_uri: str) -> None:
    async with transport(user_uri) as (opened, items):
        await opened.join([GRANTED])
        with pytest.raises(PartitionRefused, match=r"cannot publish to l:2: .*NOPERM") as caught:
            await opened.publish([Frame(GRANTED, b"1"), Frame(REFUSED, b"2"), Frame(GRANTED, b"3")])
        assert caught.value.receivers == (1, -1, 1)
        assert caught.value.partitions == (REFUSED,)
        await until(lambda: items == [Frame(GRANTED, b"1"), Frame(GRANTED, b"3")], "the others arrived")


async def test_a_frame_that_is_too_large_for_the_server_holds_up_no_other(tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--proto-max-bulk-len", "1048576") as server:
        async with transport(server.uri) as (opened, items):
            await opened.join([GRANTED])
            large = Frame(GRANTED, bytes(2**20 + 1))
            with pytest.raises(PartitionRefused, match="proto-max-bulk-len") as caught:
                await opened.publish([Frame(GRANTED, b"1"), large, Frame(GRANTED, b"3")])
            assert caught.value.receivers == (1, -1, 1)
            await until(lambda: items == [Frame(GRANTED, b"1"), Frame(GRANTED, b"3")], "the others arrived")


async def test_a_lane_that_is_refused_later_comes_back_with_its_right(
    redis_server: RedisServer, user_uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told at once, the other lanes go on, and no restart is needed."""
    monkeypatch.setattr("eventbus_redis.subscriber.RETRY_REFUSED", 0.05)
    logging.getLogger("eventbus").setLevel(logging.WARNING)
    run(redis_server, "ACL", "SETUSER", "app", "&eventbus:default:l:2")
    async with transport(f"{user_uri}?probe_interval=0.1") as (opened, items):
        await opened.join([GRANTED, REFUSED])
        run(redis_server, "ACL", "SETUSER", "app", "resetchannels", *CHANNELS)  # which cuts the subscriber off
        await until(lambda: interruptions(items) == 1, "the reading connection was reopened")
        assert "node n0 receives nothing from eventbus:default:l:2: " in caplog.text
        assert await opened.publish([Frame(GRANTED, b"1")]) == [1]
        assert interruptions(items) == 1
        run(redis_server, "ACL", "SETUSER", "app", "&eventbus:default:l:2")
        await until(lambda: interruptions(items) == 2, "the lane came back")
        assert await opened.publish([Frame(REFUSED, b"2")]) == [1]


async def test_a_node_that_cannot_read_says_why(
    redis_server: RedisServer, user_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("eventbus").setLevel(logging.WARNING)
    async with transport(f"{user_uri}?probe_interval=0.1") as (opened, items):
        await opened.join([GRANTED])
        run(redis_server, "ACL", "SETUSER", "app", "-subscribe")
        run(redis_server, "CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: "receives nothing, and tries to reconnect" in caplog.text, "the reason was logged")
        with pytest.raises(ConfigurationError, match=r"SUBSCRIBE|subscribe"):
            await opened.join([lane_partition(3)])
        warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warnings) == 2, warnings
        assert "NOPERM" in warnings[1]
        run(redis_server, "ACL", "SETUSER", "app", "+subscribe")
        await until(lambda: interruptions(items) == 1, "the node reads again")
        assert await opened.publish([Frame(GRANTED, b"1")]) == [1]


async def test_a_probe_that_is_refused_is_no_reason_to_reconnect(redis_server: RedisServer, user_uri: str) -> None:
    async with transport(f"{user_uri}?probe_interval=0.05") as (opened, items):
        await opened.join([GRANTED])
        run(redis_server, "ACL", "SETUSER", "app", "-publish")
        await until(lambda: sum(entry["count"] for entry in run(redis_server, "ACL", "LOG")) > 3, "probes failed")
        run(redis_server, "PUBLISH", "eventbus:default:l:1", "1")
        await until(lambda: items == [Frame(GRANTED, b"1")], "frames arrive")


@pytest.mark.parametrize(
    ("rights", "named"),
    [
        ("-time", "denies this user a right"),
        ("-zadd", "denies this user a right"),
        ("-evalsha", "'evalsha'"),
        ("-publish", "'publish'"),
        ("-subscribe", "'subscribe'"),
        ("resetkeys", "access .*key"),
        ("resetchannels", "access .*channel"),
    ],
)
async def test_a_missing_right_is_a_matter_of_configuration(redis_server: RedisServer, rights: str, named: str) -> None:
    run(redis_server, "ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all", rights)
    with pytest.raises(ConfigurationError, match=named) as caught:
        await eventbus.connect(redis_server.uri.replace("//", "//app:secret@")).__aenter__()
    assert "eventbus acl" in str(caught.value)


@pytest.mark.parametrize("command", ["EVALSHA", "PUBLISH", "SUBSCRIBE", "TIME", "HELLO"])
async def test_a_renamed_command_is_named(tmp_path: Path, command: str) -> None:
    with RedisServer(tmp_path, "--rename-command", command, "") as server, pytest.raises(ConfigurationError) as caught:
        await eventbus.connect(server.uri).__aenter__()
    assert command in str(caught.value) or (command == "TIME" and "rename-command" in str(caught.value))


@pytest.mark.parametrize("wait", [True, False])
async def test_a_wrong_password_is_no_outage(redis_server: RedisServer, wait: bool) -> None:
    run(redis_server, "CONFIG", "SET", "requirepass", "right")
    for uri in (f"redis://:wrong@{HOST}:{redis_server.port}", f"unix://:wrong@{redis_server.unix_socket}"):
        with pytest.raises(ConfigurationError, match="refuses the login: WRONGPASS") as caught:
            await eventbus.connect(uri, wait_for_broker=wait).__aenter__()
        assert ":wrong@" not in str(caught.value)
    async with eventbus.connect(f"unix://:right@{redis_server.unix_socket}"):
        pass


async def test_a_full_server_is_no_matter_of_tls(redis_server: RedisServer) -> None:
    async with transport(redis_server.uri):
        run(redis_server, "CONFIG", "SET", "maxclients", 2)
        with pytest.raises(TransportUnavailable, match="max number of clients reached") as caught:
            await eventbus.connect(redis_server.uri).__aenter__()
    assert "TLS" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "error"),
    [
        ("redis://localhost/99999", ConfigurationError),
        ("redis://localhost/99999999999999999999", ConfigurationError),
        ("redis://localhost?db=99999999999999999999", ConfigurationError),
        ("redis://localhost?connect_timeout=1e300", ConfigurationError),
        (f"redis://{'a' * 70}.example", ConfigurationError),
        ("redis://a..b", ConfigurationError),
        ("unix:///nowhere/redis.sock", TransportUnavailable),
        ("unix:///nul%00", TransportUnavailable),
        (f"unix:///{'x' * 200}", eventbus.EventBusError),
    ],
)
async def test_no_place_raises_an_error_of_another_library(
    redis_server: RedisServer, uri: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await eventbus.connect(uri.replace("localhost", f"{HOST}:{redis_server.port}")).__aenter__()


@pytest.mark.parametrize(
    "garbage",
    [
        b"*4294967295\r\n",
        b"%1\r\n*0\r\n:1\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"$-5\r\n",
        b"+OK\r\n",
        b"*2\r\n+server\r\n+redis\r\n",
        b"*3\r\n+server\r\n+redis\r\n+version\r\n",
        b"*6\r\n+server\r\n+redis\r\n+version\r\n:7\r\n+mode\r\n+standalone\r\n",
    ],
)
async def test_a_server_of_another_protocol_raises_our_errors(garbage: bytes) -> None:
    async def answer(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(garbage)

    port = free_port()
    async with (
        await anyio.create_tcp_listener(local_host=HOST, local_port=port) as listener,
        anyio.create_task_group() as group,
    ):
        group.start_soon(listener.serve, answer)
        with pytest.raises(eventbus.EventBusError, match=r"protocol|HELLO"):
            await eventbus.connect(f"redis://{HOST}:{port}").__aenter__()
        group.cancel_scope.cancel()


def test_a_version_without_a_number_is_older_than_all() -> None:
    said = [b"server", b"redis", b"version", b"next", b"mode", b"standalone"]
    assert Hello.parse(said) == Hello("redis", "next", "standalone", "")
    assert Hello.parse(said).major == 0
