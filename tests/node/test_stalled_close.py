"""A bus that closes while the directory or the broker stalls: the fate of each event is known at its sender."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import anyio
import pytest

import eventbus
from eventbus import TransportUnavailable
from eventbus_core.backend import Frame
from eventbus_core.node import lifecycle
from tests.support import DEADLINE, Hooked, buses, fence, publish_by, take, until

ASKING = True
COUNT = 10
MANY = 2_000
BACKLOG = 20_000
PAUSE = 0.3  # seconds


async def _stall(*_: Any) -> None:
    await anyio.sleep_forever()


@pytest.mark.parametrize("publishing", [True, False], ids=["the directory", "the broker"])
async def test_g5_what_waited_unread_is_reported_although_a_call_stalls(
    uri: str, monkeypatch: pytest.MonkeyPatch, publishing: bool
) -> None:
    """While only the directory stalls, the node that leaves reports; otherwise its sender does, once its lease ends."""
    reasons = {"bus closed"} if publishing else {"node dead"}
    async with buses(uri, 1) as (a,):
        lost = Hooked()
        a.on_undeliverable(lost)
        options: dict[str, Any] = {"lease": 4.5, "close_timeout": 0.1, "slow_consumer_timeout": DEADLINE}
        async with eventbus.connect(uri, namespace=a.namespace, node="closing", **options) as b:
            bob = await b.client("bob").__aenter__()
            for number in range(10):
                await a.send("bob", f"n.{number}")
            await take(bob, 4)
            await fence([a], [b])
            monkeypatch.setattr(b._node.directory, "leave", _stall)
            monkeypatch.setattr(b._node.directory, "locate", _stall)
            if not publishing:
                publish_by(monkeypatch, b._node.transport, _stall)
        unread = {f"n.{number}" for number in range(4, 10)}
        await until(lambda: unread <= {fate.type for fate in lost}, f"only {lost} was reported")
        assert {fate.reason for fate in lost} == reasons
        assert len(lost) == len({fate.type for fate in lost})
        if publishing:
            assert {fate.type for fate in lost} == unread


async def test_g5_what_waited_unread_in_a_handler_is_reported_once(uri: str) -> None:
    """A handler at work, and events behind: those are reported, and so is the one in hand, which is cancelled."""
    async with buses(uri, 1) as (a,):
        lost, begun = Hooked(), anyio.Event()
        a.on_undeliverable(lost)
        async with eventbus.connect(uri, namespace=a.namespace, node="closing", close_timeout=0.1) as b:

            @b.on("n.*")
            async def never(event: eventbus.Event) -> None:
                begun.set()
                await anyio.sleep_forever()

            await b.ready()
            for number in range(5):
                await a.send(b.address, f"n.{number}")
            await fence([a], [b])
            await begun.wait()
        await until(lambda: len(lost) == 5)
        assert [fate.type for fate in lost] == [f"n.{number}" for number in range(5)]
        assert [fate.reason for fate in lost] == ["bus closed"] + ["node unreachable"] * 4


@pytest.mark.parametrize("own", [True, False], ids=["own-events", "events-of-another-node"])
async def test_g5_what_waited_for_a_slow_consumer_is_reported_although_the_broker_pauses(
    uri: str, monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    """Its senders got their credit back long before: only the node that closes can tell them."""
    monkeypatch.setattr(lifecycle, "FORWARD_TIMEOUT", 0.01)
    monkeypatch.setattr(lifecycle, "SETTLE_TIMEOUT", 0.01)
    async with buses(uri, 1) as (a,):
        told = Hooked()
        a.on_undeliverable(told)
        with anyio.CancelScope() as scope:
            async with eventbus.connect(uri, namespace=a.namespace, node="closing", slow_consumer_timeout=0.05) as b:
                b.on_undeliverable(told)
                bob = await b.client("bob").__aenter__()
                for number in range(COUNT):
                    await (b if own else a).send("bob", f"n.{number}")
                await fence([a], [b])
                mailbox = bob._held.mailbox
                await until(lambda: mailbox._slow, "the client counts as slow")
                publish = b._node.transport.publish

                async def late(frames: Sequence[Frame]) -> Sequence[int] | None:
                    await anyio.sleep(PAUSE)
                    return await publish(frames)

                publish_by(monkeypatch, b._node.transport, late)
                scope.cancel()
        await until(lambda: len(told) == COUNT, f"only {told} was reported")
        assert [fate.type for fate in told] == [f"n.{number}" for number in range(COUNT)]


async def test_g5_what_waited_for_a_slow_consumer_is_reported_to_a_node_that_grants_no_credit(uri: str) -> None:
    """Reports are taken in at once, and must not wait for what fills the mailboxes of the node that they go to."""
    async with buses(uri, 1, slow_consumer_timeout=60.0) as (a,), a.client("stuck"):
        reported, own = Hooked(), Hooked()
        a.on_undeliverable(reported)
        options: dict[str, Any] = {"slow_consumer_timeout": 0.05, "close_timeout": 0.1}
        async with eventbus.connect(uri, namespace=a.namespace, node="closing", **options) as b:
            b.on_undeliverable(own)
            await b.client("slow").__aenter__()
            for number in range(MANY):
                await a.send("slow", f"n.{number}")
            await until(lambda: b.stats().mailbox_events == MANY, "all events are in the mailbox of the closing node")
            with suppress(TransportUnavailable):
                while True:
                    await b.send("stuck", "n", bytes(1024), timeout=0.2)
        await until(lambda: len(reported) == MANY, "all events are reported")
        assert {fate.type for fate in reported} == {f"n.{number}" for number in range(MANY)}
        assert {fate.reason for fate in own} == {"bus closed"}, "the client that is stuck holds up its sender"


async def test_g5_each_of_many_events_that_a_closing_bus_gives_up_is_reported(uri: str) -> None:
    """They are reported at once, while no hook can be called."""
    async with buses(uri, 1, slow_consumer_timeout=60.0) as (a,), a.client("stuck"):
        told = Hooked()
        options: dict[str, Any] = {"outbox_size": 2**22, "close_timeout": 0.1}
        async with eventbus.connect(uri, namespace=a.namespace, node="closing", **options) as b:
            b.on_undeliverable(told)
            for number in range(BACKLOG):
                await b.send("stuck", f"n.{number}")
        assert len(told) > BACKLOG // 2
        assert [fate.type for fate in told] == [f"n.{number}" for number in range(BACKLOG - len(told), BACKLOG)]


async def test_reports_that_the_broker_does_not_take_are_logged(
    uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with buses(uri, 1) as (a,):
        with caplog.at_level(logging.WARNING, "eventbus"), anyio.CancelScope() as scope:
            async with eventbus.connect(uri, namespace=a.namespace, node="closing", close_timeout=0.1) as b:
                await b.client("bob").__aenter__()
                for number in range(COUNT):
                    await a.send("bob", f"n.{number}")
                await fence([a], [b])
                publish_by(monkeypatch, b._node.transport, _stall)
                scope.cancel()
    assert f"could not tell other nodes that {COUNT} of their events were not handled" in caplog.text
