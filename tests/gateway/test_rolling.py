"""Servers that are replaced one by one: their visitors go to others, and nothing is lost or refused meanwhile."""

from __future__ import annotations

import os
import random
import re
import signal
from collections import Counter
from pathlib import Path
from time import monotonic

import anyio
import pytest

import eventbus
import tests.gateway.needs  # noqa: F401  (before what it looks for)
from tests.gateway.crowd import Guest
from tests.gateway.servers import Gateway, gateways
from tests.gateway.visitor import Visitor, turned_away
from tests.servers import RedisServer
from tests.support import until

RETAINED = {"workspace.*": eventbus.Retention(events=200, seconds=600)}
"""What the servers retain: every node of their namespace must."""
TABLE = 10
"""Guests in one workspace; each server tells each page of all people in its workspace."""
REAL = pytest.mark.skipif("EVENTBUS_PROCESSES" not in os.environ, reason="set EVENTBUS_PROCESSES=1: it takes a minute")
MANY = pytest.param(300, 8.0, id="many", marks=REAL)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Party:
    """Guests at all of *servers*, who write to each other all the time."""

    def __init__(self, servers: list[Gateway], count: int) -> None:
        self.servers = servers
        self.guests = [
            Guest(f"table-{number // TABLE}", f"g{number}", servers, servers[number % len(servers)])
            for number in range(count)
        ]
        self._quiet = anyio.Event()

    async def talk(self) -> None:
        """Have each guest write to one at its table about every other second."""
        while not self._quiet.is_set():
            for number, guest in enumerate(self.guests):
                table = number // TABLE * TABLE
                await guest.say(random.choice(self.guests[table : table + TABLE]).name)
                await anyio.sleep(2 / len(self.guests))

    async def replace(self, server: Gateway) -> list[float]:
        """Replace *server* by one of the same name; return when its guests set out for another, in order."""
        there, begun = [guest for guest in self.guests if guest.at == server.name], monotonic()
        server.process.send_signal(signal.SIGTERM)
        await until(lambda: server.process.poll() is not None, f"{server.name} has ended")
        assert server.process.returncode in (0, -signal.SIGTERM), server.log.read_text()
        await until(self.complete, "all guests are somewhere")
        assert all(guest.at != server.name for guest in self.guests)
        starts = sorted(at - late for guest in self.guests for at, _, late in guest.arrivals if at > begun)
        assert len(starts) == len(there) > 0, "none had to move twice"
        server.start()
        await anyio.to_thread.run_sync(server.wait)
        return starts

    def complete(self) -> bool:
        """Return whether every guest is connected."""
        return all(guest.at for guest in self.guests)

    async def end(self) -> None:
        """Return once all that was written is accepted, and read."""
        self._quiet.set()
        await until(lambda: all(guest.settled for guest in self.guests), "all is accepted")
        sent = {id for guest in self.guests for id in guest.sent}

        await until(lambda: sent <= self.got().keys(), "all is read")

    def got(self) -> Counter[str]:
        """Return how often each message was read."""
        got: Counter[str] = Counter()
        for guest in self.guests:
            got.update(guest.got)
        return got


@pytest.mark.parametrize(("count", "over"), [pytest.param(30, 1.0, id="few"), MANY])
async def test_servers_are_replaced_one_by_one(
    redis_server: RedisServer, tmp_path: Path, count: int, over: float
) -> None:
    """Nothing is lost or doubled, no guest is refused, each moves once for each server, and they come evenly spread."""
    with gateways(redis_server.uri, tmp_path, 3, "--drain", str(over)) as servers:
        party = Party(servers, count)
        async with anyio.create_task_group() as tasks:
            for guest in party.guests:
                tasks.start_soon(guest.run)
            await until(party.complete, "all guests are somewhere")
            tasks.start_soon(party.talk)
            for server in servers:
                starts = await party.replace(server)
                seconds = Counter(int(at - starts[0]) for at in starts)
                print(f"{server.name}: {len(starts)} guests moved, by second {sorted(seconds.items())}")
                if count >= 100:
                    assert max(seconds.values()) <= 2 * len(starts) / over, seconds
            await party.end()
            tasks.cancel_scope.cancel()
        assert {close for guest in party.guests for close in guest.closes} == {(1012, True)}
        assert [text for guest in party.guests for text in guest.refused] == []
        assert {id: times for id, times in party.got().items() if times > 1} == {}
        longest = max(late for guest in party.guests for _, _, late in guest.arrivals)
        print(f"{len(party.got())} messages; the longest way back took {longest:.2f} s beyond the hint")
    for server in servers:
        assert not re.search(r"error|exception|traceback|warning", server.log.read_text(), re.IGNORECASE)


async def test_a_draining_server_takes_no_visitor_and_says_when_to_come_back(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """It goes on serving those who stay."""
    with gateways(redis_server.uri, tmp_path, 2) as (one, two), Visitor(one, "acme", "alice") as alice:
        async with eventbus.connect(redis_server.uri, retain=RETAINED) as bus:
            await bus.drain_node(one.name, over=0)
        code, reason = await anyio.to_thread.run_sync(alice.closed)
        assert code == 1012
        assert re.fullmatch(r"retry-after=[01]\.\d{3}", reason)
        assert await anyio.to_thread.run_sync(turned_away, one, "acme", "bob") == 1012
        with Visitor(two, "acme", "carol") as carol:
            carol.say("hi", "person", "alice")  # who is on her way
            with Visitor(two, "acme", "alice") as back:
                assert back.read("hi") == ["hi"]
    for server in (one, two):
        assert not re.search(r"error|exception|traceback|warning", server.log.read_text(), re.IGNORECASE)
