"""Requests: an answer, or the reason why there will be none."""

from __future__ import annotations

import anyio
import pytest

import eventbus
from eventbus import (
    Bus,
    ClientNotFound,
    ClientTakenOver,
    Event,
    EventBusError,
    EventDataError,
    InvalidName,
    RequestFailed,
    RequestTimeout,
)
from tests.support import DEADLINE, Hooked, Host, Inbox, buses, fence, fresh_namespace, take, tasks, until


async def _echo(bus: Bus, client: eventbus.Client) -> None:
    async for event in client:
        if event.reply_to is not None:
            await client.reply(event, ["echo", event.data], headers=event.headers)


async def test_a_client_answers(uri: str) -> None:
    """A request to a client, near or far, returns the event of its answer, data, headers and all."""
    async with buses(uri, 2) as nodes, nodes[1].client("bob") as bob, tasks() as group:
        group.start_soon(_echo, nodes[1], bob)
        for bus in nodes:
            answer = await bus.request("bob", "ping", {"n": 1}, timeout=DEADLINE, headers={"h": "1"})
            assert answer.data == ["echo", {"n": 1}]
            assert answer.headers == {"h": "1"}
            assert (answer.type, answer.source, answer.target) == ("ping", "bob", bus.address)
            assert bus.stats().pending_requests == 0


async def test_a_node_answers(uri: str) -> None:
    """A request to a node is answered by its handler, near or far, also for the handler's own node."""
    async with buses(uri, 2) as nodes:

        @nodes[1].on("ping")
        async def pong(event: Event) -> None:
            await nodes[1].reply(event, event.data + 1)

        for bus in nodes:
            answer = await bus.request("@n1", "ping", 1, timeout=DEADLINE)
            assert (answer.data, answer.source) == (2, "@n1")


async def test_requests_in_parallel_get_their_own_answers(uri: str) -> None:
    """Answers find their requests, in whatever order they come."""
    async with buses(uri, 2) as (a, b):
        questions: list[Event] = []

        @b.on("ping")
        async def pong(event: Event) -> None:
            questions.append(event)
            if len(questions) == 100:
                for question in reversed(questions):
                    await b.reply(question, question.data)

        async def ask(number: int) -> None:
            answers[number] = (await a.request("@n1", "ping", number, timeout=DEADLINE)).data

        answers: dict[int, int] = {}
        async with anyio.create_task_group() as group:
            for number in range(100):
                group.start_soon(ask, number)
        assert answers == {number: number for number in range(100)}


async def test_a_request_without_a_receiver_fails(uri: str) -> None:
    """A request to a client or node that is not there raises at once."""
    async with buses(uri, 2) as (a, _):
        for target in ("absent", "@absent"):
            with pytest.raises(ClientNotFound, match="'absent'"):
                await a.request(target, "ping", timeout=DEADLINE)
        assert a.stats().pending_requests == 0


async def test_a_request_without_an_answer_times_out(uri: str) -> None:
    """A request that is handled but not answered raises after its timeout; an answer after that is dropped."""
    async with buses(uri, 2) as nodes, nodes[1].client("bob") as bob:
        for bus in nodes:
            await bus.send("bob", "n")  # the route is known from then on: a request is sent before its time is over
        await take(bob, 2)
        for bus in nodes:
            with pytest.raises(RequestTimeout, match=r"the answer of 'bob' to 'ping' did not arrive within 0\.05 s"):
                await bus.request("bob", "ping", timeout=0.05)
            assert bus.stats().pending_requests == 0
        lost = Hooked()
        nodes[0].on_undeliverable(lost)
        nodes[0].on(">")(inbox := Inbox())
        for event in await take(bob, 2):
            await bob.reply(event, "too late")
        await fence(nodes, nodes)
        assert [event.type for event in inbox.events if event.type != "fence.lowered"] == []
        assert not lost


async def test_a_handler_that_raises_fails_the_request(uri: str) -> None:
    """If the handler of a request raises, the asker is told at once, and the handler's node counts it."""
    async with buses(uri, 2) as nodes:

        @nodes[1].on("ping")
        async def pong(event: Event) -> None:
            raise ZeroDivisionError("in the handler, with a secret")

        def client_handler(event: Event) -> None:
            raise KeyError

        async with nodes[1].client("bob", handler=client_handler):
            for bus in nodes:
                with pytest.raises(RequestFailed, match="ZeroDivisionError") as caught:
                    await bus.request("@n1", "ping", timeout=DEADLINE)
                assert caught.value.target == "@n1"
                assert "secret" not in str(caught.value)
                with pytest.raises(RequestFailed, match=r"the request to 'bob' failed: .*KeyError") as caught:
                    await bus.request("bob", "ping", timeout=DEADLINE)
                assert caught.value.target == "bob"
        assert nodes[1].stats().handler_failures == 4


async def test_data_that_a_typed_handler_refuses_fails_the_request(uri: str) -> None:
    """A request whose data is not what the handler asks for is answered with that."""
    async with buses(uri, 2) as (a, b):
        b.on("ping", data=int)(Inbox())
        with pytest.raises(RequestFailed, match="EventDataError"):
            await a.request("@n1", "ping", "no number", timeout=DEADLINE)


@pytest.mark.parametrize("near", [True, False], ids=["near", "far"])
async def test_g5_a_client_that_leaves_fails_its_requests(uri: str, near: bool) -> None:
    """What a client had not yet taken when its handle was closed fails at once, by whoever asked."""
    async with buses(uri, 2) as nodes, tasks() as group:
        asker = nodes[1 if near else 0]
        failed: list[EventBusError] = []

        async def ask() -> None:
            try:
                await asker.request("bob", "ping", timeout=DEADLINE)
            except EventBusError as error:
                failed.append(error)

        async with nodes[1].client("bob") as bob:
            for _ in range(3):
                group.start_soon(ask)
            await until(lambda: bob._held.mailbox.count == 3)
        await until(lambda: len(failed) == 3)
        assert {type(error) for error in failed} == {RequestFailed}
        assert "client gone" in str(failed[0])
        lost = Hooked()
        asker.on_undeliverable(lost)
        await fence(nodes, nodes)
        assert not lost, "the asker has been told already"


async def test_g5_a_node_that_leaves_fails_its_requests(uri: str) -> None:
    """Requests to a node that has left fail or find no node; none waits for its timeout."""
    namespace = fresh_namespace()
    async with buses(uri, 1, namespace=namespace) as (a,), tasks() as group:
        host = Host(uri, node="leaver", namespace=namespace)
        b = await host.open(group)

        @b.on("ping")
        async def pong(event: Event) -> None:
            await b.reply(event)

        await a.request("@leaver", "ping", timeout=DEADLINE)
        await host.close()
        for _ in range(2):  # the first finds a stale route, or not
            with pytest.raises((RequestFailed, ClientNotFound)):
                await a.request("@leaver", "ping", timeout=DEADLINE)
        with pytest.raises(ClientNotFound):
            await a.request("@leaver", "ping", timeout=DEADLINE)


async def test_g5_a_request_that_no_handler_is_for_fails(uri: str) -> None:
    """A node without a handler for a request says so, instead of letting the asker wait."""
    async with buses(uri, 2) as nodes:
        nodes[1].on("other")(Inbox())
        nodes[1].on("ping", local=True)(Inbox())
        for bus in nodes:
            with pytest.raises(RequestFailed, match="no handler"):
                await bus.request("@n1", "ping", timeout=DEADLINE)


async def test_a_request_follows_its_client(uri: str) -> None:
    """A request to a client that moves meanwhile is answered where the client is now."""
    async with buses(uri, 3) as (a, b, c), tasks() as group, b.client("bob") as old:
        answers: list[object] = []

        async def ask() -> None:
            answers.append((await a.request("bob", "ping", timeout=DEADLINE)).data)

        for _ in range(3):
            group.start_soon(ask)
        await until(lambda: old._held.mailbox.count == 3)
        async with c.client("bob") as new:
            for event in await take(new, 3):
                await new.reply(event, "from the new one")
            await until(lambda: len(answers) == 3)
        assert answers == ["from the new one"] * 3
        with pytest.raises(ClientTakenOver):
            await old.receive()


async def test_only_requests_are_answered(uri: str) -> None:
    """A reply to an event that is no request is an error that says so."""
    async with buses(uri, 2) as (a, b), b.client("bob") as bob:
        await a.send("bob", "hello")
        (event,) = await take(bob, 1)
        for answer in (bob.reply(event), b.reply(event)):
            with pytest.raises(EventBusError, match="is not a request"):
                await answer


async def test_the_first_answer_counts(uri: str) -> None:
    """If several handlers answer, the asker gets the first; the others have no effect."""
    async with buses(uri, 2) as nodes:
        for number in range(3):

            @nodes[1].on("ping")
            async def pong(event: Event, number: int = number) -> None:
                await nodes[1].reply(event, number)

        for bus in nodes:
            answer = await bus.request("@n1", "ping", timeout=DEADLINE)
            assert answer.data in range(3)
        await fence(nodes, nodes)
        assert [bus.stats().undeliverable for bus in nodes] == [0, 0]


async def test_bad_requests_leave_nothing_pending(uri: str) -> None:
    """A request that is refused for its names or its data is not waited for."""
    async with buses(uri, 1, max_event_size=1000) as (bus,):
        with pytest.raises(InvalidName):
            await bus.request("a/b/c", "ping")
        with pytest.raises(InvalidName):
            await bus.request("alice", "*")
        with pytest.raises(EventDataError):
            await bus.request("alice", "ping", object())
        with pytest.raises(eventbus.EventTooLarge):
            await bus.request("alice", "ping", "x" * 2000)
        assert bus.stats().pending_requests == 0


async def test_g11_requests_are_bounded(uri: str) -> None:
    """No more than ``max_requests`` wait at a time; the next is refused, and those that wait are not harmed."""
    async with buses(uri, 2, max_requests=3) as (a, b), b.client("bob") as bob, tasks() as group:
        answers: list[object] = []

        async def ask() -> None:
            answers.append((await a.request("bob", "ping", timeout=DEADLINE)).data)

        for _ in range(3):
            group.start_soon(ask)
        events = await take(bob, 3)
        with pytest.raises(EventBusError, match="max_requests"):
            await a.request("bob", "ping", timeout=DEADLINE)
        for event in events:
            await bob.reply(event, 1)
        await until(lambda: answers == [1, 1, 1])
