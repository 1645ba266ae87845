"""Answers of the directory that are lost, and calls that it refuses: nothing stays taken in a name that gave up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

import eventbus
from eventbus import ConfigurationError, TransportUnavailable
from eventbus_core.backend import Claim, Terms
from tests.support import DEADLINE, Hooked, buses, fresh_namespace, take, until

ASKING = True


async def test_g9_an_opening_whose_entry_was_not_answered_leaves_its_id_free(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory has entered the node, the connection breaks: the node leaves again before the opening raises."""
    async with buses(uri, 1, lease=DEADLINE) as (other,):
        bus = eventbus.connect(uri, node="n", namespace=other.namespace, lease=DEADLINE)
        enter = bus._node.directory.enter

        async def broken(node: str, lease: float, terms: Terms) -> int:
            monkeypatch.undo()
            await enter(node, lease, terms)
            raise TransportUnavailable("the answer was lost")

        monkeypatch.setattr(bus._node.directory, "enter", broken)
        with pytest.raises(TransportUnavailable, match="the answer was lost"):
            await bus.__aenter__()
        assert [node.id for node in await other.nodes()] == ["n0"]
        async with eventbus.connect(uri, node="n", namespace=other.namespace):
            pass


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_g9_an_opening_that_asyncio_cancels_leaves_its_id_free(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancellation by asyncio passes every shield, so it can come between the entry and its answer."""
    namespace = fresh_namespace()
    bus = eventbus.connect(uri, node="n", namespace=namespace, lease=DEADLINE)
    enter = bus._node.directory.enter

    async def cancelled(node: str, lease: float, terms: Terms) -> int:
        monkeypatch.undo()
        await enter(node, lease, terms)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)
        raise AssertionError("the task was cancelled")

    monkeypatch.setattr(bus._node.directory, "enter", cancelled)
    task = asyncio.ensure_future(bus.__aenter__())
    await asyncio.wait([task])
    assert task.cancelled()
    async with eventbus.connect(uri, node="n", namespace=namespace):
        pass


async def test_g5_a_client_that_is_left_while_the_directory_refuses_is_released_later(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal such as a missing right may end: the release is owed until the directory takes it."""
    async with buses(uri, 2, lease=DEADLINE) as (a, b):
        directory, refusals = b._node.directory, []

        async def refuse(claims: Sequence[Claim]) -> None:
            refusals.append(claims)
            raise ConfigurationError("no right to release")

        async with b.client("bob"):
            monkeypatch.setattr(directory, "release", refuse)
        assert len(refusals) == 1
        b._node.lease.hurry()
        await until(lambda: len(refusals) == 2, "it is released again, and refused again")
        monkeypatch.undo()
        b._node.lease.hurry()

        async def released() -> bool:
            return await a.locate("bob") is None

        await until(released, "it is released")


@pytest.mark.usefixtures("patient_adoption")
async def test_g5_lingering_clients_are_handed_over_although_the_answer_to_their_release_is_lost(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with buses(uri, 2) as (a, b):
        fates = Hooked()
        a.on_undeliverable(fates)
        async with eventbus.connect(uri, namespace=a.namespace) as leaver:
            async with leaver.client("bob", linger=DEADLINE):
                pass
            for number in range(3):
                await a.send("bob", "n", number)
            release = leaver._node.directory.release

            async def unanswered(claims: Sequence[Claim]) -> None:
                await release(claims)
                raise TransportUnavailable("the answer was lost")

            monkeypatch.setattr(leaver._node.directory, "release", unanswered)
        async with b.client("bob") as bob:
            assert [event.data for event in await take(bob, 3)] == [0, 1, 2]
        assert not fates
