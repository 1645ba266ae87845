"""Without a directory: two nodes that did not hear of each other in time agree in the end on who holds a client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import sleep
from typing import TYPE_CHECKING, Any, cast

import anyio
import attrs
import msgspec
import pytest

from eventbus import ClientTakenOver, Event, register
from eventbus_core.backend import Claim, Frame, Owner, Terms
from eventbus_core.membership.channel import ControlChannel
from eventbus_core.membership.peer_directory.messages import (
    FOLLOWED,
    HEARTBEAT,
    QUERY,
    REPLY,
    Heartbeat,
    Query,
    Reply,
    clock,
)
from eventbus_core.membership.peer_directory.peer_directory import ASK_TIMEOUT, PeerDirectory
from eventbus_core.membership.peer_directory.poll import Poll
from eventbus_core.model.event_ids import EventIds
from eventbus_core.observability.rejections import Rejections
from eventbus_core.testing.simulation.cut_links import cuttable_buses
from tests.support import DEADLINE, Hooked, WithoutDirectory, buses, read, take, tasks, until

if TYPE_CHECKING:
    from eventbus_core.outbox.outbox import Outbox

URI = "asking://tests"


@pytest.mark.parametrize("takeover", [True, False], ids=["takeover", "plain"])
@pytest.mark.parametrize("cut_first", [True, False], ids=["cut-first", "cut-last"])
async def test_g8_of_two_that_claimed_while_cut_off_the_last_keeps_the_client(takeover: bool, cut_first: bool) -> None:
    """Neither heard of the other; once the line holds again, the one that claimed it first gives it up."""
    async with cuttable_buses(URI, 3, lease=DEADLINE) as (one, other, sender), tasks() as group:
        cut, whole = (one, other) if cut_first else (other, one)
        cut.transport.cut()
        first = read(group, await one.bus.client("alice", takeover=takeover).__aenter__())
        async with other.bus.client("alice", takeover=takeover) as last:
            cut.transport.restore()
            assert isinstance(await first.over(), ClientTakenOver)
            await sender.bus.send("alice", "note", 1)
            await whole.bus.send("alice", "note", 2)
            assert sorted(event.data for event in await take(last, 2)) == [1, 2]
        assert not first.data


@pytest.mark.parametrize("anyio_backend", ["trio"])  # which runs the asker and the reader of the reply in any order
async def test_replies_that_came_while_the_process_stood_still_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands still for longer than the asker waits."""
    async with buses(URI, 2) as (asker, owner), owner.client("alice"):
        directory = cast("PeerDirectory", owner._node.directory)
        reply = directory._reply

        def late(query: Query) -> None:
            reply(query)
            sleep(ASK_TIMEOUT * 1.1)

        monkeypatch.setattr(directory, "_reply", late)
        for _ in range(5):
            assert await asker.locate("alice") is not None


async def test_g9_a_node_that_enters_again_unheard_gives_up_clients_that_others_claimed() -> None:
    """It has asked who holds its clients and got no answer; that comes later, and counts nevertheless."""
    async with cuttable_buses(URI, 3, lease=4.5) as (sender, old, new), tasks() as group:
        lost = Hooked()
        old.bus.on_lease_lost(lost)
        alice = read(group, await old.bus.client("alice").__aenter__())
        async with old.bus.client("bob") as bob:
            old.transport.cut()

            async def free() -> bool:
                return await new.bus.locate("alice") is None

            await until(free)
            async with new.bus.client("alice", takeover=False) as after:
                await until(lambda: len(lost) > 0)
                old.transport.restore()
                assert isinstance(await alice.over(), ClientTakenOver)
                await sender.bus.send("alice", "note", 1)
                await sender.bus.send("bob", "note", 2)
                assert [event.data for event in await take(after, 1)] == [1]
                assert [event.data for event in await take(bob, 1)] == [2]
        assert not alice.data


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
async def test_g1_a_node_that_was_cut_off_hands_out_no_event_before_it_was_answered(
    known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its question who holds its clients may wait for the broker longer than an answer is waited for."""
    async with cuttable_buses(URI, 2, lease=3 * DEADLINE) as (old, new), tasks() as group:
        alice = await old.bus.client("alice").__aenter__()
        await new.bus.send("alice", "note", 1)
        await until(lambda: old.bus.stats().mailbox_events == 1)
        old.transport.cut()
        async with new.bus.client("alice") as after:
            broker, publish = anyio.Event(), old.transport.publish
            directory, rounds = old.bus._node.directory, Hooked()
            claim = directory.claim

            async def slow(frames: Sequence[Frame]) -> Sequence[int] | None:
                await broker.wait()
                return await publish(frames)

            async def watched(clients: Sequence[str], takeover: bool) -> Sequence[Claim | Owner]:
                answers = await claim(clients, takeover)
                rounds(answers)
                return answers

            monkeypatch.setattr(old.transport, "publish", slow)
            monkeypatch.setattr(directory, "claim", watched)
            if not known:
                old.bus._node.peers._others.clear()  # type: ignore[union-attr]
            old.transport.restore()
            await until(lambda: len(rounds) == 1, "no node has answered")
            before = read(group, alice)
            await until(lambda: len(rounds) == 2 or bool(before.events), "it asks again")
            broker.set()
            assert isinstance(await before.over(), ClientTakenOver)
            assert [event.data for event in await take(after, 1)] == [1]
        assert not before.data


async def test_g11_a_node_that_never_answers_delays_others_for_a_lease_at_most() -> None:
    """Not even one that only a forged frame has said to live, for a day."""
    async with cuttable_buses(URI, 1, lease=1.0) as (one,), one.bus.client("alice") as alice:
        asking = one.bus._node.peers
        assert asking is not None
        asking._others.hear(Heartbeat("ghost", 1, 86_400.0, asking._me.wire_version, asking._me.lanes))
        one.transport.restore()
        await until(lambda: one.bus._node.pool.limits.frozen(), "it has heard that frames may be lost")
        await one.bus.send("alice", "note", 1)
        assert [event.data for event in await take(alice, 1)] == [1]


class LoneChannel(ControlChannel):
    """The channel of a node that is by itself: messages for all nodes go to *told*, others nowhere."""

    def __init__(self, told: Callable[[Any], None]) -> None:
        super().__init__("n0", cast("Outbox", None), EventIds(), Rejections("n0"))
        self.told = told

    def send_all(self, type: str, data: object) -> None:
        self.told(data)

    def send(self, node: str, type: str, data: object) -> None:
        pass

    async def flushed(self) -> None:
        await anyio.lowlevel.checkpoint()


def directory(told: Callable[[Any], None]) -> PeerDirectory:
    """Return the directory of a node that is by itself; what it asks goes to *told*."""
    return PeerDirectory("tests", LoneChannel(told), 1 << 20)


def said(type: str, data: object) -> Event:
    """Return what another node says."""
    return Event(type, "@n1", "@n0", "1", msgspec.Raw(msgspec.msgpack.encode(data)))


async def test_g8_confirming_a_client_does_not_take_it_back_from_a_node_that_took_it_over() -> None:
    """The word of the takeover comes late, while who holds the client is asked; and no answer comes in time."""
    asking = directory(told := Hooked())
    await asking.enter("n0", 60.0, Terms(1, 64))
    (held,) = await asking.claim(["alice"], takeover=True)
    assert isinstance(held, Claim)
    other = Heartbeat("n1", held.epoch, 60.0, 1, 64)
    answers = Hooked()

    async def make_sure() -> None:
        answers(*await asking.claim(["alice"], takeover=False))

    async with tasks() as group:
        group.start_soon(make_sure)
        await until(lambda: len(told) == 2, "it asks")
        asking._channel.take(said(QUERY, Query(other, 1, ["alice"], [held.epoch + 1], takeover=True)))
        await until(lambda: len(answers) == 1, "the claim returns")
    assert answers == [Owner("n1", other.incarnation, held.epoch + 1)]


async def test_g8_a_node_that_confirms_a_client_during_its_takeover_learns_of_other_takeovers() -> None:
    """Of two claims of one client here, the first to end leaves the other to be reckoned with."""
    asking = directory(told := Hooked())
    await asking.enter("n0", 60.0, Terms(1, 64))
    (held,) = await asking.claim(["alice"], takeover=True)
    assert isinstance(held, Claim)
    other = Heartbeat("n1", held.epoch, 60.0, 1, 64)
    asking._channel.take(said(HEARTBEAT, other))
    sure, mine = Hooked(), Hooked()

    async def make_sure() -> None:
        sure(*await asking.claim(["alice"], takeover=False))

    async def take_over() -> None:
        mine(*await asking.claim(["alice"], takeover=True))

    async with tasks() as group:
        group.start_soon(make_sure)
        await until(lambda: len(told) == 2, "it asks whether it holds the client")
        group.start_soon(take_over)
        await until(lambda: len(told) == 3, "it asks once more, to take it over")
        number = told[1].number
        asking._channel.take(said(REPLY, Reply(other, number, {}, {})))
        await until(lambda: len(sure) == 1, "it is sure")
        assert not mine
        epoch = told[2].epochs[0] + 1
        asking._channel.take(said(QUERY, Query(other, 1, ["alice"], [epoch], takeover=True)))
        asking._channel.take(said(REPLY, Reply(other, told[2].number, {}, {})))
        await until(lambda: len(told) == 4 or len(mine) == 1, "it hears of the other")
        if len(told) == 4:
            asking._channel.take(said(REPLY, Reply(other, told[3].number, {"alice": epoch}, {})))
        await until(lambda: len(mine) == 1, "it has taken the client over")
    assert mine[0].previous == Owner("n1", other.incarnation, epoch)
    assert mine[0].epoch > epoch


async def test_a_node_that_enters_asks_those_that_have_replied_no_more() -> None:
    """It asks several times, since frames may be lost."""
    known: list[list[str]] = []

    def reply(query: Query) -> None:
        known.append(query.known)
        asking._channel.take(said(REPLY, Reply(Heartbeat("n1", 1, 60.0, 1, 64), query.number, {}, {})))

    asking = directory(reply)
    await asking.enter("n0", 60.0, Terms(1, 64))
    await asking.introduce()
    assert known == [[], ["n1"], ["n1"]]


async def test_a_node_that_has_replied_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    asking = directory(Hooked())
    await asking.enter("n0", 60.0, Terms(1, 64))
    sent: list[str] = []
    monkeypatch.setattr(asking._channel, "send", lambda _node, type, _data: sent.append(type))
    entering = Heartbeat("n1", 0, 60.0, 1, 64)
    for known in ([], ["n2"], ["n2", "n0"]):
        asking._channel.take(said(QUERY, Query(entering, 1, [""], known=known)))
    assert sent == [REPLY, REPLY]


async def test_g12_an_answer_without_a_question_is_ignored() -> None:
    poll = Poll()
    poll.add(Reply(Heartbeat("n1", 1, 60.0, 1, 64), 1, {}, {"bob": 1}))
    assert [poll.winners({"alice": 2}, takeover=takeover) for takeover in (False, True)] == [{}, {}]


@pytest.mark.parametrize(("ahead", "followed"), [(2**60, False), (FOLLOWED - 10**9, True)], ids=["forged", "years"])
async def test_g12_a_forged_stamp_does_not_carry_our_numbers_where_others_refuse_them(
    ahead: int, followed: bool
) -> None:
    asking = directory(told := Hooked())
    await asking.enter("n0", 60.0, Terms(1, 64))
    stamp = clock() + ahead
    asking._channel.take(said(HEARTBEAT, Heartbeat("n1", stamp, 0.0, 1, 64)))
    await asking.locate(["alice"])
    assert (told[-1].number > stamp) is followed
    assert told[-1].number < clock() + FOLLOWED


class Narrow(WithoutDirectory):
    """Takes no larger frames than this."""

    capabilities = attrs.evolve(WithoutDirectory.capabilities, max_frame_size=150_000)


async def test_a_node_tells_of_more_clients_than_fit_into_a_frame() -> None:
    """Questions and answers come in parts; so many names at once would be larger than the frames of this broker."""
    register("narrow", Narrow)
    names = sorted(f"tenant-{'x' * 40}/client-{number:06}" for number in range(2500))
    async with buses("narrow://tests", 2) as (a, b):
        async with anyio.create_task_group() as group:
            handles = [a.client(name) for name in names]
            for handle in handles:
                group.start_soon(handle.__aenter__)
        assert sorted([name async for name in b.clients()]) == names
        assert b._node.peers is not None
        owners = await b._node.peers.locate(names)
        assert {owner.node for owner in owners if owner is not None} == {a.node}
        a._node.receiver.missed()
        await until(lambda: not a._node.pool.limits.frozen(), "it has made sure of all it holds")


async def test_g12_a_node_that_claims_ever_greater_epochs_does_not_keep_a_takeover_from_its_end() -> None:
    """However often it is asked, its answer is ahead of the question."""
    told = Hooked()

    def ask(question: Query) -> None:
        told(question)
        assert len(told) < 10, "it asks again and again"
        assert question.epochs is not None
        asking._channel.take(said(REPLY, Reply(other, question.number, {"alice": question.epochs[0] + 1000}, {})))

    asking = directory(ask)
    await asking.enter("n0", 60.0, Terms(1, 64))
    other = Heartbeat("n1", 1, 60.0, 1, 64)
    asking._channel.take(said(HEARTBEAT, other))
    (claim,) = await asking.claim(["alice"], takeover=True)
    assert isinstance(claim, Claim)
    assert claim.previous is not None
    assert claim.epoch > claim.previous.epoch
