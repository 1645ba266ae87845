"""Presence: nodes that join, leave or die, and clients that move, are published to topics of the bus."""

from __future__ import annotations

import anyio
import pytest

import eventbus
from eventbus_core.backend import Node
from eventbus_core.membership.failure_detector import Deaths
from eventbus_core.testing.simulation.cut_links import cuttable_buses
from tests.support import Host, Inbox, buses, tasks, until

ASKING = True
ON_ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"])  # for tests that take as long as leases do
LEASE = 6.0


@ON_ASYNCIO
async def test_a_death_is_told_once_and_apart_from_leaving(uri: str) -> None:
    async with cuttable_buses(f"{uri}?presence=true", 3, lease=LEASE) as nodes, tasks() as group:
        here = nodes[0].bus
        heard = []
        await nodes[2].bus.flush()  # that it has joined
        for cuttable in nodes[:2]:
            cuttable.bus.on("$sys.node.*")(inbox := Inbox())
            await cuttable.bus.ready()
            heard.append(inbox)
        guest = Host(uri, node="guest", namespace=here.namespace, lease=LEASE, presence=True)
        await guest.open(group)
        await guest.close()
        nodes[2].transport.cut()
        await heard[1].got(3)
        nodes[2].transport.restore()
        for inbox in heard:
            await inbox.got(4)
            assert [(event.type, event.data, event.source) for event in inbox.events] == [
                ("$sys.node.joined", {"node": "guest"}, "@guest"),
                ("$sys.node.left", {"node": "guest", "died": False}, "@guest"),
                ("$sys.node.left", {"node": "n2", "died": True}, "@n0"),
                ("$sys.node.joined", {"node": "n2"}, "@n2"),
            ]


@ON_ASYNCIO
@pytest.mark.parametrize("uri", ["memory"], indirect=True)
async def test_a_death_is_published_though_the_node_that_should_publish_it_dies_too(uri: str) -> None:
    async with cuttable_buses(f"{uri}?presence=true", 3, lease=LEASE) as (a, b, c):
        b.bus.on("$sys.node.left")(told := Inbox())
        await b.bus.ready()
        for cut in (a, c):
            cut.transport.cut()
        await until(lambda: sorted(event.data["node"] for event in told.events) == ["n0", "n2"])
        assert all(event.data["died"] and event.source == "@n1" for event in told.events)
        for cut in (a, c):
            cut.transport.restore()


@pytest.fixture(autouse=True)
def _one_backend(anyio_backend: str) -> None:
    """Let what needs no loop have the parameter too."""


def live(**lease_left: float) -> list[Node]:
    return [Node(id, incarnation, left) for incarnation, (id, left) in enumerate(lease_left.items())]


def test_the_node_of_the_smallest_incarnation_speaks() -> None:
    for node, says in (("a", ["x"]), ("b", [])):
        deaths = Deaths(node, 9.0)
        assert deaths.look(live(a=9, b=9, x=2), 0, 1) == []
        assert deaths.look(live(a=9, b=9), 3, 3) == says
        assert deaths.look(live(a=9, b=9), 6, 6) == []


def test_a_node_that_is_gone_before_its_lease_could_end_has_left() -> None:
    deaths = Deaths("a", 9.0)
    deaths.look(live(a=9, x=7), 0, 1)
    assert deaths.look(live(a=9), 3, 4) == []
    assert deaths.look(live(a=9), 9, 9) == []


def test_the_next_node_publishes_the_deaths_that_a_dead_node_did_not() -> None:
    deaths = Deaths("b", 9.0)
    deaths.look(live(a=4, b=9, x=2), 0, 0)
    assert deaths.look(live(a=1, b=9), 3, 3) == []
    assert deaths.look(live(b=9), 6, 6) == ["x", "a"]
    assert deaths.look(live(b=9), 9, 9) == []


def test_a_death_that_another_node_published_is_not_published_again() -> None:
    deaths = Deaths("b", 9.0)
    deaths.look(live(a=9, b=9, x=2), 0, 0)
    for now in (3, 6, 9, 12, 15):
        deaths.look(live(a=9, b=9), now, now)
    assert deaths.look(live(b=9), 18, 18) == []


def test_one_that_is_back_is_not_dead() -> None:
    deaths = Deaths("b", 9.0)
    deaths.look(live(a=9, b=9, x=2), 0, 0)
    assert deaths.look(live(a=9, b=9), 3, 3) == []
    assert deaths.look(live(b=9, x=9), 6, 6) == []


def test_a_node_that_is_not_there_itself_says_nothing() -> None:
    deaths = Deaths("b", 9.0)
    deaths.look(live(a=2, b=2), 0, 0)
    assert deaths.look([], 3, 3) == []


def test_in_doubt_no_node_is_declared_dead_and_nodes_that_left_meanwhile_are_not_either() -> None:
    """Who is still gone once the directory is to be trusted again is; who left while its lease was good is not."""
    deaths = Deaths("a", 9.0)
    deaths.look(live(a=9, x=2, y=9, z=2), 0, 0)
    assert deaths.look(live(a=9, y=9), 3, 3, incomplete=True) == []
    assert deaths.look(live(a=9, z=9), 6, 6, incomplete=True) == []
    assert deaths.look(live(a=9, z=9), 12, 12) == ["x"]


@pytest.mark.parametrize("looks", [(3, 6, 9, 12, 15), (3, 13), (3,)])
def test_a_death_is_published_however_long_the_view_was_incomplete(looks: tuple[float, ...]) -> None:
    deaths = Deaths("a", 9.0)
    deaths.look(live(a=9, x=2), 0, 0)
    for now in looks:
        assert deaths.look(live(a=9), now, now, incomplete=True) == []
    assert deaths.look(live(a=9), 26, 26) == ["x"]
    assert deaths.look(live(a=9), 29, 29) == []


def test_a_death_that_was_published_meanwhile_is_not_published_again_by_a_node_with_an_incomplete_view() -> None:
    """It remembers the death for a lease only, as the view of the node that publishes may have been complete."""
    deaths = Deaths("b", 9.0)
    deaths.look(live(a=9, b=9, x=2), 0, 0)
    for now in (3, 6, 9, 12):
        assert deaths.look(live(a=4, b=9), now, now, incomplete=True) == []
    assert deaths.look(live(b=9), 19, 19) == ["a"]


async def test_presence_is_published_to_nodes_with_the_option(uri: str) -> None:
    """Who joins, leaves, claims, takes over and releases is published to ``$sys`` topics, on every node."""
    async with buses(uri, 1, presence=True) as (a,):
        a.on("$sys.>")(told := Inbox())
        a.on(">")(everything := Inbox())
        await a.ready()
        async with eventbus.connect(uri, namespace=a.namespace, node="late", presence=True) as late:
            async with late.client("bob"), a.client("bob"):
                pass
            with pytest.raises(eventbus.InvalidName):
                await late.publish("$sys.node.left", {"node": "n0"})
        await until(lambda: len(told) == 6)
        assert [(event.type, event.data["node"], event.source) for event in told.events] == [
            ("$sys.node.joined", "late", "@late"),
            ("$sys.client.claimed", "late", "@late"),
            ("$sys.client.claimed", "n0", "@n0"),
            ("$sys.client.taken-over", "n0", "@n0"),
            ("$sys.client.released", "n0", "@n0"),
            ("$sys.node.left", "late", "@late"),
        ]
        assert told.events[3].data == {"node": "n0", "client": "bob", "previous": "late"}
        assert len(everything) == 0


@ON_ASYNCIO
async def test_every_claim_of_a_burst_is_told_also_on_its_own_node(uri: str) -> None:
    """Far more than local senders may be ahead of a handler: presence does not wait, and skips nothing for that."""
    count = 500
    async with buses(uri, 1, presence=True) as (bus,):
        bus.on("$sys.client.claimed")(inbox := Inbox())
        handles = [bus.client(f"c{number}") for number in range(count)]
        async with anyio.create_task_group() as group:
            for handle in handles:
                group.start_soon(handle.__aenter__)
        await inbox.got(count)
        assert sorted(event.data["client"] for event in inbox.events) == sorted(handle.name for handle in handles)
