"""A node whose broker is not there at the start: alone it works, and later it joins the others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from time import monotonic, sleep
from typing import Any

import anyio
import attrs
import pytest
from anyio.abc import ByteReceiveStream, ByteSendStream, SocketStream, TaskGroup
from anyio.streams.stapled import MultiListener

import eventbus
from eventbus import (
    Bus,
    ClientAlreadyClaimed,
    ClientTakenOver,
    ConfigurationError,
    EventBusError,
    NamespaceMismatch,
    NodeAlreadyPresent,
    Retention,
    TransportUnavailable,
    register,
)
from eventbus_core.backend import Claim, Owner, Partition, TransportURI
from eventbus_memory import MemoryTransport
from tests.servers import HOST, RedisServer, free_port
from tests.support import (
    DEADLINE,
    Hooked,
    Host,
    Inbox,
    WithoutDirectory,
    fence,
    fresh_namespace,
    read,
    take,
    tasks,
    until,
)


@attrs.define
class Gate:
    """Where the way to the broker is barred, and what its transport says then."""

    bars: str = "open"
    fault: type[EventBusError] = TransportUnavailable
    closed: bool = False

    def check(self, place: str) -> None:
        if self.closed and self.bars == place:
            raise self.fault("the gate is closed")


gate = Gate()


class _Gated(MemoryTransport):
    """Comes to its broker by the gate, and is opened once, as a transport may be."""

    opened = False

    async def open(self) -> None:
        assert not self.opened
        self.opened = True
        await super().open()
        gate.check("open")

    async def join(self, partitions: Sequence[Partition]) -> None:
        gate.check("join")
        await super().join(partitions)


class _GatedAsking(WithoutDirectory, _Gated):
    """Has no directory besides."""


register("gated", _Gated)
register("gated-asking", _GatedAsking)


class Way:
    """
    The way of one node to a broker that other nodes reach all the time; it is not there at first.

    Attributes:
        uri: for that node.
        others: for the others.
    """

    def __init__(self, uri: str, others: str) -> None:
        self.uri = uri
        self.others = others

    async def open(self, group: TaskGroup) -> None:
        """Let it be there, as long as *group* is."""
        gate.closed = False
        if self.uri.startswith("redis"):
            listener = await anyio.create_tcp_listener(local_host=HOST, local_port=_port(self.uri))
            group.start_soon(self._serve, listener)

    async def _serve(self, listener: MultiListener[SocketStream]) -> None:
        async with listener:
            await listener.serve(self._pass_on)

    async def _pass_on(self, near: SocketStream) -> None:
        async with near, await anyio.connect_tcp(HOST, _port(self.others)) as far, anyio.create_task_group() as group:
            group.start_soon(_copy, near, far, group)
            group.start_soon(_copy, far, near, group)


def _port(uri: str) -> int:
    return TransportURI.parse(uri).port or 0


async def _copy(source: ByteReceiveStream, sink: ByteSendStream, group: TaskGroup) -> None:
    try:
        while True:
            await sink.send(await source.receive())
    except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        group.cancel_scope.cancel()


@pytest.fixture(params=["gated", "gated at join", "gated-asking", pytest.param("redis", marks=pytest.mark.redis)])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Way]:
    """The way to a broker of each kind."""
    scheme, _, place = request.param.partition(" at ")
    monkeypatch.setattr(gate, "closed", True)
    monkeypatch.setattr(gate, "bars", place or "open")
    if scheme == "redis":
        if request.getfixturevalue("anyio_backend") == "trio":
            pytest.skip("redis-py runs on asyncio alone")
        server: RedisServer = request.getfixturevalue("redis_server")
        yield Way(f"redis://{HOST}:{free_port()}", server.uri)
    else:
        yield Way(f"{scheme}://tests", "asking://tests" if scheme == "gated-asking" else "memory://tests")


@asynccontextmanager
async def alone(uri: str, namespace: str, **options: Any) -> AsyncIterator[Bus]:
    """Open the bus ``late``, which starts alone."""
    node = {"node": "late", "namespace": namespace, "wait_for_broker": False}
    async with eventbus.connect(uri, **{**node, **options}) as bus:
        assert bus.state == "alone"
        yield bus


async def joined(bus: Bus) -> None:
    """Return once *bus* has joined the others."""
    await until(lambda: bus.state == "open", "it has joined")


async def test_without_the_option_an_absent_broker_is_an_error(way: Way) -> None:
    """The default has not changed: entering raises."""
    with pytest.raises(TransportUnavailable):
        await eventbus.connect(way.uri, namespace=fresh_namespace()).__aenter__()


async def test_a_broker_that_is_there_is_joined_at_once(way: Way) -> None:
    """``wait_for_broker=False`` changes nothing then."""
    async with eventbus.connect(way.others, namespace=fresh_namespace(), wait_for_broker=False, node="n0") as bus:
        assert bus.state == "open"
        assert [node.id for node in await bus.nodes()] == ["n0"]


async def test_a_node_alone_serves_its_own(way: Way) -> None:
    """Claims, sends, topics, broadcasts and handlers of one node need no broker, however many there are."""
    down = Hooked()
    bus = eventbus.connect(f"{way.uri}?wait_for_broker=false", namespace=fresh_namespace(), outbox_size=1024)
    bus.on_disconnected(down)
    bus.on("n")(handler := Inbox())
    with anyio.fail_after(DEADLINE):
        async with bus, bus.client("alice") as alice, bus.client("bob") as bob:
            await bus.ready()
            await bob.subscribe("n")
            assert (bus.state, bob.epoch, bus.stats().incarnation) == ("alone", 0, 0)
            await until(lambda: bool(down))
            await alice.send("bob", "hello")
            for number in range(200):
                await bus.publish("n", number)
                await bus.broadcast("n", number)
            assert [event.type for event in await take(bob, 201)] == ["hello", *["n"] * 200]
            await handler.got(400)
            await bus.flush()
            with pytest.raises(ClientAlreadyClaimed):
                await bus.client("bob", takeover=False).__aenter__()
            async with bus.client("bob"):
                with pytest.raises(ClientTakenOver):
                    await bob.receive()


async def test_a_node_alone_knows_of_no_other_node(way: Way) -> None:
    """Whatever asks about others raises, and does not pretend that there are none."""
    async with alone(way.uri, fresh_namespace()) as bus, bus.client("bob"):

        async def clients() -> None:
            _ = [name async for name in bus.clients()]

        asks: list[Callable[[], Awaitable[object]]] = [
            lambda: bus.send("carol", "n"),
            lambda: bus.send("@n1", "n"),
            lambda: bus.locate("carol"),
            lambda: bus.explain("carol"),
            bus.nodes,
            clients,
        ]
        for ask in asks:
            with pytest.raises(TransportUnavailable):
                await ask()


async def test_g5_events_left_by_a_client_are_reported_while_its_node_is_alone(way: Way) -> None:
    """No other node could get them, so no events pile up; events for lingering clients are kept as usual."""
    async with alone(way.uri, fresh_namespace()) as bus:
        lost = Hooked()
        bus.on_undeliverable(lost)
        async with bus.client("bob"):
            await bus.send("bob", "n")
        await until(lambda: [fate.reason for fate in lost] == ["client gone"])
        async with bus.client("bob", linger=DEADLINE):
            await bus.send("bob", "kept")
        async with bus.client("bob") as bob:
            assert [event.type for event in await take(bob, 1)] == ["kept"]


async def test_a_node_alone_joins_the_others_when_the_broker_comes(way: Way) -> None:
    """From then on its clients, subscriptions and handlers are those of any node, and those of others are there."""
    namespace = fresh_namespace()
    async with (
        tasks() as group,
        eventbus.connect(way.others, node="other", namespace=namespace) as other,
        other.client("far") as far,
        alone(way.uri, namespace) as late,
        late.client("near") as near,
    ):
        up = Hooked()
        late.on_reconnected(lambda: up(late.state))
        late.on("n")(handler := Inbox())
        await near.subscribe("n")
        await late.publish("n", "alone")
        for _ in range(10):
            await other.publish("n", "not for those who are not there")
        await other.flush()
        await way.open(group)
        await joined(late)
        await until(lambda: list(up) == ["open"])
        assert near.epoch > 0
        assert late.stats().incarnation > 0
        for number in range(100):
            await other.publish("n", number)
            await other.send("near", "to.client", number)
            await late.send("far", "n", number)
        await handler.got(101)
        assert handler.data == ["alone", *range(100)]
        events = await take(near, 201)
        assert [event.data for event in events if event.type == "n"] == ["alone", *range(100)]
        assert [event.data for event in events if event.type == "to.client"] == list(range(100))
        assert [event.data for event in await take(far, 100)] == list(range(100))
        assert [node.id for node in await other.nodes()] == ["late", "other"]
        owner = await other.locate("near")
        assert owner is not None
        assert owner.node == "late"
        assert (late.stats().missed, other.stats().missed, late.stats().duplicates) == (0, 0, 0)


async def test_a_node_that_dispatches_a_retained_queue_alone_misses_nothing_on_joining(way: Way) -> None:
    """Nothing waits meanwhile for nodes that it does not know."""
    options: dict[str, Any] = {"namespace": fresh_namespace(), "retain_queues": {"jobs": Retention()}}
    async with (
        tasks() as group,
        eventbus.connect(way.others, node="other", **options) as other,
        alone(way.uri, **options) as late,
        late.queue("jobs").consume(inbox := Inbox()),
    ):
        assert late._node.dispatchers is not None
        dispatchers = late._node.dispatchers
        await until(lambda: "jobs" in dispatchers._active)
        assert late._node.outbox.unpublished() == 0
        await way.open(group)
        await joined(late)
        await other.queue("jobs").send("n", 1)
        await inbox.got(1)
        await late.broadcast("n")
        await fence([late], [other])
        assert (late.stats().missed, other.stats().missed) == (0, 0)


async def test_g8_claims_made_alone_are_settled_on_joining(way: Way) -> None:
    """Who holds a client on the bus keeps it: the handle made alone ends, and what waited in it goes to the other."""
    namespace = fresh_namespace()
    async with (
        tasks() as group,
        eventbus.connect(way.others, node="other", namespace=namespace) as other,
        other.client("theirs") as theirs,
        alone(way.uri, namespace) as late,
        late.client("mine") as mine,
        late.client("theirs") as lost,
        late.client("left"),
    ):
        async with late.client("left"):
            await late.send("theirs", "waiting")
        await way.open(group)
        await joined(late)
        with pytest.raises(ClientTakenOver, match="'other'"):
            await lost.receive()
        await late.send("theirs", "n")
        await other.send("mine", "n")
        assert [event.source for event in await take(mine, 1)] == ["@other"]
        assert sorted(event.type for event in await take(theirs, 2)) == ["n", "waiting"]
        assert sorted([name async for name in other.clients()]) == ["mine", "theirs"]


async def test_presence_is_told_of_a_node_that_joins_late(way: Way) -> None:
    """Others hear of it, and of the clients that it holds."""
    namespace = fresh_namespace()
    async with tasks() as group, eventbus.connect(way.others, node="other", namespace=namespace) as other:
        other.on("$sys.>")(told := Inbox())
        await other.ready()
        async with alone(way.uri, namespace, presence=True) as late, late.client("bob"):
            await way.open(group)
            await joined(late)
            await told.got(2)
            assert told.types == ["$sys.node.joined", "$sys.client.claimed"]


@pytest.mark.parametrize(
    ("options", "error"),
    [({"node": "other"}, NodeAlreadyPresent), ({"lanes": 8}, NamespaceMismatch)],
    ids=["same id", "other lanes"],
)
async def test_an_error_on_joining_ends_the_body(way: Way, options: dict[str, Any], error: type[Exception]) -> None:
    """A node that finds its id taken, or other terms, when it comes late raises what it would have raised at once."""
    namespace = fresh_namespace()
    async with tasks() as group, eventbus.connect(way.others, node="other", namespace=namespace) as other:

        async def live() -> None:
            async with alone(way.uri, namespace, **options):
                await way.open(group)
                await anyio.sleep_forever()

        with anyio.fail_after(DEADLINE), pytest.raises(error):
            await live()
        assert [node.id for node in await other.nodes()] == ["other"]


async def test_a_broker_that_comes_and_refuses_for_good_ends_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting mends no wrong password."""
    monkeypatch.setattr(gate, "closed", True)
    monkeypatch.setattr(gate, "bars", "open")

    async def live() -> None:
        async with alone("gated://tests", fresh_namespace()):
            monkeypatch.setattr(gate, "fault", ConfigurationError)
            await anyio.sleep_forever()

    with anyio.fail_after(DEADLINE), pytest.raises(ConfigurationError, match="the gate is closed"):
        await live()


def test_blocking_code_can_start_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The facade takes the option, and says so too."""
    monkeypatch.setattr(gate, "closed", True)
    monkeypatch.setattr(gate, "bars", "open")
    with (
        eventbus.connect_blocking("gated://blocking", namespace=fresh_namespace(), wait_for_broker=False) as bus,
        bus.client("bob") as bob,
    ):
        assert bus.state == "alone"
        bus.send("bob", "n")
        assert bob.receive(timeout=DEADLINE).type == "n"
        gate.closed = False
        end = monotonic() + DEADLINE
        while bus.state == "alone":
            assert monotonic() < end
            sleep(0.002)
        assert bob.epoch > 0


async def test_a_node_that_never_met_the_broker_leaves_at_once(way: Way) -> None:
    """There is nothing to wait for."""
    async with alone(way.uri, fresh_namespace(), close_timeout=2 * DEADLINE) as bus, bus.client("bob"):
        await bus.publish("n")
        before = anyio.current_time()
    assert anyio.current_time() - before < DEADLINE
    assert bus.state == "closed"


async def test_a_client_released_while_its_claim_is_settled_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory answers for a handle that is closed by then: no node holds the client afterwards."""
    namespace = fresh_namespace()
    asked, answer = anyio.Event(), anyio.Event()
    async with eventbus.connect("memory://tests", node="n0", namespace=namespace) as bus:
        directory = bus._node.directory
        claim = directory.claim

        async def slow(clients: Sequence[str], takeover: bool) -> Sequence[Claim | Owner]:
            claims = await claim(clients, takeover)
            asked.set()
            await answer.wait()
            return claims

        async with bus.client("bob"):
            await directory.leave()  # as if the lease had ended
            monkeypatch.setattr(directory, "claim", slow)
            bus._node.lease.hurry()
            with anyio.fail_after(DEADLINE):
                await asked.wait()
        answer.set()

        async def free() -> bool:
            return await bus.locate("bob") is None and bus.stats().clients == 0

        await until(free)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_nodes_that_all_started_alone_agree_once_redis_starts(redis_server: RedisServer) -> None:
    """Each client ends up with one of those who claimed it, and all nodes reach it there."""
    redis_server.kill()
    namespace = fresh_namespace()
    async with tasks() as group:
        nodes = [
            await Host(redis_server.uri, node=f"n{number}", namespace=namespace, wait_for_broker=False).open(group)
            for number in range(3)
        ]
        assert {bus.state for bus in nodes} == {"alone"}
        for bus in nodes:
            bus.on("n")(Inbox())
        handles = [await bus.client("shared").__aenter__() for bus in nodes]
        readers = [read(group, handle) for handle in handles]
        await anyio.to_thread.run_sync(redis_server.start)
        for bus in nodes:
            await joined(bus)
        await until(lambda: sum(reader.ended is not None for reader in readers) == 2)
        (winner,) = (reader for reader in readers if reader.ended is None)
        for bus in nodes:
            await bus.send("shared", "n", bus.node)
        await winner.got(3)
        assert sorted(winner.data) == ["n0", "n1", "n2"]
        inbox = Inbox()
        nodes[2].on("all")(inbox)
        await nodes[2].ready()
        await nodes[0].publish("all", 1)
        await nodes[1].broadcast("all", 2)
        await inbox.got(2)


async def test_a_node_that_finds_other_terms_when_it_enters_again_ends() -> None:
    """The broker lost its memory, and other nodes have created the namespace again: waiting would not help."""

    async def live() -> None:
        async with eventbus.connect("memory://tests", namespace=fresh_namespace(), lease=0.3) as bus:
            directory: Any = bus._node.directory
            await directory.leave()
            directory._hub.terms = attrs.evolve(directory._hub.terms, lanes=8)
            await anyio.sleep_forever()

    with anyio.fail_after(DEADLINE), pytest.raises(NamespaceMismatch):
        await live()
