"""What is sent to a retained client is kept, whether a node holds the client or not."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

import eventbus
from eventbus import Bus, Client, ClientNotFound, Event, Gap, InvalidName, OptionError, Resumed, Retention
from eventbus_core.model.retention import RetainedClients
from tests.support import DEADLINE, Hooked, Host, Inbox, buses, fresh_namespace, take, tasks, until

BOB = "acme/bob"
RETAIN = {"acme/*": Retention(events=50), "brief": Retention(events=3)}


async def send(bus: Bus, first: int, last: int, target: str = BOB) -> None:
    """Send the numbers from *first* to *last*; the history has them when this returns."""
    for number in range(first, last + 1):
        await bus.send(target, "count", number)
    await bus.flush()


async def numbers(client: Client, count: int) -> list[int]:
    return [event.data for event in await take(client, count)]


def position(event: Event) -> str:
    assert event.position is not None
    return event.position


async def begin(bus: Bus, name: str = BOB) -> str:
    """Return the first position of a client, which is not held afterwards."""
    async with bus.client(name, since="") as client:
        assert isinstance(client.resumed, Resumed)
        return client.resumed.position


async def test_g13_what_is_sent_while_no_node_holds_the_client_is_kept(uri: str) -> None:
    async with buses(uri, 3, retain_clients=RETAIN) as (a, b, c):
        await send(a, 1, 2)
        token = await begin(b)
        await send(a, 3, 5)
        await send(c, 6, 7)
        async with c.client(BOB, since=token) as bob:
            assert isinstance(bob.resumed, Resumed)
            assert bob.resumed.events == 5
            await send(b, 8, 9)
            events = await take(bob, 7)
            assert [event.data for event in events] == list(range(3, 10))
            assert {(event.target, event.type, event.topic) for event in events} == {(BOB, "count", None)}
            assert {event.source for event in events} == {"@n0", "@n1", "@n2"}
        async with a.client(BOB, since=position(events[4])) as bob:
            assert await numbers(bob, 2) == [8, 9]


async def test_g1_only_the_client_gets_it(uri: str) -> None:
    """No other client, handler or pattern does; clients that are not retained are as ever."""
    async with buses(uri, 2, retain_clients=RETAIN, retain={"chat.>": Retention()}) as (a, b):
        others = Inbox()
        for bus in (a, b):
            bus.on(">")(others)
            await bus.ready()
        token = await begin(a, "acme/eve")
        async with b.client(BOB) as bob, a.client("acme/eve", since=token) as eve, a.client("eve") as plain:
            for pattern in (">", "*", "$inbox.>", "$history.>"):
                await eve.subscribe(pattern)
            with pytest.raises(InvalidName):
                await eve.subscribe("$\x1finbox.acme/bob")
            await send(a, 1, 20)
            await a.send("eve", "hello")
            assert await numbers(bob, 20) == list(range(1, 21))
            assert [event.type for event in await take(plain, 1)] == ["hello"]
            await a.send("acme/eve", "last")
            await b.publish("chat.room", 7, durable=True)
            assert {event.type for event in await take(eve, 2)} == {"last", "chat.room"}
            await until(lambda: len(others.events) == 2)
            assert [event.type for event in others.events] == ["chat.room"] * 2
        with pytest.raises(ClientNotFound):
            await b.send("eve", "hello")


async def test_g8_a_client_moves_with_its_position(uri: str) -> None:
    """Nothing is lost at a takeover, or at the planned end of the node that holds the client."""
    options = {"namespace": fresh_namespace(), "retain_clients": RETAIN}
    got: list[int] = []
    async with tasks() as group:
        hosts = [Host(uri, node=f"n{number}", **options) for number in range(3)]
        buses_ = [await host.open(group) for host in hosts]
        sender = buses_[2]
        token, sent = await begin(buses_[0]), 0
        for node in (0, 1, 0, 1):
            async with buses_[node].client(BOB, since=token) as bob:
                assert isinstance(bob.resumed, Resumed)
                for _ in range(4):
                    sent += 1
                    await sender.send(BOB, "count", sent)
                for event in await take(bob, 3):
                    got.append(event.data)
                    token = position(event)
        async with buses_[1].client(BOB, since=token) as bob:
            await take(bob, sent - len(got))
            await sender.send(BOB, "count", sent + 1)
            await hosts[1].close()
        await sender.send(BOB, "count", sent + 2)
        async with buses_[0].client(BOB, since=token) as bob:
            got += await numbers(bob, sent + 2 - len(got))
        assert got == list(range(1, sent + 3))
        for host in (hosts[0], hosts[2]):
            await host.close()


async def test_g5_what_expires_before_it_is_handled_is_reported_to_its_sender(uri: str) -> None:
    lost = Hooked()
    async with buses(uri, 2, retain_clients=RETAIN) as (a, b):
        a.on_undeliverable(lost)
        token = await begin(b)
        await a.send(BOB, "short", 1, expires=0.01)
        await a.send(BOB, "long", 2, expires=DEADLINE)
        await a.flush()
        await anyio.sleep(0.05)
        async with b.client(BOB, since=token) as bob:
            assert [event.type for event in await take(bob, 1)] == ["long"]
            await until(lambda: [(event.type, event.reason) for event in lost] == [("short", "expired")])


async def test_g13_what_was_trimmed_is_counted(uri: str) -> None:
    async with buses(uri, 2, retain_clients=RETAIN) as (a, b):
        token = await begin(a, "brief")
        await send(b, 1, 8, "brief")
        async with a.client("brief", since=token) as client:
            assert isinstance(client.resumed, Gap)
            assert (client.resumed.missed, client.resumed.reason, client.resumed.source) == (5, "trimmed", "brief")
            assert await numbers(client, 3) == [6, 7, 8]


async def test_requests_to_a_retained_client_are_answered(uri: str) -> None:
    async with buses(uri, 2, retain_clients=RETAIN) as (a, b), b.client(BOB) as bob:

        async def answer() -> None:
            await bob.reply(await bob.receive(), "pong")

        async with tasks() as group:
            group.start_soon(answer)
            assert (await a.request(BOB, "ping")).data == "pong"
    async with buses(uri, 1, retain_clients=RETAIN) as (bus,):
        with pytest.raises(ClientNotFound):
            await bus.request(BOB, "ping")


async def test_a_client_that_is_not_retained_cannot_resume(uri: str) -> None:
    for options in ({}, {"retain_clients": RETAIN}, {"retain": {"chat.>": Retention()}}):
        async with buses(uri, 1, **options) as (bus,):
            with pytest.raises(OptionError, match="client 'eve' is not retained"):
                await bus.client("eve", since="").open()
            async with bus.client("eve", takeover=False) as eve:  # it was released
                assert eve.resumed is None


async def test_all_nodes_retain_the_same_clients(uri: str) -> None:
    namespace = fresh_namespace()
    async with eventbus.connect(uri, namespace=namespace, retain_clients=RETAIN):
        with pytest.raises(eventbus.NamespaceMismatch, match="the retention"):
            await eventbus.connect(uri, namespace=namespace).open()


@pytest.mark.parametrize(
    ("name", "matching", "others"),
    [
        ("acme/*", ["acme/bob", "acme/bob.phone", "acme/x"], ["other/bob", "bob", "acme"]),
        ("*/bob", ["acme/bob", "x/bob"], ["bob", "acme/bobby"]),
        ("bob", ["bob"], ["bob.x", "acme/bob"]),
        ("acme/user-*", ["acme/user-1"], ["acme/bob"]),
    ],
)
def test_a_star_stands_for_text_without_a_slash(name: str, matching: list[str], others: list[str]) -> None:
    retained = RetainedClients.parse({name: Retention()})
    assert all(retained.of(client) is not None for client in matching)
    assert not any(retained.of(client) for client in others)
    assert str(RetainedClients.parse(str(retained))) == str(retained)


@pytest.mark.parametrize("value", ["acme/*", "acme/*=200/300", 3])
def test_the_error_names_the_option(value: Any) -> None:
    with pytest.raises(eventbus.OptionError, match=r"option 'retain_clients' is .* such as 'acme/\*=200/300/1048576'"):
        eventbus.connect("memory://", retain_clients=value)


@pytest.mark.parametrize("name", ["@node", "a b", "", "a/b/c"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises((OptionError, InvalidName)):
        eventbus.connect("memory://", retain_clients={name: Retention()})
