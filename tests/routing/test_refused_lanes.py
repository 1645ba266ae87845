"""Lanes that the broker refuses: their subscribers are told, and the other lanes are joined."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence

import anyio
import pytest

import eventbus
from eventbus_core.backend import Frame, Interrupted, Partition, lane_partition
from eventbus_core.errors import ConfigurationError, PartitionRefused
from eventbus_core.model.topics import lanes_of
from eventbus_core.testing.waiting import within_deadline
from eventbus_memory import MemoryTransport
from tests.redis_backend.support import run
from tests.servers import RedisServer
from tests.support import DEADLINE, Inbox, buses, tasks, until

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])

NEWS, CHAT = (lane_partition(*lanes_of(topic, 64)) for topic in ("news.x", "chat.y"))


class Selective(MemoryTransport):
    """Refuses to join ``partitions``, or every lane with ``error``."""

    partitions: frozenset[Partition] = frozenset()
    error: ConfigurationError | None = None
    joins = 0

    async def join(self, partitions: Sequence[Partition]) -> None:
        type(self).joins += 1
        refused = [partition for partition in partitions if partition in self.partitions]
        if refused:
            raise PartitionRefused(f"no right to {', '.join(refused)}", refused)
        if self.error is not None:
            raise self.error
        await super().join(partitions)

    async def receive(self) -> AsyncIterator[Frame | Interrupted]:
        async for item in super().receive():
            yield item
            if isinstance(item, Frame) and b"reconnect" in item.data:
                yield Interrupted("connected again")


@pytest.fixture
def selective() -> type[Selective]:
    kind = type("Selective", (Selective,), {})
    eventbus.register("selective", kind)
    return kind


async def test_a_subscriber_of_a_refused_lane_is_told_and_others_get_their_topics(selective: type[Selective]) -> None:
    async with buses("selective://x") as (a, b), b.client("bob", handler=(bob := Inbox())) as client, tasks() as group:
        selective.partitions = frozenset([NEWS])
        errors: list[Exception] = []

        async def subscribe() -> None:
            try:
                await client.subscribe("news.x")
            except PartitionRefused as error:
                errors.append(error)

        for _ in range(2):
            group.start_soon(subscribe)
        with within_deadline("the other lane was joined"):
            await client.subscribe("chat.y")
        await until(lambda: len(errors) == 2)
        assert NEWS in str(errors[0])
        assert errors[0] is not errors[1]
        await a.publish("chat.y", 1)
        await bob.got(1)


async def test_a_right_that_is_given_later_needs_no_restart(selective: type[Selective]) -> None:
    async with buses("selective://x") as (a, b), b.client("bob", handler=(bob := Inbox())) as client:
        selective.partitions = frozenset([NEWS])
        with pytest.raises(PartitionRefused):
            await client.subscribe("news.x")
        selective.partitions = frozenset()
        with within_deadline("the lane was joined"):
            await client.subscribe("news.x")
        await a.publish("news.x", 1)
        await bob.got(1)


async def test_the_lane_of_a_handler_is_tried_again_with_pauses(
    selective: type[Selective], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("eventbus_core.routing.lanes.FIRST_RETRY", 0.1)
    logging.getLogger("eventbus").setLevel(logging.WARNING)
    async with buses("selective://x") as (a, b):
        selective.partitions = frozenset([NEWS])
        before = selective.joins
        b.on("news.x")(news := Inbox())
        await until(lambda: selective.joins == before + 3, "it was tried again")
        assert len([record for record in caplog.records if "receives no topics" in record.getMessage()]) == 1
        selective.partitions = frozenset()
        await b.ready()
        await a.publish("news.x", 1)
        await news.got(1)


async def test_a_refused_lane_is_tried_again_when_the_node_has_reconnected(
    selective: type[Selective], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventbus_core.routing.lanes.FIRST_RETRY", 1000.0)
    monkeypatch.setattr("eventbus_core.routing.lanes.LONGEST_RETRY", 1000.0)
    async with buses("selective://x") as (a, b):
        selective.partitions = frozenset([NEWS])
        before = selective.joins
        b.on("news.x")(news := Inbox())
        b.on("reconnect")(Inbox())
        await until(lambda: selective.joins > before and bool(b._node.lanes._refused))
        selective.partitions = frozenset()
        await a.send(b.address, "reconnect")
        await until(lambda: not b._node.lanes._refused, "the lane was tried again")
        await b._node.lanes.joined()
        await a.publish("news.x", 1)
        await news.got(1)


async def test_a_bus_whose_handler_needs_a_refused_lane_does_not_open(selective: type[Selective]) -> None:
    selective.partitions = frozenset([NEWS])
    bus = eventbus.connect("selective://x")
    bus.on("news.x")(Inbox())
    with anyio.fail_after(DEADLINE), pytest.raises(PartitionRefused, match=r"no right to l:"):
        await bus.__aenter__()


async def test_a_refusal_that_names_no_lane_is_told_to_every_subscriber(selective: type[Selective]) -> None:
    async with buses("selective://x") as (_, b), b.client("bob") as client:
        selective.error = ConfigurationError("SUBSCRIBE is renamed")
        for topic in ("news.x", "chat.y"):
            with anyio.fail_after(DEADLINE), pytest.raises(ConfigurationError, match="SUBSCRIBE is renamed"):
                await client.subscribe(topic)


async def test_a_lane_without_a_right_at_redis_is_refused_and_the_rest_works(redis_server: RedisServer) -> None:
    channels = ("&*:n:*", "&*:p:*", "&*:all", f"&*:{CHAT}")
    run(redis_server, "ACL", "SETUSER", "app", "on", ">secret", "~*", "resetchannels", *channels, "+@all")
    async with buses(redis_server.uri.replace("//", "//app:secret@")) as (a, b), b.client("bob") as client:
        with anyio.fail_after(DEADLINE), pytest.raises(ConfigurationError, match=f"cannot subscribe to .*{NEWS}"):
            await client.subscribe("news.x")
        await client.subscribe("chat.y")
        await a.publish("chat.y", 1)
        assert (await client.receive()).data == 1
