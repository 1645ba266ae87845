"""Resume where you were, or be told exactly what is gone: named scenarios on every backend."""

from __future__ import annotations

from typing import Any

import anyio
import attrs
import pytest

import eventbus
from eventbus import (
    Bus,
    Client,
    ConfigurationError,
    Event,
    EventBusError,
    Gap,
    InvalidName,
    LimitExceeded,
    Resumed,
    Retention,
    TopicNotRetained,
)
from eventbus_memory import MemoryTransport
from tests.faults.form import FORM
from tests.support import Host, Inbox, buses, ends_with_the_bus, fresh_namespace, take, tasks, until

TOPIC = "chat.room.42"
BRIEF = "brief.room"
RETAIN = {"chat.>": Retention(events=50), "brief.>": Retention(events=3, seconds=3.0)}


async def publish(bus: Bus, first: int, last: int, topic: str = TOPIC) -> None:
    """Publish the numbers from *first* to *last*; the history has them when this returns."""
    for number in range(first, last + 1):
        await bus.publish(topic, number)
    await bus.flush()


async def numbers(client: Client, count: int) -> list[int]:
    return [event.data for event in await take(client, count)]


def position(event: Event) -> str:
    assert event.position is not None
    return event.position


async def test_g13_a_browser_that_was_away_gets_what_it_missed(uri: str) -> None:
    """It comes back at another server, with the position of the last event that it has; then it is live."""
    async with buses(uri, 3, retain=RETAIN) as (a, b, c):
        async with a.client("alice") as alice:
            answer = await alice.subscribe(TOPIC, since="")
            assert isinstance(answer, Resumed)
            assert answer.events == 0
            await publish(b, 1, 5)
            seen = await take(alice, 3)
        await publish(c, 6, 9)
        async with c.client("alice") as alice:
            answer = await alice.subscribe(TOPIC, since=position(seen[-1]))
            assert isinstance(answer, Resumed)
            assert answer.events == 6
            await publish(a, 10, 12)
            assert await numbers(alice, 9) == list(range(4, 13))
        async with b.client("alice") as alice:
            answer = await alice.subscribe(TOPIC, since=answer.position)
            assert isinstance(answer, Resumed)
            assert await numbers(alice, answer.events) == [10, 11, 12]


async def test_g13_a_reader_may_come_before_the_first_event(uri: str) -> None:
    async with buses(uri, 2, retain=RETAIN) as (a, b):
        async with a.client("alice") as alice:
            begun = await alice.subscribe(TOPIC, since="")
            assert isinstance(begun, Resumed)
        await publish(b, 1, 2)
        async with b.client("alice") as alice:
            assert await alice.subscribe(TOPIC, since=begun.position) == Resumed(
                2, position((await b.history(TOPIC))[-1])
            )
            assert await numbers(alice, 2) == [1, 2]


async def test_g13_two_tabs_of_one_user_have_a_position_each(uri: str) -> None:
    """Positions are of the reader, not of the user: no server keeps any."""
    async with buses(uri, 2, retain=RETAIN) as (a, b):
        await publish(a, 1, 6)
        places = [position(event) for event in await b.history(TOPIC)]
        async with a.client("bob.tab1") as one, b.client("bob.tab2") as two:
            await one.subscribe(TOPIC, since=places[1])
            await two.subscribe(TOPIC, since=places[3])
            await publish(b, 7, 7)
            assert await numbers(one, 5) == [3, 4, 5, 6, 7]
            assert await numbers(two, 3) == [5, 6, 7]


async def test_g13_what_was_trimmed_is_counted_exactly(uri: str) -> None:
    async with buses(uri, 2, retain=RETAIN) as (a, b):
        await publish(a, 1, 1)
        (first,) = await a.history(TOPIC)
        await publish(b, 2, 60)
        async with b.client("alice") as alice:
            gap = await alice.subscribe(TOPIC, since=position(first))
            assert isinstance(gap, Gap)
            assert (gap.missed, gap.reason, gap.source) == (9, "trimmed", f"#{TOPIC}")
            events = await take(alice, 50)
            assert [event.data for event in events] == list(range(11, 61))
            assert (gap.earliest, gap.position) == (events[0].position, events[-1].position)


async def test_g13_a_token_from_yesterday(uri: str) -> None:
    """All events have ended: who missed none is told so, and who missed some learns how many."""
    async with buses(uri, 2, retain=RETAIN) as (a, b):
        await publish(a, 1, 5, BRIEF)
        places = [position(event) for event in await a.history(BRIEF)]

        async def ended() -> bool:
            return not await b.history(BRIEF)

        await until(ended)
        async with a.client("alice") as alice:
            answer = await alice.subscribe(BRIEF, since=places[-1])
            assert isinstance(answer, Resumed)
            assert answer.events == 0
        async with b.client("alice") as alice:
            gap = await alice.subscribe(BRIEF, since=places[0])
            assert isinstance(gap, Gap)
            assert (gap.missed, gap.reason, gap.earliest) == (2, "trimmed", None)


@pytest.mark.parametrize("token", ["rubbish", "x" * 1000, "2asj0qhjygmu:1-b4h02k7rw", "é", "a:b"])
async def test_g12_another_text_is_no_token(uri: str, token: str) -> None:
    async with buses(uri, 2, retain=RETAIN) as (a, b):
        await publish(a, 1, 2)
        async with b.client("alice") as alice:
            gap = await alice.subscribe(TOPIC, since=token)
            assert isinstance(gap, Gap)
            assert (gap.reason, gap.missed) == ("unknown_position", 0)
            assert await numbers(alice, 2) == [1, 2]


async def test_g12_a_token_of_another_topic_gives_none_of_its_events(uri: str) -> None:
    async with buses(uri, 2, retain=RETAIN) as (a, b):
        await publish(a, 1, 3, "chat.secret")
        await publish(a, 4, 5)
        (first, *_) = await b.history("chat.secret")
        async with b.client("alice") as alice:
            gap = await alice.subscribe(TOPIC, since=position(first))
            assert isinstance(gap, Gap)
            assert gap.reason == "unknown_position"
            assert await numbers(alice, 2) == [4, 5]


async def test_g13_subscribers_without_a_position_get_retained_topics_too(uri: str) -> None:
    """Handlers and patterns receive each event once, also beside others, and each event knows its position."""
    async with buses(uri, 2, retain=RETAIN) as (a, b):
        exact, wide, everything = Inbox(), Inbox(), Inbox()
        a.on(TOPIC)(exact)
        b.on("chat.*.42")(wide)
        b.on(">")(everything)
        await a.ready()
        await b.ready()
        await publish(a, 1, 20)
        await publish(b, 21, 40)
        await a.publish("plain", 0)
        await until(lambda: len(exact.events) == len(wide.events) == 40 and len(everything.events) == 41)
        places = [position(event) for event in await a.history(TOPIC)]
        for inbox in (exact, wide):
            assert [event.position for event in inbox.events] == places
            assert [event.data for event in inbox.events if event.data <= 20] == list(range(1, 21))
            assert {event.topic for event in inbox.events} == {TOPIC}
        assert [event.position for event in everything.events if event.topic == "plain"] == [None]


async def test_g6_receivers_share_nothing(uri: str) -> None:
    async with buses(uri, 1, retain=RETAIN) as (bus,), bus.client("one") as one, bus.client("two") as two:
        for client in (one, two):
            await client.subscribe(TOPIC)
        await bus.publish(TOPIC, {"list": []}, headers={"a": "b"})
        (first,), (second,) = await take(one, 1), await take(two, 1)
        first.data["list"].append(1)
        assert first.headers is not None
        first.headers["a"] = "changed"
        assert second.data == {"list": []}
        assert second.headers == {"a": "b"}


async def test_g13_a_durable_publish_returns_once_the_history_has_the_event(uri: str) -> None:
    async with buses(uri, 2, retain=RETAIN) as (a, b):
        for number in range(5):
            await a.publish(TOPIC, number, durable=True)
            assert [event.data for event in await b.history(TOPIC, limit=1)] == [number]
        async with b.client("alice") as alice:
            await alice.publish(TOPIC, "from alice", durable=True)
        assert [(event.source, event.data) for event in await a.history(TOPIC, limit=2)] == [
            ("@n0", 4),
            ("alice", "from alice"),
        ]


async def test_g13_a_bus_that_closes_leaves_nothing_behind(uri: str) -> None:
    """What was accepted before is in the history, and the node's own handlers have had it."""
    namespace = fresh_namespace()
    async with eventbus.connect(uri, namespace=namespace, retain=RETAIN) as stays:
        mine = Inbox()
        async with eventbus.connect(uri, namespace=namespace, retain=RETAIN) as leaves:
            leaves.on(TOPIC)(mine)
            for number in range(40):
                await leaves.publish(TOPIC, number)
        assert [event.data for event in mine.events] == list(range(40))
        assert [event.data for event in await stays.history(TOPIC)] == list(range(40))


@pytest.mark.parametrize("question", ["history", "subscribe"])
async def test_a_question_to_a_history_that_hangs_ends_with_the_bus(
    uri: str, question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with buses(uri, 1, retain=RETAIN) as (other,), tasks() as group:
        history = type(other._node.transport.history)
        hanging = list[str]()

        async def hang(_: Any, __: Any) -> None:
            hanging.append(question)
            await anyio.sleep_forever()

        for name in ("append", "read", "positions"):
            monkeypatch.setattr(history, name, hang)
        host = Host(uri, namespace=other.namespace, node="closing", retain=RETAIN, close_timeout=0.1)
        bus = await host.open(group)
        alice = await bus.client("alice").open()

        async def ask() -> None:
            await (bus.history(TOPIC) if question == "history" else alice.subscribe(TOPIC, since=""))

        await ends_with_the_bus(ask, hanging, host, group, monkeypatch)


async def test_retained_events_are_counted(uri: str) -> None:
    async with buses(uri, 2, retain=RETAIN) as (a, b), b.client("alice") as alice:
        await alice.subscribe(TOPIC, since="")
        before = b.stats().delivered
        await publish(a, 1, 10)
        await take(alice, 10)
        sender = a.stats()
        assert (sender.accepted, sender.retained_events) == (10, 10)
        assert 1 <= sender.retained_entries <= 10
        assert (sender.waiting_events, sender.waiting_appends, sender.append_failures) == (0, 0, 0)
        assert b.stats().delivered >= before + 10
        assert (b.stats().resumes, b.stats().history_gaps) == (0, {})


async def test_readers_that_come_back_are_counted_by_what_they_are_told(uri: str) -> None:
    async with buses(uri, 1, retain={TOPIC: Retention(events=5)}) as (bus,):
        await publish(bus, 1, 3)
        known = position((await bus.history(TOPIC))[0])
        for since in (known, "no position"):
            async with bus.client("alice") as alice:
                await alice.subscribe(TOPIC, since=since)
        await publish(bus, 4, 20)
        async with bus.client("alice") as alice:
            assert isinstance(await alice.subscribe(TOPIC, since=known), Gap)
        stats = bus.stats()
        assert (stats.resumes, stats.history_gaps) == (3, {"trimmed": 1, "unknown_position": 1})
        assert stats.history_reads >= 4


async def test_streams_beyond_the_bound_are_counted(uri: str) -> None:
    async with buses(uri, 1, retain=RETAIN, max_retained_topics=1) as (bus,):
        await bus.publish("chat.one")
        for number in range(3):
            with pytest.raises(LimitExceeded):
                await bus.publish(f"chat.more.{number}")
        assert (bus.stats().streams_refused, bus.stats().accepted) == (3, 1)


async def test_g13_many_clients_resume_at_once(uri: str) -> None:
    async with buses(uri, 2, retain=RETAIN) as (a, b), tasks() as group:
        await publish(a, 1, 30)
        places = [position(event) for event in await a.history(TOPIC)]
        results: dict[int, list[int]] = {}

        async def come(number: int) -> None:
            async with (a, b)[number % 2].client(f"c{number}") as client:
                await client.subscribe(TOPIC, since=places[number % 30])
                results[number] = await numbers(client, 30 - number % 30)

        for number in range(FORM.resuming):
            group.start_soon(come, number)
        await anyio.sleep(0.05)
        await publish(b, 31, 31)
        await until(lambda: len(results) == FORM.resuming)
        assert results == {number: list(range(number % 30 + 2, 32)) for number in range(FORM.resuming)}


async def test_a_client_resumes_a_topic_once_at_a_time(uri: str) -> None:
    """A second call while the first reads is refused, and does not disturb it."""
    async with buses(uri, 1, retain=RETAIN) as (bus,), bus.client("alice") as alice, tasks() as group:
        await publish(bus, 1, 3)
        answers: list[Resumed | Gap] = []
        refused: list[str] = []

        async def resume() -> None:
            try:
                answers.append(await alice.subscribe(TOPIC, since=""))
            except EventBusError as error:
                refused.append(str(error))

        group.start_soon(resume)
        group.start_soon(resume)
        await until(lambda: len(answers) + len(refused) == 2)
        assert len(answers) == 1
        assert "already" in refused[0]
        await publish(bus, 4, 4)
        assert await numbers(alice, 1) == [4]


async def test_a_topic_that_is_not_retained_has_no_history(uri: str) -> None:
    async with buses(uri, 1, retain=RETAIN) as (bus,), bus.client("alice") as alice:
        for call in (
            alice.subscribe("plain", since=""),
            bus.history("plain"),
            bus.publish("plain", durable=True),
            alice.publish("plain", durable=True),
        ):
            with pytest.raises(TopicNotRetained, match="topic 'plain' is not retained"):
                await call
        with pytest.raises(InvalidName, match="one topic at a time"):
            await alice.subscribe("chat.>", since="")
        with pytest.raises(eventbus.OptionError, match="limit"):
            await bus.history(TOPIC, limit=0)
        await alice.subscribe("chat.*.42")
        with pytest.raises(EventBusError, match=r"receives topic 'chat.room.42' already"):
            await alice.subscribe(TOPIC, since="")
        await publish(bus, 1, 1)
        assert await numbers(alice, 1) == [1]
    async with buses(uri, 1) as (bus,), bus.client("alice") as alice:
        with pytest.raises(TopicNotRetained):
            await alice.subscribe(TOPIC, since="")
        with pytest.raises(TopicNotRetained):
            await bus.history(TOPIC)
        with pytest.raises(TopicNotRetained):
            await bus.publish(TOPIC, durable=True)


async def test_g13_a_cancelled_resume_leaves_nothing(uri: str) -> None:
    async with buses(uri, 1, retain=RETAIN) as (bus,), bus.client("alice") as alice:
        await publish(bus, 1, 3)
        for seconds in (0.0, 0.0005, 0.001, 0.002):
            with anyio.move_on_after(seconds):
                await alice.subscribe(TOPIC, since="")
                await alice.unsubscribe(TOPIC)
        answer = await alice.subscribe(TOPIC, since=position((await bus.history(TOPIC))[0]))
        assert isinstance(answer, Resumed)
        await publish(bus, 4, 4)
        assert await numbers(alice, 3) == [2, 3, 4]


async def test_g11_a_node_may_append_to_so_many_topics(uri: str) -> None:
    async with buses(uri, 1, retain=RETAIN, max_retained_topics=3) as (bus,):
        for number in range(3):
            await bus.publish(f"brief.{number}")
        with pytest.raises(LimitExceeded, match="max_retained_topics is 3"):
            await bus.publish("brief.3")
        await bus.publish("brief.2")

        async def accepted() -> bool:
            try:
                await bus.publish("brief.3")
            except LimitExceeded:
                return False
            return True

        await until(accepted, "topics whose events have ended do not count")


async def test_g11_a_slow_reader_is_told_what_it_lost(uri: str) -> None:
    """A mailbox keeps its bound, and the reader can resume from its last position."""
    async with buses(uri, 2, retain=RETAIN, mailbox_events=10) as (a, b):
        async with a.client("alice") as alice:
            await alice.subscribe(TOPIC, since="")
            await publish(b, 1, 40)
            first = await alice.receive()
            await until(lambda: a.stats().dropped > 0)
            assert isinstance(first.data, int | eventbus.Dropped)
        async with b.client("alice") as alice:
            await alice.subscribe(TOPIC, since=position((await a.history(TOPIC))[35]))
            assert await numbers(alice, 4) == [37, 38, 39, 40]


async def test_g13_servers_are_replaced_one_by_one_under_load(uri: str) -> None:
    """Clients move with their positions while others publish: each event comes once."""
    options: dict[str, Any] = {"namespace": fresh_namespace(), "retain": {"chat.>": Retention(events=5000)}}
    count, clients = 120, FORM.moving
    got: list[list[int]] = [[] for _ in range(clients)]
    async with tasks() as group:
        hosts = [Host(uri, node=f"s{number}", **options) for number in range(3)]
        nodes = [await host.open(group) for host in hosts]
        generation = 0

        async def stay(name: int) -> None:
            since, answers = "", []
            while len(got[name]) < count:
                now, bus = generation, nodes[(name + generation) % 3]
                try:
                    async with bus.client(f"c{name}") as client:
                        answer = await client.subscribe(TOPIC, since=since)
                        answers.append(answer)
                        since = since or answer.position or ""
                        while len(got[name]) < count and now == generation:
                            with anyio.move_on_after(0.05):
                                event = await client.receive()
                                got[name].append(event.data)
                                since = position(event)
                except EventBusError:
                    await anyio.sleep(0.01)
            assert all(isinstance(answer, Resumed) for answer in answers), answers

        for name in range(clients):
            group.start_soon(stay, name)
        await until(lambda: sum(len(bus._node.ownership.clients) for bus in nodes) == clients)
        await anyio.sleep(0.2)
        publisher = eventbus.connect(uri, node="publisher", **options)
        async with publisher:
            for number in range(count):
                await publisher.publish(TOPIC, number)
                await anyio.sleep(0.005)
                if number % 30 == 20 and generation < 3:
                    old = hosts[generation]
                    hosts[generation] = Host(uri, node=f"t{generation}", **options)
                    nodes[generation] = await hosts[generation].open(group)
                    generation += 1
                    await old.close()
            await until(lambda: all(len(each) >= count for each in got))
        assert got == [list(range(count))] * clients
        for host in hosts:
            await host.close()


def test_a_backend_without_a_history_says_so() -> None:
    class Plain(MemoryTransport):
        capabilities = attrs.evolve(MemoryTransport.capabilities, history=False)

    eventbus.register("plain", Plain)
    eventbus.connect("plain://")
    with pytest.raises(ConfigurationError, match="the backend of plain:// keeps no history"):
        eventbus.connect("plain://", retain=RETAIN)
