"""A transport with several servers: one that hangs, fails or gives partitions away stalls and loses nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import eventbus
from eventbus_core.backend import Partition, TransportURI, lane_partition, node_partition
from eventbus_core.cli import probe
from eventbus_core.cli.probe import examine_broker
from eventbus_core.cli.top import NodeRow, _table
from eventbus_core.model.topics import lane_of
from tests.quiet import quiet
from tests.sharded_memory import SERVERS, Sharded
from tests.support import Hooked, Inbox, buses, until

URI = "sharded://routes"
TOPICS = {lane_of(f"t{number}", 64): f"t{number}" for number in range(200)}

servers = st.sampled_from(SERVERS)
lanes = st.sampled_from(sorted(TOPICS)[:12])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), lanes, st.integers(1, 20)),
        st.tuples(st.just("send"), st.just(0), st.integers(1, 20)),
        st.tuples(st.just("hang"), servers, st.just(0)),
        st.tuples(st.just("go on"), servers, st.just(0)),
        st.tuples(st.just("fail"), servers, st.integers(0, 5)),
        st.tuples(st.just("move"), lanes, servers),
        st.tuples(st.just("pause"), st.just(0), st.integers(1, 5)),
    ),
    max_size=40,
)


@pytest.fixture(autouse=True)
def sharded() -> Iterator[None]:
    eventbus.register("sharded", Sharded)
    Sharded.reset()
    yield
    Sharded.reset()


@settings(max_examples=60, deadline=None)
@given(steps)
def test_g10_nothing_is_lost_doubled_or_reordered(program: list[tuple[str, Any, Any]]) -> None:
    """Whatever servers hang, fail after a part of a write, or hand over partitions; others are not held up by it."""
    with quiet():
        anyio.run(run_program, program)


async def run_program(program: list[tuple[str, Any, Any]]) -> None:
    Sharded.reset()
    async with buses(URI, lease=60.0) as (a, b), b.client("bob", handler=(bob := Inbox())):
        inboxes = {lane: Inbox() for lane in TOPICS}
        for lane, inbox in inboxes.items():
            b.on(TOPICS[lane])(inbox)
        await b.ready()
        a.on_undeliverable(lost := Hooked())
        sent: dict[int | str, list[int]] = {}
        for action, what, how in program:
            if action == "publish":
                for _ in range(how):
                    sent.setdefault(what, []).append(len(sent.get(what, ())))
                    await a.publish(TOPICS[what], sent[what][-1])
            elif action == "send" and not Sharded.hung:
                for _ in range(how):
                    sent.setdefault("bob", []).append(len(sent.get("bob", ())))
                    await a.send("bob", "n", sent["bob"][-1])
            elif action == "hang":
                Sharded.hang(what)
            elif action == "go on":
                Sharded.go_on(what)
            elif action == "fail":
                Sharded.taken[what] = how
            elif action == "move":
                Sharded.moved[lane_partition(what)] = how
            elif action == "pause":
                await anyio.sleep(how / 100)
        await arrive_at_servers_that_serve(sent, inboxes)
        for server in SERVERS:
            Sharded.go_on(server)
        for target, numbers in sent.items():
            inbox = bob if isinstance(target, str) else inboxes[target]
            await inbox.got(len(numbers))
            assert inbox.data == numbers
        await a.flush()
        assert (list(lost), b.stats().missed) == ([], 0)
        await until(lambda: a.state == "open", "the write that failed last, of whatever, succeeded when repeated")


async def arrive_at_servers_that_serve(sent: dict[int | str, list[int]], inboxes: dict[int, Inbox]) -> None:
    """Return once all has arrived that goes to lanes whose server has served them all the time."""
    for lane, numbers in sent.items():
        if isinstance(lane, int) and not Sharded.hung and lane_partition(lane) not in Sharded.moved:
            await inboxes[lane].got(len(numbers))


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_g10_a_server_that_hangs_stalls_its_own_partitions_only() -> None:
    async with buses(URI, lease=60.0) as (a, b):
        a.on_undeliverable(lost := Hooked())
        inboxes = {lane: Inbox() for lane in TOPICS}
        for lane, inbox in inboxes.items():
            b.on(TOPICS[lane])(inbox)
        await b.ready()
        hung = one_without(a, b)
        stalled = [lane for lane in TOPICS if route(a, lane_partition(lane)) == hung]
        Sharded.hang(hung)
        for number in range(50):
            for topic in TOPICS.values():
                await a.publish(topic, number)
        for lane in TOPICS.keys() - stalled:
            await inboxes[lane].got(50)
        assert not any(inboxes[lane].data for lane in stalled)
        Sharded.go_on(hung)
        for inbox in inboxes.values():
            await inbox.got(50)
            assert inbox.data == list(range(50))
        assert (list(lost), b.stats().missed) == ([], 0)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_state_names_the_server_that_fails() -> None:
    async with buses(URI, lease=60.0) as (a, b):
        inbox = listen(b)
        await b.ready()
        a.on_disconnected(down := Hooked())
        lane = next(lane for lane in TOPICS if route(a, lane_partition(lane)) == one_without(a, b))
        server = route(a, lane_partition(lane))
        Sharded.taken[server] = 0
        await a.publish(TOPICS[lane], 1)
        await until(lambda: len(down) == 1)
        assert down == [f"cannot write at {server}: {server} has failed"]
        await inbox.got(1)
        await until(lambda: a.state == "open")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_frames_of_a_server_that_hangs_go_to_the_one_that_takes_over() -> None:
    """The events that wait follow at once, those in a write that hangs once it raises; the fault goes with them."""
    async with buses(URI, lease=60.0) as (a, b):
        inbox = listen(b)
        await b.ready()
        hung = one_without(a, b)
        lane, other = [lane for lane in TOPICS if route(a, lane_partition(lane)) == hung][:2]
        Sharded.hang(hung)
        await a.publish(TOPICS[lane], 0)
        transport = a._node.transport
        assert isinstance(transport, Sharded)
        await until(lambda: hung in transport.busy, "the write hangs")
        await a.publish(TOPICS[lane], 1)
        await a.publish(TOPICS[other], "other")
        successor = next(server for server in SERVERS if server != hung)
        Sharded.moved.update({lane_partition(each): successor for each in TOPICS})
        await until(lambda: "other" in inbox.data, "events that waited go by the new route")
        Sharded.go_on(hung)
        await inbox.got(3)
        assert [number for number in inbox.data if number != "other"] == [0, 1]
        await until(lambda: a.state == "open")
        await until(lambda: hung not in a._node.outbox._routes, "the route without partitions ends")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_writer_that_has_rested_is_replaced_by_another() -> None:
    async with buses(URI, lease=60.0) as (a, b):
        inbox = listen(b)
        await b.ready()
        for number in range(2):
            await until(lambda: not a._node.outbox._routes, "all writers have ended")
            for topic in TOPICS.values():
                await a.publish(topic, number)
            await inbox.got((number + 1) * len(TOPICS))
        assert inbox.data == [0] * len(TOPICS) + [1] * len(TOPICS)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_bus_closes_while_a_server_hangs_and_reports_what_it_gives_up() -> None:
    lost = Hooked()
    async with buses(URI, 1, lease=60.0) as (b,):
        listen(b)
        await b.ready()
        a = eventbus.connect(URI, namespace=b.namespace, node="a", lease=60.0, close_timeout=0.2)
        a.on_undeliverable(lost)
        async with a:
            hung = one_without(a, b)
            stalled = [lane for lane in TOPICS if route(a, lane_partition(lane)) == hung]
            Sharded.hang(hung)
            for lane in stalled:
                await a.publish(TOPICS[lane])
                await a.publish(TOPICS[lane])
        assert [fate.reason for fate in lost] == ["bus closed"] * 2 * len(stalled)
        Sharded.go_on(hung)


def listen(bus: eventbus.Bus) -> Inbox:
    """Have one handler take every topic."""
    inbox = Inbox()
    for topic in TOPICS.values():
        bus.on(topic)(inbox)
    return inbox


def route(bus: eventbus.Bus, partition: Partition) -> str:
    return bus._node.transport.route(partition)


def one_without(*nodes: eventbus.Bus) -> str:
    """Return a server that carries none of the nodes' own partitions, nor that of all nodes."""
    used = {route(nodes[0], node_partition(node.node)) for node in nodes} | {route(nodes[0], Partition("all"))}
    return next(server for server in SERVERS if server not in used)


async def test_the_counters_name_the_server_of_each_partition() -> None:
    """What waits, and what a node listens to, by server; also where the channel of the node is, as ``top`` shows it."""
    async with buses(URI, 2, lease=60.0) as (a, b), b.client("bob", handler=(bob := Inbox())):
        a.on("order.*")(Inbox())
        await a.ready()
        server = b.stats().server
        assert server == b._node.transport.route(node_partition(b.node))
        assert sum(a.stats().partitions.values()) == len(a._node.lanes.accepted) + 2 > 2
        await a.send("bob", "n")
        await until(lambda: len(bob) == 1 and not a.stats().waiting_by_server)
        Sharded.hang(server)
        for _ in range(10):
            await a.send("bob", "n")
        await until(lambda: a.stats().waiting_by_server == {server: 10})
        table = _table([NodeRow(bus.node, answer_ms=1.0, stats=bus.stats()) for bus in (a, b)])
        assert list(table.columns[-1].cells) == [a.stats().server, server]
        Sharded.go_on(server)
        await until(lambda: len(bob) == 11 and not a.stats().waiting_by_server)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_round_trip_of_the_doctor_names_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "UNUSED_LANES", 1)
    found = await examine_broker(lambda ending: Sharded(TransportURI.parse(URI), f"doctor{ending}"))
    assert found[-1].detail.endswith(f" by way of {SERVERS[sum(b'l:65536') % len(SERVERS)]}")
