"""Requests whose receiver ends without an answer fail at once, and name what was asked and the reason."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

import eventbus
from eventbus import Bus, Event, EventDataError, RequestFailed
from tests.support import DEADLINE, buses, publish_by, take, until

ASKING = True


async def _fails(bus: Bus, target: str, reason: str) -> None:
    with anyio.fail_after(DEADLINE), pytest.raises(RequestFailed) as failure:
        await bus.request(target, "n", timeout=10 * DEADLINE)
    assert failure.value.target == target
    assert reason in failure.value.reason


@pytest.mark.parametrize("asker", [0, 1], ids=["same node", "other node"])
@pytest.mark.parametrize("how", ["released", "lingers", "taken over"])
async def test_g5_a_request_fails_when_the_handle_that_took_it_ends(uri: str, how: str, asker: int) -> None:
    async with buses(uri, 2) as nodes, anyio.create_task_group() as group:
        bob = await nodes[0].client("bob", linger=DEADLINE if how == "lingers" else 0.0).__aenter__()
        group.start_soon(_fails, nodes[asker], "bob", "taken over" if how == "taken over" else "released")
        await take(bob, 1)
        if how == "taken over":
            async with nodes[1].client("bob"):
                await until(lambda: nodes[asker].stats().pending_requests == 0)
        else:
            await bob.aclose()


@pytest.mark.parametrize("plain", [True, False])
async def test_g5_a_request_fails_when_its_client_with_a_handler_is_released(uri: str, plain: bool) -> None:
    async with buses(uri, 2) as (a, b), anyio.create_task_group() as group:
        taken = anyio.Event()

        async def work(_: Event) -> None:
            taken.set()

        async with b.client("bob", handler=(lambda event: taken.set()) if plain else work):
            group.start_soon(_fails, a, "bob", "released")
            await taken.wait()


@pytest.mark.parametrize("to", ["client", "node"])
async def test_g5_a_request_fails_when_the_node_of_its_receiver_leaves(uri: str, to: str) -> None:
    async with buses(uri, 1) as (a,), anyio.create_task_group() as group:
        leaver = eventbus.connect(uri, namespace=a.namespace, node="leaver")
        async with leaver as b:
            taken = anyio.Event()
            b.on("n")(lambda event: taken.set())
            await b.ready()
            await b.client("bob", handler=lambda event: taken.set()).__aenter__()
            if to == "node":
                group.start_soon(_fails, a, b.address, "node 'leaver' left")
            else:
                group.start_soon(_fails, a, "bob", "released")
            await taken.wait()


async def test_g5_a_request_fails_when_the_node_that_took_it_dies(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its event was confirmed long ago: the request alone makes the asker look for the node."""

    async def stall(*_: Any) -> None:
        await anyio.sleep_forever()

    async with buses(uri, 1, lease=4.5) as (a,), anyio.create_task_group() as group:
        dying = eventbus.connect(uri, namespace=a.namespace, node="dying", lease=4.5, close_timeout=0.1)
        async with dying as b:
            bob = await b.client("bob").__aenter__()
            group.start_soon(_fails, a, "bob", "node 'dying' died")
            await take(bob, 1)
            queue = a._node.outbox.known("dying")
            assert queue is not None
            await until(lambda: queue.session.handled == queue.session.next)
            monkeypatch.setattr(b._node.directory, "leave", stall)
            publish_by(monkeypatch, b._node.transport, stall)


async def test_an_answered_request_does_not_fail_when_its_receiver_ends(uri: str) -> None:
    async with buses(uri, 2) as (a, b), anyio.create_task_group() as group:
        answers: list[object] = []

        async def ask() -> None:
            answers.append((await a.request("bob", "n", timeout=DEADLINE)).data)

        async with b.client("bob") as bob:
            for number in range(2):
                group.start_soon(ask)
                await bob.reply((await take(bob, 1))[0], number)
            await until(lambda: len(b._node.requests.taken.take_all()) == 0)
        await until(lambda: sorted(answers, key=str) == [0, 1])


async def test_g5_a_request_fails_when_the_answer_could_not_be_sent_and_its_receiver_ends(uri: str) -> None:
    async with buses(uri, 2) as (a, b), anyio.create_task_group() as group, b.client("bob") as bob:
        group.start_soon(_fails, a, "bob", "released")
        (request,) = await take(bob, 1)
        with pytest.raises(EventDataError):
            await bob.reply(request, object())


async def test_g11_requests_that_are_never_answered_take_bounded_memory(uri: str) -> None:
    async with buses(uri, 1, max_requests=5) as (bus,), bus.client("bob") as bob:
        for _ in range(20):
            async with anyio.create_task_group() as group:
                group.start_soon(bus.request, "bob", "n", b"x" * 1000)
                await take(bob, 1)
                group.cancel_scope.cancel()
        taken = bus._node.requests.taken.take_all()
        assert len(taken) == 5
        assert all(len(memoryview(request.raw)) == 1 for request in taken)


async def test_a_request_that_several_handlers_took_fails_once_when_their_node_leaves(uri: str) -> None:
    async with buses(uri, 1) as (a,), anyio.create_task_group() as group:
        leaver = eventbus.connect(uri, namespace=a.namespace, node="leaver")
        async with leaver as b:
            taken: list[Event] = []
            for pattern in ("n", "*", ">"):
                b.on(pattern)(taken.append)
            await b.ready()
            group.start_soon(_fails, a, b.address, "node 'leaver' left")
            await until(lambda: len(taken) == 3)
