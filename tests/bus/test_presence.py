"""Who died, and who says so."""

from __future__ import annotations

import pytest

from eventbus_core import Node
from eventbus_core.presence import Deaths
from eventbus_core.testing.severed import severable_buses
from tests.bus.support import Host, Inbox, tasks, until

ASKING = True
pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])  # both take as long as leases do
LEASE = 2.0


async def test_a_death_is_told_once_and_apart_from_leaving(uri: str) -> None:
    async with severable_buses(f"{uri}?presence=true", 3, lease=LEASE) as nodes, tasks() as group:
        here = nodes[0].bus
        heard = []
        await nodes[2].bus.flush()  # that it has joined
        for severable in nodes[:2]:
            severable.bus.on("$sys.node.*")(inbox := Inbox())
            await severable.bus.ready()
            heard.append(inbox)
        guest = Host(uri, node="guest", namespace=here.namespace, lease=LEASE, presence=True)
        await guest.open(group)
        await guest.close()
        nodes[2].transport.sever()
        await heard[1].got(3)
        nodes[2].transport.mend()
        for inbox in heard:
            await inbox.got(4)
            assert [(event.type, event.data, event.source) for event in inbox.events] == [
                ("$sys.node.joined", {"node": "guest"}, "@guest"),
                ("$sys.node.left", {"node": "guest", "died": False}, "@guest"),
                ("$sys.node.left", {"node": "n2", "died": True}, "@n0"),
                ("$sys.node.joined", {"node": "n2"}, "@n2"),
            ]


@pytest.mark.parametrize("uri", ["memory"], indirect=True)
async def test_the_death_of_the_one_who_should_say_it_keeps_nothing_secret(uri: str) -> None:
    async with severable_buses(f"{uri}?presence=true", 3, lease=LEASE) as (a, b, c):
        b.bus.on("$sys.node.left")(told := Inbox())
        await b.bus.ready()
        for cut in (a, c):
            cut.transport.sever()
        await until(lambda: sorted(event.data["node"] for event in told.events) == ["n0", "n2"])
        assert all(event.data["died"] and event.source == "@n1" for event in told.events)
        for cut in (a, c):
            cut.transport.mend()


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


def test_who_is_gone_before_its_lease_could_end_has_left() -> None:
    deaths = Deaths("a", 9.0)
    deaths.look(live(a=9, x=7), 0, 1)
    assert deaths.look(live(a=9), 3, 4) == []
    assert deaths.look(live(a=9), 9, 9) == []


def test_what_one_that_died_should_have_said_is_said_by_the_next() -> None:
    deaths = Deaths("b", 9.0)
    deaths.look(live(a=4, b=9, x=2), 0, 0)
    assert deaths.look(live(a=1, b=9), 3, 3) == []
    assert deaths.look(live(b=9), 6, 6) == ["x", "a"]
    assert deaths.look(live(b=9), 9, 9) == []


def test_what_another_has_said_long_ago_is_not_said_again() -> None:
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


def test_in_doubt_nobody_is_said_to_be_dead_and_who_left_meanwhile_is_not_said_so_afterwards() -> None:
    """Who is still gone once the directory is to be trusted again is; who left while its lease was good is not."""
    deaths = Deaths("a", 9.0)
    deaths.look(live(a=9, x=2, y=9, z=2), 0, 0)
    assert deaths.look(live(a=9, y=9), 3, 3, doubtful=True) == []
    assert deaths.look(live(a=9, z=9), 6, 6, doubtful=True) == []
    assert deaths.look(live(a=9, z=9), 12, 12) == ["x"]
