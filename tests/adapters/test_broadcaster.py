"""The backend of broadcaster: two servers that share channels, on memory and on Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import anyio
import pytest
from broadcaster import Broadcast
from broadcaster import Event as Published

import eventbus
from eventbus_core.integrations.broadcaster import EventBusBackend
from tests.support import DEADLINE

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])
CHANNELS = ["chatroom", "room 1", "a.b.c", "*", ">", "", "ä/#?", "$sys", "x" * 300]


@pytest.fixture(params=["memory", "redis"])
def uri(request: pytest.FixtureRequest) -> str:
    base = "memory://" if request.param == "memory" else request.getfixturevalue("redis_uri")
    return f"{base}?namespace=broadcaster-{uuid4().hex}"


@pytest.fixture
async def servers(uri: str) -> AsyncIterator[tuple[Broadcast, Broadcast]]:
    async with Broadcast(backend=EventBusBackend(uri)) as one, Broadcast(backend=EventBusBackend(uri)) as two:
        yield one, two


@pytest.mark.parametrize("channel", CHANNELS)
async def test_a_message_reaches_the_subscribers_of_its_channel_alone(
    servers: tuple[Broadcast, Broadcast], channel: str
) -> None:
    one, two = servers
    async with two.subscribe(channel) as here, one.subscribe(channel) as there, two.subscribe("other") as other:
        await one.publish(channel, "hello")
        await one.publish("other", "last")
        with anyio.fail_after(DEADLINE):
            assert await here.get() == await there.get() == Published(channel, "hello")
            assert await other.get() == Published("other", "last")


@pytest.mark.parametrize("message", ["text", "", b"\xff\x00", {"a": [1, None]}, 7])
async def test_a_message_arrives_as_what_it_was(servers: tuple[Broadcast, Broadcast], message: object) -> None:
    one, two = servers
    async with two.subscribe("chatroom") as subscriber:
        await one.publish("chatroom", message)
        with anyio.fail_after(DEADLINE):
            assert (await subscriber.get()).message == message


async def test_messages_arrive_in_order(servers: tuple[Broadcast, Broadcast]) -> None:
    one, two = servers
    async with two.subscribe("chatroom") as subscriber:
        numbers = [str(number) for number in range(500)]
        for number in numbers:
            await one.publish("chatroom", number)
        with anyio.fail_after(DEADLINE):
            assert [(await subscriber.get()).message for _ in numbers] == numbers


async def test_nothing_arrives_after_the_last_subscriber_has_left(servers: tuple[Broadcast, Broadcast]) -> None:
    one, two = servers
    async with two.subscribe("chatroom"):
        await one.publish("chatroom", "missed")
    async with two.subscribe("chatroom") as subscriber, two.subscribe("other"):
        await one.publish("chatroom", "second")
        with anyio.fail_after(DEADLINE):
            while (event := await subscriber.get()).message != "second":
                assert event.message == "missed"  # it was still on its way when the channel was subscribed to again


async def test_a_bus_that_was_given_stays_open(uri: str) -> None:
    async with eventbus.connect(uri) as bus:
        async with Broadcast(backend=EventBusBackend(bus)) as broadcast, broadcast.subscribe("chatroom") as subscriber:
            await bus.publish("broadcaster.chatroom", "from elsewhere")
            with anyio.fail_after(DEADLINE):
                assert await subscriber.get() == Published("chatroom", "from elsewhere")
        assert bus.state == "open"


async def test_it_connects_again(uri: str) -> None:
    broadcast = Broadcast(backend=EventBusBackend(uri))
    for _ in range(2):
        async with broadcast, broadcast.subscribe("chatroom") as subscriber:
            await broadcast.publish("chatroom", "hello")
            with anyio.fail_after(DEADLINE):
                assert (await subscriber.get()).message == "hello"


async def test_what_is_not_open_says_so() -> None:
    with pytest.raises(eventbus.BusClosed, match="not open"):
        await Broadcast(backend=EventBusBackend("memory://")).publish("chatroom", "hello")


async def test_without_a_broker_connecting_raises() -> None:
    with pytest.raises(eventbus.TransportUnavailable):
        await Broadcast(backend=EventBusBackend("redis://127.0.0.1:1")).connect()
