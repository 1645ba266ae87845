"""Several independent servers: what each carries, and what is left when one hangs or is away."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

import eventbus
from eventbus_core.backend import ALL_NODES, Frame, Partition, TransportURI, lane_partition, node_partition
from eventbus_core.errors import ConfigurationError, NamespaceMismatch
from eventbus_core.model.topics import lane_of
from eventbus_redis import RedisShardsTransport
from eventbus_redis.shards.placement import Placement
from tests.servers import HOST
from tests.shards import Shards
from tests.support import DEADLINE, Hooked, Inbox, buses, fresh_namespace, until

asyncio_only = pytest.mark.parametrize("anyio_backend", ["asyncio"])
TOPICS = [f"t{number}" for number in range(100)]
names = st.lists(st.text("abc.:", min_size=1), min_size=1, max_size=8, unique=True)
partitions = st.builds(lane_partition, st.integers(0, 4096)) | st.builds(node_partition, st.text("abc-", min_size=1))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shards]:
    with Shards(tmp_path_factory.mktemp("shards"), 3) as shards:
        yield shards


@given(names, st.randoms(), partitions)
def test_the_server_of_a_partition_depends_on_the_set_of_servers_alone(
    servers: list[str], random: object, partition: Partition
) -> None:
    """A server that is added takes partitions over; it moves none between the others. The order does not matter."""
    before = Placement(servers).server(partition)
    assert Placement(servers[::-1]).server(partition) == before
    assert Placement([*servers, "another"]).server(partition) in (before, "another")
    assert Placement(servers).server(ALL_NODES) == servers[0]


def test_partitions_are_spread_evenly() -> None:
    placement = Placement(["a:6379", "b:6379", "c:6379", "d:6379"])
    for kind in (lane_partition, lambda number: node_partition(f"node-{number}")):
        counts = Counter(placement.server(kind(number)) for number in range(4000))
        assert all(900 < count < 1100 for count in counts.values()), counts


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("redis+shards://a,b,a:6379", "names a server twice"),
        (
            "redis+shards://a,b?directory=redis%2Bshards://c",
            "option 'directory' is redis\\+shards://c: its scheme must be one of",
        ),
        ("redis+shards://a,b?prefix=x:y", "prefix"),
        ("redis+shards://a,b?ssl_keyfile=x", "needs TLS"),
    ],
)
def test_a_uri_that_makes_no_sense_is_refused(uri: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        eventbus.connect(uri, node="a")


def test_the_passwords_are_in_no_text() -> None:
    uri = TransportURI.parse("rediss+shards://me:s3cret@a,b:1?directory=redis://me:hidden%40c")
    transport = RedisShardsTransport(uri, "n")
    shown = f"{transport.uri} {transport.options!r} {transport.uri!r} {transport._lines}"
    assert "s3cret" not in shown
    assert "hidden" not in shown
    assert transport.route(lane_partition(1)) in ("a:6379", "b:1")


@asyncio_only
async def test_nodes_with_other_lists_of_servers_are_refused(shards: Shards) -> None:
    one, two, three = map(shards.name, range(3))
    space = fresh_namespace()
    async with eventbus.connect(f"redis+shards://{one},{two}", namespace=space, node="a"):
        for servers, told in (
            (f"{one},{two},{three}", "the servers"),
            (f"{two},{one}", "its directory at"),
            (f"{three},{one}", "its directory at"),
        ):
            with pytest.raises(NamespaceMismatch, match=told):
                await eventbus.connect(f"redis+shards://{servers}", namespace=space, node="b").__aenter__()
        with pytest.raises(NamespaceMismatch, match="the servers"):
            await eventbus.connect(f"redis://{one}", namespace=space, node="b").__aenter__()
    async with eventbus.connect(f"redis+shards://{one},{two},{three}", namespace=space, node="b"):
        pass


@asyncio_only
async def test_a_server_of_the_directory_may_have_another_address(shards: Shards) -> None:
    one, two = map(shards.name, range(2))
    uri = f"redis+shards://{one},{two}?directory=redis://{two.replace('127.0.0.1', 'localhost')}"
    async with buses(uri) as (a, b), b.client("bob"):
        assert await a.locate("bob") is not None


@asyncio_only
async def test_the_directory_may_be_elsewhere(shards: Shards) -> None:
    one, two, three = map(shards.name, range(3))
    uri = f"redis+shards://{one},{two}?directory=redis://{three}"
    async with buses(uri) as (a, b), b.client("bob", handler=(bob := Inbox())):
        shards.servers[0].pause()
        try:
            assert await a.locate("bob") == await b.locate("bob") != None  # noqa: E711
        finally:
            shards.servers[0].resume()
        await a.send("bob", "n", 1)
        await bob.got(1)


@asyncio_only
async def test_the_directory_may_be_on_a_server_of_the_list(shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    """However its port is written."""
    one, two = shards.servers[0].port, shards.servers[1].port
    monkeypatch.setattr("eventbus_redis.shards.transport.DEFAULT_PORT", one)
    monkeypatch.setattr("eventbus_redis.server.DEFAULT_PORT", one)
    async with buses(f"redis+shards://{HOST},{HOST}:{two}?directory=redis://{HOST}") as (a, b):
        assert len(await a.nodes()) == len(await b.nodes()) == 2


@asyncio_only
async def test_receive_ends_if_the_lines_end_while_an_item_is_taken(shards: Shards) -> None:
    async with RedisShardsTransport(TransportURI.parse(shards.uri), "n0") as opened:
        await opened.join([ALL_NODES])
        await opened.publish([Frame(ALL_NODES, b"1")])
        readers: list[asyncio.Task[object]] = []
        with anyio.fail_after(DEADLINE):
            async for _ in opened.receive():
                readers = [task for task in asyncio.all_tasks() if "._read" in repr(task.get_coro())]
                await opened.aclose()
                await asyncio.wait(readers)
    assert len(readers) == 3


@asyncio_only
async def test_the_checks_include_the_server_of_the_directory(shards: Shards) -> None:
    one, two = shards.name(0), shards.name(1)
    uri = TransportURI.parse(f"redis+shards://{one}?directory=redis://{two}")
    found = {finding.check for finding in await RedisShardsTransport(uri, "n0").diagnose()}
    assert {f"server ({one})", "server (directory)"} <= found
    with socket.socket() as unused:
        unused.bind((HOST, 0))
        uri = TransportURI.parse(f"redis+shards://{one}?directory=redis://{HOST}:{unused.getsockname()[1]}")
        found = {finding.check for finding in await RedisShardsTransport(uri, "n0").diagnose()}
    assert "connection (directory)" in found


def split(bus: eventbus.Bus, server: str) -> tuple[list[str], list[str]]:
    """Return the topics whose lane is on *server*, and the others."""
    there = [topic for topic in TOPICS if bus._node.transport.route(lane_partition(lane_of(topic, 64))) == server]
    return there, [topic for topic in TOPICS if topic not in there]


def nodes_on(shards: Shards, server: str, count: int) -> list[str]:
    """Return names of nodes whose own partition is on *server*."""
    placement = Placement([shards.name(number) for number in range(len(shards.servers))])
    found = (f"node-{number}" for number in range(1000))
    return [node for node in found if placement.server(node_partition(node)) == server][:count]


@asyncio_only
@pytest.mark.parametrize("fault", ["hung", "killed"])
async def test_g10_a_server_that_does_not_serve_stalls_its_partitions_only(tmp_path: Path, fault: str) -> None:
    """Topics on the other servers go on; the state tells; those that waited arrive once it is back, none is lost."""
    with Shards(tmp_path, 3) as shards:
        server = shards.servers[2]
        one, two = nodes_on(shards, shards.name(1), 2)
        uri = f"{shards.uri}?probe_interval=0.2&probe_timeout=3&command_timeout=3"
        space = fresh_namespace()
        async with (
            eventbus.connect(uri, namespace=space, node=one) as a,
            eventbus.connect(uri, namespace=space, node=two) as b,
        ):
            inboxes = {topic: Inbox() for topic in TOPICS}
            for topic, inbox in inboxes.items():
                b.on(topic)(inbox)
            await b.ready()
            a.on_undeliverable(lost := Hooked())
            a.on_disconnected(down := Hooked())
            stalled, healthy = split(a, shards.name(2))
            if fault == "hung":
                server.pause()
            else:
                server.kill()
            for number in range(20):
                for topic in TOPICS:
                    await a.publish(topic, number)
            for topic in healthy:
                await inboxes[topic].got(20)
            assert not any(inboxes[topic].data for topic in stalled)
            await until(lambda: (a.state, b.state) == ("disconnected", "disconnected"))
            assert any(shards.name(2) in reason for reason in down), down
            for topic in healthy:
                await a.publish(topic, "still")
                await inboxes[topic].got(21)
            if fault == "hung":
                server.resume()
            else:
                server.start()
            for topic in stalled:
                await inboxes[topic].got(20)
            await until(lambda: (a.state, b.state) == ("open", "open"))
            for topic in TOPICS:
                assert [number for number in inboxes[topic].data if number != "still"] == list(range(20))
            assert (list(lost), b.stats().missed) == ([], 0)


@asyncio_only
async def test_a_node_opens_while_one_server_is_away(tmp_path: Path) -> None:
    with Shards(tmp_path, 3) as shards:
        one, two = nodes_on(shards, shards.name(1), 2)
        uri = f"{shards.uri}?command_timeout=3&connect_timeout=3"
        space = fresh_namespace()
        shards.servers[2].kill()
        async with (
            eventbus.connect(uri, namespace=space, node=one) as a,
            eventbus.connect(uri, namespace=space, node=two) as b,
            b.client("bob", handler=(bob := Inbox())),
        ):
            stalled, healthy = split(a, shards.name(2))
            b.on(stalled[0])(late := Inbox())
            b.on(healthy[0])(news := Inbox())
            await until(lambda: lane_of(healthy[0], 64) in b._node.lanes._joined)
            await a.publish(healthy[0], 1)
            await news.got(1)
            await a.send("bob", "n", 1)
            await bob.got(1)
            shards.servers[2].start()
            await b.ready()
            await a.publish(stalled[0], 1)
            await late.got(1)
            await until(lambda: (a.state, b.state) == ("open", "open"))
