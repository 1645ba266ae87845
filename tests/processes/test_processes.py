"""Real processes that are killed, stopped and told to end, at a real server."""

from __future__ import annotations

import os
from time import monotonic

import anyio
import pytest

import eventbus
from tests.processes.clocks import SHIFTS
from tests.processes.support import NodeProcess, Refused, gone, place
from tests.support import Inbox, until

pytestmark = [
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),
    pytest.mark.skipif(
        "EVENTBUS_PROCESSES" not in os.environ,
        reason="set EVENTBUS_PROCESSES=1: they kill and stop real processes, and take a minute",
    ),
]

LEASE = 60.0
SHORT = 4.0
LATE = 15.0
"""Seconds by which a loaded machine may be late."""


async def warm(sender: NodeProcess, owner: NodeProcess, *clients: str) -> None:
    """Have *sender* know that *owner* has *clients*."""
    for client in clients:
        await owner.claim(client)
        assert await sender.send(client, range(1)) == {}
    await until(lambda: all(owner.handled(client) == [0] for client in clients))


async def heard(sender: NodeProcess, client: str, owner: NodeProcess) -> None:
    """
    Return once *sender* knows that *owner* has *client*, or that it does not know who has.

    Only a takeover from a node that hung for longer than its lease, and whose rows were swept, waits for that: then the
    directory has no former owner (the limit of G8).
    """

    async def has_heard() -> bool:
        return await sender.ask("believes", client=client) in (owner.node, None)  # who knows nothing asks

    await until(has_heard, f"{sender!r} hears of the new owner")


async def accounted(sender: NodeProcess, client: str, numbers: range, *owners: NodeProcess) -> list[int]:
    """Return what the *owners* handled of *numbers*, once every one of these was handled or reported."""

    def handled() -> list[int]:
        return [number for owner in owners for number in owner.handled(client) if number in numbers]

    def missing() -> set[int]:
        return set(numbers) - set(handled()) - set(sender.reported(client))

    await until(lambda: not missing(), f"all of {numbers} are handled or reported")
    assert len(handled()) == len(set(handled())), "an event was handled twice"
    return handled()


async def test_g8_a_client_of_a_killed_process_is_claimed_elsewhere_at_once(redis_uri: str) -> None:
    """Neither a claim of the client nor a send by a stale cache waits for the lease."""
    async with place(redis_uri, LEASE) as here:
        a, b, c = await here.start("a", "b", "c")
        await warm(c, a, "bob")
        killed = a.kill()
        await b.claim("bob")
        claimed = monotonic()
        assert await c.send("bob", range(1, 101)) == {}
        handled = await accounted(c, "bob", range(1, 101), b)
        assert handled == b.handled("bob") == list(range(1, 101))
        times = [record["at"] - killed for record in b.all("handled", client="bob")]
        print(f"\nkill -9: claimed after {claimed - killed:.3f} s, delivered after {times[0]:.3f} to {times[-1]:.3f} s")
        assert times[-1] < LEASE / 2


async def test_g8_a_send_that_overtakes_the_word_of_the_new_owner_waits_for_no_lease(redis_uri: str) -> None:
    """It goes to the killed process, which does not listen; then it follows its client, before later events."""
    async with place(redis_uri, LEASE) as here:
        (a,) = await here.start("a")
        await a.claim("bob")
        async with eventbus.connect(here.uri, node="b") as b, eventbus.connect(here.uri, node="c") as c:
            await c.send("bob", "number.0", 0)
            await until(lambda: a.handled("bob") == [0])
            killed = a.kill()
            await a.exit()
            async with b.client("bob", handler=(bob := Inbox())):
                for number in range(1, 6):
                    await c.send("bob", f"number.{number}", number)
                await until(lambda: c.stats().received_events > 0, "c hears of the new owner")
                await c.send("bob", "number.6", 6)
                await bob.got(6)
                print(f"\nkill -9: delivered after {monotonic() - killed:.3f} s")
                assert bob.data == list(range(1, 7))
                assert monotonic() - killed < LEASE / 2


async def test_g8_events_sent_between_the_kill_and_the_claim_reach_the_new_owner(redis_uri: str) -> None:
    """It waits for the dead node, and goes after its client once the lease is over."""
    async with place(redis_uri, SHORT) as here:
        a, b, c = await here.start("a", "b", "c")
        await warm(c, a, "bob")
        a.kill()
        await a.exit()
        assert await c.send("bob", range(1, 101)) == {}
        await b.claim("bob")
        assert await c.send("bob", range(101, 201)) == {}
        handled = await accounted(c, "bob", range(1, 201), b)
        assert sorted(handled) == list(range(1, 201))


async def test_g8_a_sender_that_slept_through_the_takeover_reaches_the_new_owner(redis_uri: str) -> None:
    """The word of the new owner waits in its socket while it sends to the former one."""
    async with place(redis_uri, SHORT) as here:
        a, b, c = await here.start("a", "b", "c")
        await warm(c, a, "bob")
        c.pause()
        a.kill()
        c.tell("send", client="bob", first=1, end=51)
        await b.claim("bob")
        c.resume()
        assert await c.send("bob", range(51, 101)) == {}
        handled = await accounted(c, "bob", range(1, 101), b)
        assert sorted(handled) == list(range(1, 101))


async def test_g9_a_process_stopped_beyond_its_lease_gives_up_clients_that_others_claimed(redis_uri: str) -> None:
    """What waited in it is handled once or reported, never by the former owner; its other clients it keeps."""
    async with place(redis_uri, SHORT) as here:
        a, b, c = await here.start("a", "b", "c")
        await warm(c, a, "bob", "amy")
        a.pause()
        stopped = monotonic()
        assert await c.send("bob", range(1, 21)) == {}
        await gone("a", b)
        await b.claim("bob")
        await until(lambda: monotonic() - stopped > 1.2 * SHORT)
        resumed = a.resume()
        await until(lambda: bool(a.all("ended")), "the handle of bob ends")
        assert [(record["client"], record["error"]) for record in a.all("ended")] == [("bob", "ClientTakenOver")]
        await until(lambda: bool(a.all("lease lost")), "on_lease_lost is called")
        assert await c.send("bob", range(21, 41)) == {}
        assert sorted(number for number in await accounted(c, "bob", range(1, 41), a, b) if number > 20) == list(
            range(21, 41)
        )
        assert await c.send("amy", range(1, 21)) == {}
        await until(lambda: len(a.handled("amy", since=resumed)) == 20)
        assert a.handled("amy") == list(range(21))
        assert a.handled("bob", since=resumed) == []
        assert await b.ask("locate", client="amy") == "a"
        assert await b.ask("locate", client="bob") == "b"


async def test_g9_a_process_stopped_just_before_it_would_have_renewed_finds_that_its_lease_ended(
    redis_uri: str,
) -> None:
    """The stop is shorter than the lease, yet long enough for it to end: it counts from the last renewal."""
    lease = 18.0  # claiming from a stopped process takes another second
    async with place(redis_uri, lease) as here:
        a, b, c = await here.start("a", "b", "c")
        await warm(c, a, "bob")

        async def renewal_is_due() -> bool:
            left: float = (await b.ask("nodes"))["a"]
            return left < lease * 2 / 3 + 1.0

        await until(renewal_is_due)
        a.pause()
        assert await c.send("bob", range(1, 21)) == {}
        await gone("a", b)
        await b.claim("bob")
        resumed = a.resume()
        await until(lambda: bool(a.all("ended")), "the handle of bob ends")
        await accounted(c, "bob", range(1, 21), a, b)
        assert a.handled("bob", since=resumed) == []


async def test_g8_a_stale_cache_leads_past_a_process_stopped_beyond_its_lease(redis_uri: str) -> None:
    """A send after the claim reaches the new owner, though the former one is still subscribed."""
    async with place(redis_uri, SHORT) as here:
        a, b, c = await here.start("a", "b", "c")
        await warm(c, a, "bob")
        a.pause()
        await gone("a", b)
        await b.claim("bob")
        await heard(c, "bob", b)
        assert await c.send("bob", range(1, 21)) == {}
        await accounted(c, "bob", range(1, 21), b)
        assert b.handled("bob") == list(range(1, 21))
        resumed = a.resume()
        await until(lambda: bool(a.all("ended")))
        assert a.handled("bob", since=resumed) == []


async def test_g8_a_client_of_a_stopped_process_is_claimed_elsewhere(redis_uri: str) -> None:
    """After a stop shorter than its lease the former owner lets go, handles nothing sent since, and lost no lease."""
    async with place(redis_uri, LEASE) as here:
        a, b, c = await here.start("a", "b", "c")
        await warm(c, a, "bob", "amy")
        a.pause()
        stopped = monotonic()
        assert await c.send("bob", range(1, 21)) == {}
        await b.claim("bob")
        print(f"\nSIGSTOP: claimed after {monotonic() - stopped:.3f} s")
        assert await c.send("bob", range(21, 41)) == {}
        await until(lambda: 40 in b.handled("bob"), "the last event reaches the new owner")
        assert a.handled("bob") == [0]
        resumed = a.resume()
        assert resumed - stopped < LEASE / 2
        await until(lambda: bool(a.all("ended")), "the handle of bob ends")
        assert [(record["client"], record["error"]) for record in a.all("ended")] == [("bob", "ClientTakenOver")]
        handled = await accounted(c, "bob", range(1, 41), a, b)
        assert sorted(handled) == list(range(1, 41))
        assert [number for number in a.handled("bob") if number > 20] == []
        assert await c.send("amy", range(1, 21)) == {}
        await until(lambda: a.handled("amy") == list(range(21)))
        assert a.all("lease lost") == []


async def test_the_id_of_a_live_process_cannot_be_taken_and_that_of_a_dead_one_can(redis_uri: str) -> None:
    async with place(redis_uri, SHORT) as here:
        a, b = await here.start("a", "b")
        await a.claim("bob")
        with pytest.raises(Refused, match="NodeAlreadyPresent"):
            await here.start("a")
        killed = a.kill()
        with pytest.raises(eventbus.NodeAlreadyPresent):
            async with eventbus.connect(here.uri, node="a"):
                pass
        assert await gone("a", b) - killed < SHORT + LATE
        (again,) = await here.start("a")
        assert await b.ask("clients") == []
        await warm(b, again, "bob")


async def test_g9_a_killed_process_and_its_clients_are_gone_within_its_lease(redis_uri: str) -> None:
    """Every event that was accepted for it is handled once, refused or reported."""
    async with place(redis_uri, SHORT) as here:
        a, b, c = await here.start("a", "b", "c")
        names = [f"acme/{number}" for number in range(20)]
        await warm(c, a, *names)
        assert await b.ask("clients") == sorted(names)
        refused: dict[int, str] = {}
        sent = 1

        async def send_on() -> None:
            nonlocal sent
            while not refused:
                refused.update(await c.send(names[0], range(sent, sent + 20)))
                sent += 20

        async with anyio.create_task_group() as group:
            group.start_soon(send_on)
            await until(lambda: len(a.handled(names[0])) > 100)
            killed = a.kill()
            for name in names[1:]:
                assert await c.send(name, range(1, 6)) == {}
            off = await gone("a", b) - killed
            assert await b.ask("clients") == []
            assert [await b.ask("locate", client=name) for name in names] == [None] * len(names)
            print(f"\nkill -9: off the bus and its clients free after {off:.3f} s of a lease of {SHORT:g} s")
            assert off < SHORT + LATE
        assert set(refused.values()) == {"ClientNotFound"}
        await a.exit()
        for name in names[1:]:
            await accounted(c, name, range(1, 6), a)
        await until(
            lambda: set(range(sent)) <= {*a.handled(names[0]), *c.reported(names[0]), *refused},
            "all is handled, refused or reported",
        )
        assert {reason for name in names for reason in c.reported(name).values()} <= {"client gone", "node dead"}


async def test_a_process_told_to_end_leaves_at_once(redis_uri: str) -> None:
    """SIGTERM cancels the program: it is off the bus long before its lease, and what it had not read is reported."""
    async with place(redis_uri, LEASE) as here:
        a, b, c = await here.start("a", "b", "c")
        await warm(c, a, "bob")
        await a.claim("amy", read=False)
        assert await c.send("amy", range(1, 6)) == {}
        assert await c.send("bob", range(1, 6)) == {}
        await until(lambda: len(a.handled("bob")) == 6)
        told = a.terminate()
        off = await gone("a", b) - told
        assert await a.exit() == 0
        print(f"\nSIGTERM: off the bus after {off:.3f} s, ended after {monotonic() - told:.3f} s")
        assert off < LEASE / 2
        assert [record["say"] for record in a.all("closed")] == ["closed"]
        assert await b.ask("clients") == []
        await b.claim("bob", takeover=False)
        await until(lambda: set(c.reported("amy")) == set(range(1, 6)), "what it had not read is reported")
        assert await c.send("bob", range(6, 11)) == {}
        await until(lambda: b.handled("bob") == list(range(6, 11)))


async def test_g9_hosts_whose_clocks_differ_agree_on_the_live_nodes(redis_uri: str) -> None:
    """Leases go by the server's clock: a node a day ahead, and one behind, live, own, lose and die as others do."""
    async with place(redis_uri, SHORT) as here:
        (here_now,) = await here.start("now")
        ahead, behind = wrong = [NodeProcess(here.uri, name, program="tests.processes.clocks") for name in SHIFTS]
        here.processes += wrong
        for node in wrong:
            await node.opened()
        for node in (here_now, *wrong):
            left = await node.ask("nodes")
            assert left.keys() == {"now", *SHIFTS}
            assert all(0 < seconds <= SHORT for seconds in left.values()), left
        await warm(here_now, ahead, "alice", "bob")
        before = monotonic()
        await until(lambda: monotonic() > before + 1.5 * SHORT)
        assert await here_now.ask("locate", client="alice") == "ahead"
        await behind.claim("alice")
        assert await here_now.send("alice", range(1, 2)) == {}
        await until(lambda: behind.handled("alice") == [1] and bool(ahead.all("ended", client="alice")))
        killed = ahead.kill()
        assert await gone("ahead", behind) - killed < SHORT + LATE
        await behind.claim("bob", takeover=False)
