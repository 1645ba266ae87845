"""The layer for Django Channels: several processes' layers, event loops and threads, on memory and on Redis."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import anyio
import anyio.lowlevel
import pytest
from asgiref.sync import async_to_sync
from channels.exceptions import ChannelFull

import eventbus
from eventbus_core.integrations.channels import EventBusChannelLayer
from eventbus_core.testing import until
from eventbus_core.testing.waiting import within_deadline

Make = Callable[..., EventBusChannelLayer]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["memory", "redis"])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    """Makes the layer of one more process."""
    base = "memory://" if request.param == "memory" else request.getfixturevalue("redis_uri")
    uri = f"{base}?namespace=channels-{uuid4().hex}"
    layers: list[EventBusChannelLayer] = []

    def add(**options: Any) -> EventBusChannelLayer:
        layers.append(EventBusChannelLayer(uri, **options))
        return layers[-1]

    yield add
    for layer in layers:
        await layer.flush()


async def next_of(layer: EventBusChannelLayer, channel: str) -> Any:
    with within_deadline(f"a message arrives at {channel}"):
        return await layer.receive(channel)
    raise AssertionError


async def test_a_message_reaches_a_channel_of_another_process_in_order(make: Make) -> None:
    one, two = make(), make()
    channel = await one.new_channel()
    for number in range(50):
        await two.send(channel, {"type": "n", "number": number, "raw": b"\x00"})
    found = [await next_of(one, channel) for _ in range(50)]
    assert found == [{"type": "n", "number": number, "raw": b"\x00"} for number in range(50)]


async def test_a_channel_of_a_process_that_has_gone_takes_nothing(make: Make) -> None:
    one, two = make(), make()
    channel = await one.new_channel()
    await one.flush()
    await two.send(channel, {"type": "n"})
    await two.group_add("group", channel)


async def test_a_group_has_members_in_several_processes(make: Make) -> None:
    one, two, three = make(), make(), make()
    here, there, gone = await one.new_channel(), await two.new_channel(), await two.new_channel()
    for layer, channel in ((one, here), (two, there), (two, gone)):
        await layer.group_add("chat.room-1", channel)
    await two.group_discard("chat.room-1", gone)
    for layer in (one, two, three):
        await layer.group_send("chat.room-1", {"type": "said"})
    for layer, channel in ((one, here), (two, there)):
        assert [await next_of(layer, channel) for _ in range(3)] == [{"type": "said"}] * 3
    await two.send(gone, {"type": "last"})
    assert await next_of(two, gone) == {"type": "last"}


async def test_a_channel_of_another_process_is_added_and_removed(make: Make) -> None:
    one, two = make(), make()
    channel = await one.new_channel()

    async def member() -> bool:
        await two.group_send("group", {"type": "said"})
        with anyio.move_on_after(0.05):
            return bool(await one.receive(channel))
        return False

    await two.group_add("group", channel)
    await until(member)
    await two.group_discard("group", channel)

    async def no_member() -> bool:
        return not await member()

    await until(no_member)


async def test_each_message_of_a_general_channel_goes_to_one_worker(make: Make) -> None:
    workers, web = [make() for _ in range(3)], make()
    done: Counter[int] = Counter()

    async def work(layer: EventBusChannelLayer) -> None:
        while True:
            done[(await layer.receive("thumbnails"))["number"]] += 1

    async with anyio.create_task_group() as tasks:
        for layer in workers:
            tasks.start_soon(work, layer)
        for number in range(60):
            await web.send("thumbnails", {"type": "make", "number": number})
        await until(lambda: len(done) == 60)
        tasks.cancel_scope.cancel()
    assert set(done.values()) == {1}


async def test_messages_of_a_general_channel_wait_for_the_first_worker(make: Make) -> None:
    web = make()
    await web.send("thumbnails", {"type": "make"})
    assert await next_of(make(), "thumbnails") == {"type": "make"}


async def test_a_general_channel_that_all_begin_to_use_at_once_loses_nothing(make: Make) -> None:
    layers = [make() for _ in range(3)]
    done: list[int] = []

    async def work(layer: EventBusChannelLayer) -> None:
        while True:
            done.append((await layer.receive("thumbnails"))["number"])

    async with anyio.create_task_group() as tasks:
        for number in range(30):
            tasks.start_soon(layers[number % 3].send, "thumbnails", {"number": number})
            if number % 10 == 0:
                tasks.start_soon(work, layers[number // 10])
        await until(lambda: len(done) >= 30)
        tasks.cancel_scope.cancel()
    assert sorted(done) == list(range(30))


async def test_a_group_that_is_joined_and_left_in_turn_has_its_members(make: Make) -> None:
    one, two = make(), make()
    channels = [await one.new_channel() for _ in range(20)]
    async with anyio.create_task_group() as tasks:
        for channel in channels:
            await one.group_add("group", channel)
            tasks.start_soon(one.group_discard, "group", channel)
            tasks.start_soon(one.group_add, "group", channel)
    await two.group_send("group", {"type": "said"})
    for channel in channels:
        assert await next_of(one, channel) == {"type": "said"}


async def test_a_general_channel_is_in_a_group_once(make: Make) -> None:
    """Whichever processes add and remove it."""
    one, two, worker = make(), make(), make()
    for layer in (one, two):
        await layer.group_add("group", "thumbnails")
    own = await one.new_channel()
    await one.group_add("group", own)
    for number in range(3):
        await two.group_send("group", {"number": number})
    assert sorted([(await next_of(worker, "thumbnails"))["number"] for _ in range(3)]) == [0, 1, 2]
    await one.group_discard("group", "thumbnails")
    await two.group_send("group", {"number": 3})
    assert [(await next_of(one, own))["number"] for _ in range(4)] == [0, 1, 2, 3]
    await two.send("thumbnails", {"number": 4})
    assert (await next_of(worker, "thumbnails"))["number"] == 4


async def test_workers_go_on_when_the_one_with_the_channel_leaves(make: Make) -> None:
    first, second, web = make(), make(), make()
    await web.send("thumbnails", {"number": 0})
    assert await next_of(first, "thumbnails") == {"number": 0}
    async with anyio.create_task_group() as tasks:

        async def receive() -> None:
            assert await next_of(second, "thumbnails") == {"number": 1}
            tasks.cancel_scope.cancel()

        tasks.start_soon(receive)
        await web.flush()  # the channel was with the process that used it first
        while True:
            await first.send("thumbnails", {"number": 1})
            await anyio.sleep(0.05)


async def test_a_full_channel_refuses_here_and_drops_from_elsewhere(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "eventbus.channels")
    one, two = make(capacity=3, channel_capacity={"tiny*": 1}), make()
    await one.send("tiny-1", {"type": "n"})
    with pytest.raises(ChannelFull):
        await one.send("tiny-1", {"type": "n"})
    channel = await one.new_channel()
    for number in range(4):
        await two.send(channel, {"number": number})
    await until(lambda: "over capacity" in caplog.text)
    assert [(await next_of(one, channel))["number"] for _ in range(3)] == [0, 1, 2]


async def test_messages_expire(make: Make) -> None:
    layer = make(expiry=0.1, capacity=1)
    channel = await layer.new_channel()
    await layer.send(channel, {"number": 1})
    await anyio.sleep(0.2)
    await layer.send(channel, {"number": 2})
    assert await next_of(layer, channel) == {"number": 2}


async def test_a_member_leaves_a_group_in_the_end(make: Make) -> None:
    layer = make(group_expiry=0.0)
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
    await layer.group_send("group", {"number": 1})
    await layer.send(channel, {"number": 2})
    assert await next_of(layer, channel) == {"number": 2}


async def test_a_process_leaves_a_group_that_gets_no_message(make: Make) -> None:
    layer = make(group_expiry=0.0)
    await layer.group_add("quiet", await layer.new_channel())
    assert not layer._specific._client._client._held.patterns


async def test_a_general_channel_leaves_a_group_in_the_end(make: Make) -> None:
    layer = make(group_expiry=0.0)
    await layer.group_add("group", "thumbnails")
    portal = await layer._bus.open()
    assert [client async for client in portal.clients()] == [layer._address(layer.client_prefix)]


async def test_no_message_is_lost_to_a_receive_that_is_cancelled(make: Make) -> None:
    layer = make(capacity=1000)
    channel = await layer.new_channel()
    found: list[int] = []
    async with anyio.create_task_group() as tasks:

        async def send() -> None:
            for number in range(300):
                await layer.send(channel, {"number": number})
                await anyio.lowlevel.checkpoint()

        tasks.start_soon(send)
        while len(found) < 300:
            with anyio.move_on_after(0):
                found.append((await layer.receive(channel))["number"])
            with anyio.move_on_after(0.0005):
                found.append((await layer.receive(channel))["number"])
    assert found == list(range(300))


@pytest.mark.parametrize("name", ["a b", "", "x" * 100, "ä"])
async def test_bad_names_are_refused(make: Make, name: str) -> None:
    layer = make()
    with pytest.raises(TypeError):
        await layer.send(name, {})
    with pytest.raises(TypeError):
        await layer.group_send(name, {})


def test_event_loops_and_threads_share_a_layer(redis_uri: str) -> None:
    layer = EventBusChannelLayer(f"{redis_uri}?namespace=channels-{uuid4().hex}")
    channel = async_to_sync(layer.new_channel)()
    async_to_sync(layer.group_add)("group", channel)
    with ThreadPoolExecutor(4) as pool:
        received = pool.submit(async_to_sync(layer.receive), channel)
        pool.submit(async_to_sync(layer.group_send), "group", {"type": "said"}).result(20)
        assert received.result(20) == {"type": "said"}
    async_to_sync(layer.flush)()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_layer_is_another_after_a_fork(redis_uri: str) -> None:
    layer = EventBusChannelLayer(f"{redis_uri}?namespace=channels-{uuid4().hex}")
    before = async_to_sync(layer.new_channel)()
    child = os.fork()
    if child == 0:
        try:
            after = async_to_sync(layer.new_channel)()
            async_to_sync(layer.send)(before, {"type": "from the child"})
            async_to_sync(layer.flush)()
            os._exit(0 if after.partition("!")[0] != before.partition("!")[0] else 3)
        finally:
            os._exit(4)
    assert async_to_sync(layer.receive)(before) == {"type": "from the child"}
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    async_to_sync(layer.flush)()


def test_a_setting_of_another_layer_is_refused_by_name() -> None:
    hosts: Any = {"hosts": [("localhost", 6379)]}
    with pytest.raises(eventbus.ConfigurationError, match=r"'hosts'.*uri"):
        EventBusChannelLayer(**hosts)


def test_without_a_broker_it_says_so() -> None:
    layer = EventBusChannelLayer("redis://127.0.0.1:1")
    with pytest.raises(eventbus.TransportUnavailable):
        async_to_sync(layer.send)("channel", {})
