"""Errors of an unreachable or refusing Redis: the cause once, with a hint, without the password."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.abc import SocketStream

import eventbus
from eventbus import TransportUnavailable
from tests.servers import HOST, RedisServer, free_port
from tests.support import buses, until

pytestmark = pytest.mark.redis


@asynccontextmanager
async def hanging_up() -> AsyncIterator[int]:
    """Listen like a TLS server: hang up on a client that does not begin with a handshake."""

    async def hang_up(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()

    port = free_port()
    async with (
        await anyio.create_tcp_listener(local_host=HOST, local_port=port) as listener,
        anyio.create_task_group() as group,
    ):
        group.start_soon(listener.serve, hang_up)
        yield port
        group.cancel_scope.cancel()


async def fault_of(uri: str) -> str:
    """Return the error text of opening a bus."""
    with pytest.raises(TransportUnavailable) as caught:
        await eventbus.connect(uri).__aenter__()
    return str(caught.value)


async def test_the_error_names_an_unreachable_server_once() -> None:
    fault = await fault_of("redis://user:secret@127.0.0.1:1/0")
    assert re.fullmatch(
        r"redis://user:\*\*\*@127\.0\.0\.1:1/0 cannot be reached or does not serve now: .*Connect call failed.*", fault
    )
    assert "TLS" not in fault


async def test_the_error_for_tls_to_a_plain_port_suggests_redis(redis_server: RedisServer) -> None:
    fault = await fault_of(f"rediss://{HOST}:{redis_server.port}?connect_timeout=3")
    assert fault.endswith("check that the server speaks TLS on this port")


async def test_the_error_for_plain_text_to_a_tls_port_suggests_rediss() -> None:
    async with hanging_up() as port:
        assert (await fault_of(f"redis://{HOST}:{port}")).endswith("if it speaks TLS on this port, write rediss://")


async def test_the_error_names_a_server_that_went_away_once(redis_server: RedisServer) -> None:
    """Also where one error is the cause of another."""
    async with buses(f"{redis_server.uri}?command_timeout=2", 1, lease=60.0, close_timeout=0.1) as (bus,):
        reasons: list[str] = []
        bus.on_disconnected(reasons.append)
        redis_server.kill()
        await bus.broadcast("n")
        await until(lambda: bool(reasons))
        for ask in (bus.nodes, bus.client("bob").__aenter__, lambda: bus._node.transport.join([bus.partition_of("n")])):
            with pytest.raises(TransportUnavailable) as caught:
                await ask()
            reasons.append(str(caught.value))
        for reason in reasons:
            assert reason.count(redis_server.uri) == 1, reason
            assert reason.count("cannot be reached") == 1, reason
        redis_server.start()
        await until(lambda: bus.state == "open")
