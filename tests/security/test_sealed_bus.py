"""Buses with a secret: what they say to each other, and what they make of nodes without it."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from itertools import pairwise
from typing import Any

import anyio
import pytest

import eventbus
from eventbus import Bus, NamespaceMismatch, Retention
from eventbus_core.wrappers.seal import Seals
from eventbus_core.wrappers.sealed import SealedTransport
from tests.security.test_seals import FOREIGN, FORMS, NEW, OLD
from tests.support import DEADLINE, Inbox, buses, fence, fresh_namespace, take, until


async def talk(one: Bus, two: Bus) -> None:
    """Use each way of events from *one* to *two*."""
    two.on("room.1")(heard := Inbox())
    await fence([one], [two])
    async with two.client("bob") as bob:
        await one.send("bob", "greeting", "hi")
        await one.broadcast("room.1", 1)
        assert (await take(bob, 1))[0].data == "hi"
    await until(lambda: len(heard) == 1)
    two.off(heard)


@FORMS
async def test_nodes_with_one_secret_talk(uri: str, encrypt: bool) -> None:
    async with buses(uri, 2, secret=OLD, encrypt=encrypt) as (one, two):
        await talk(one, two)
        await talk(two, one)
        assert not one.stats().refused
        assert not two.stats().refused


def test_without_a_secret_there_is_no_wrapper() -> None:
    assert not isinstance(eventbus.connect()._node.transport, SealedTransport)
    assert isinstance(eventbus.connect(secret=OLD)._node.transport, SealedTransport)
    assert "cryptography" not in vars(sys.modules["eventbus_core.wrappers.seal"])


@FORMS
async def test_a_node_with_another_secret_is_told_at_entry(uri: str, encrypt: bool) -> None:
    """So is one without, and one that would not encrypt; and one with a secret where the others have none."""
    namespace = fresh_namespace()
    async with buses(uri, 1, namespace=namespace, secret=OLD, encrypt=encrypt):
        others: list[dict[str, Any]] = [
            {},
            {"secret": FOREIGN, "encrypt": encrypt},
            {"secret": OLD, "encrypt": not encrypt},
        ]
        for options in others:
            with pytest.raises(NamespaceMismatch, match="EVENTBUS_SECRET") as caught:
                async with eventbus.connect(uri, namespace=namespace, **options):
                    pass
            assert OLD not in str(caught.value)
    async with buses(uri, 1) as (plain,):
        with pytest.raises(NamespaceMismatch, match="EVENTBUS_SECRET"):
            async with eventbus.connect(uri, namespace=plain.namespace, secret=OLD):
                pass


@FORMS
async def test_a_secret_is_replaced_while_nodes_run(uri: str, encrypt: bool) -> None:
    """Nodes are restarted one by one with each step; at every moment, all that run talk to each other."""
    namespace = fresh_namespace()
    steps = ([OLD], [OLD, NEW], [NEW, OLD], [NEW])
    for before, after in pairwise(steps):
        async with (
            eventbus.connect(uri, node="a", namespace=namespace, secret=before, encrypt=encrypt) as a,
            eventbus.connect(uri, node="b", namespace=namespace, secret=after, encrypt=encrypt) as b,
        ):
            async with eventbus.connect(uri, node="c", namespace=namespace, secret=before, encrypt=encrypt) as c:
                await talk(c, b)
            await talk(a, b)
            await talk(b, a)
            async with a.client("carol") as carol:
                assert [client async for client in b.clients()] == ["carol"]
                await b.send("carol", "n", 1)
                assert (await carol.receive()).data == 1
                async with b.client("carol"):
                    with pytest.raises(eventbus.ClientTakenOver), anyio.fail_after(DEADLINE):
                        await carol.receive()
                    owner = await a.locate("carol")
                    assert owner is not None
                    assert owner.node == "b"
            assert not a.stats().refused
            assert not b.stats().refused
    with pytest.raises(NamespaceMismatch):
        async with (
            buses(uri, 1, namespace=namespace, secret=NEW, encrypt=encrypt),
            eventbus.connect(uri, namespace=namespace, secret=OLD, encrypt=encrypt),
        ):
            pass


async def test_a_node_whose_clock_was_ahead_as_it_joined_hears_once_that_is_put_right(uri: str) -> None:
    async with buses(uri, 2, secret=OLD) as (one, two):
        transport = two._node.transport
        assert isinstance(transport, SealedTransport)
        for partition in transport._joined:
            transport._joined[partition] += 3_600_000
        await talk(one, two)
        assert not two.stats().refused


async def test_nodes_without_a_directory_say_what_they_reject(caplog: pytest.LogCaptureFixture) -> None:
    """No record tells them at entry: so the log does, on both sides, once a minute."""
    caplog.set_level(logging.WARNING, "eventbus")
    namespace = fresh_namespace()
    logger = logging.getLogger("eventbus")
    logger.disabled = False
    async with (
        buses("asking://tests", 1, namespace=namespace, secret=OLD) as (sealed,),
        eventbus.connect("asking://tests", node="plain", namespace=namespace) as plain,
    ):
        await until(lambda: "unsealed" in sealed.stats().refused and "sealed" in plain.stats().refused)
        assert [node.id for node in await sealed.nodes()] == [sealed.node]
    texts = [record.getMessage() for record in caplog.records]
    assert sum("(unsealed)" in text for text in texts) == 1
    assert sum("(sealed)" in text and "secret=" in text for text in texts) == 1


@FORMS
async def test_retained_topics_are_sealed(uri: str, encrypt: bool) -> None:
    async with buses(uri, 2, secret=OLD, encrypt=encrypt, retain={"chat.>": Retention()}) as (one, two):
        for number in range(5):
            await one.publish("chat.1", number, durable=True)
        assert [event.data for event in await two.history("chat.1")] == [0, 1, 2, 3, 4]
        async with two.client("back") as back:
            token = (await two.history("chat.1"))[1].position
            assert token is not None
            await back.subscribe("chat.1", since=token)
            assert [event.data for event in await take(back, 3)] == [2, 3, 4]
        assert not two.stats().refused


@FORMS
async def test_a_frame_is_sealed_once_whether_or_not_the_transport_can_write_at_once(
    uri: str, encrypt: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed: Counter[bytes] = Counter()
    seal = Seals.seal

    def counted(self: Seals, context: bytes, content: bytes) -> bytes:
        sealed[content] += b"lone.event" in content
        return seal(self, context, content)

    monkeypatch.setattr(Seals, "seal", counted)
    async with buses(uri, 2, secret=NEW, encrypt=encrypt) as (a, b), b.client("bob", handler=(inbox := Inbox())):
        for number in range(20):
            await a.send("bob", "lone.event", number)
            await inbox.got(number + 1)
    assert Counter(sealed.values())[1] == 20
    assert max(sealed.values()) == 1
