"""The channels backend of Litestar: its contract, and two applications with websockets on memory and on Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from time import monotonic
from uuid import uuid4

import anyio
import pytest
from litestar import Litestar, get, post
from litestar.channels import ChannelsPlugin
from litestar.di import NamedDependency
from litestar.testing import TestClient

import eventbus
from eventbus_core.integrations.litestar import EventBusChannelsBackend
from tests.support import DEADLINE


@pytest.fixture(params=["memory", "redis"])
def uri(request: pytest.FixtureRequest) -> str:
    base = "memory://" if request.param == "memory" else request.getfixturevalue("redis_uri")
    return f"{base}?namespace=litestar-{uuid4().hex}"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def backend(uri: str) -> AsyncIterator[EventBusChannelsBackend]:
    made = EventBusChannelsBackend(uri)
    await made.on_startup()
    yield made
    await made.on_shutdown()


async def received(backend: EventBusChannelsBackend, count: int) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    with anyio.fail_after(DEADLINE):
        async for item in backend.stream_events():
            found.append(item)
            if len(found) == count:
                return found
    raise AssertionError("the stream ended")


@pytest.mark.parametrize("channels", [["foo"], ["foo", "bar"], ["a b", "*", "x.y", "$z"]])
async def test_published_data_reaches_its_channels(backend: EventBusChannelsBackend, channels: list[str]) -> None:
    await backend.subscribe(channels)
    await backend.publish(b"something", channels)
    assert sorted(await received(backend, len(channels))) == sorted((name, b"something") for name in channels)


async def test_a_channel_that_is_named_twice_gets_the_data_once(backend: EventBusChannelsBackend) -> None:
    await backend.subscribe(["foo"])
    await backend.publish(b"one", ["foo", "foo"])
    await backend.publish(b"two", ["foo"])
    assert await received(backend, 2) == [("foo", b"one"), ("foo", b"two")]


async def test_other_channels_are_not_received(backend: EventBusChannelsBackend) -> None:
    await backend.subscribe(["foo", "bar"])
    await backend.unsubscribe(["foo"])
    await backend.publish(b"a", ["foo", "baz"])
    await backend.publish(b"b", ["bar"])
    assert await received(backend, 1) == [("bar", b"b")]


async def test_what_waits_for_an_unsubscribed_channel_is_not_received(backend: EventBusChannelsBackend) -> None:
    await backend.subscribe(["foo", "bar"])
    await backend.publish(b"a", ["foo"])
    await backend.unsubscribe(["foo"])
    await backend.publish(b"b", ["bar"])
    assert await received(backend, 1) == [("bar", b"b")]


async def test_unsubscribing_from_an_unknown_channel_does_nothing(backend: EventBusChannelsBackend) -> None:
    await backend.unsubscribe(["foo"])


async def test_data_arrives_in_order(backend: EventBusChannelsBackend) -> None:
    await backend.subscribe(["foo"])
    async with anyio.create_task_group() as tasks:

        async def publish() -> None:
            for number in range(500):
                await backend.publish(b"%d" % number, ["foo"])

        tasks.start_soon(publish)
        assert await received(backend, 500) == [("foo", b"%d" % number) for number in range(500)]


async def test_without_retention_there_is_no_history(backend: EventBusChannelsBackend) -> None:
    with pytest.raises(eventbus.TopicNotRetained):
        await backend.get_history("foo")


async def test_history(uri: str) -> None:
    async with eventbus.connect(uri, retain={"litestar.>": eventbus.Retention(events=100, seconds=60)}) as bus:
        backend = EventBusChannelsBackend(bus)
        await backend.on_startup()
        await backend.subscribe(["a b"])
        for number in range(5):
            await backend.publish(b"%d" % number, ["a b"])
        await received(backend, 5)
        assert await backend.get_history("a b") == [b"0", b"1", b"2", b"3", b"4"]
        assert await backend.get_history("a b", 2) == [b"3", b"4"]
        await backend.on_shutdown()


async def test_before_the_start_it_says_so(uri: str) -> None:
    with pytest.raises(eventbus.BusClosed, match="not open"):
        await EventBusChannelsBackend(uri).publish(b"a", ["foo"])


def application(uri: str) -> Litestar:
    @get("/ready")
    async def ready(channels: NamedDependency[ChannelsPlugin]) -> bool:
        return bool(channels._channels["general"])  # Litestar accepts a websocket before it subscribes

    @post("/say")
    async def say(channels: NamedDependency[ChannelsPlugin]) -> None:
        await channels.wait_published("hello", "general")

    plugin = ChannelsPlugin(EventBusChannelsBackend(uri), channels=["general"], create_ws_route_handlers=True)
    return Litestar([ready, say], plugins=[plugin])


def test_websockets_of_two_servers_share_a_channel(redis_uri: str) -> None:
    uri = f"{redis_uri}?namespace=litestar-{uuid4().hex}"
    with (
        TestClient(application(uri)) as one,
        TestClient(application(uri)) as two,
        one.websocket_connect("/general") as here,
        two.websocket_connect("/general") as there,
    ):
        end = monotonic() + 20
        while not (one.get("/ready").json() and two.get("/ready").json()):
            assert monotonic() < end, "the websockets are not subscribed"
        one.post("/say").raise_for_status()
        assert here.receive_text(timeout=DEADLINE) == there.receive_text(timeout=DEADLINE) == "hello"
