"""What becomes of a receiver that leaves too much waiting: by each policy, in order, told and counted."""

from __future__ import annotations

from collections import Counter
from time import monotonic
from typing import get_args

import anyio
import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

import eventbus
from eventbus import ClientNotFound, Dropped, Event, Gap, LimitExceeded, OptionError
from eventbus_core.backend import node_partition
from eventbus_core.mailbox import limits, mailbox
from eventbus_core.mailbox.loss_markers import MAX_KINDS_OF_LOSS, add_up, count_up
from eventbus_core.mailbox.mailbox import Mailbox
from eventbus_core.mailbox.pool import MailboxPool
from eventbus_core.mailbox.slow_consumers import SlowConsumers
from eventbus_core.options import BusOptions, Overflow
from tests.support import DEADLINE, Hooked, Inbox, buses, fence, read, take, tasks, until

KIB = 1024
STOPPED = 1024.0
NEAR = pytest.mark.parametrize("near", [True, False], ids=["near", "far"])


@pytest.fixture
def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that tell the time themselves: every event arrives at ``STOPPED``."""
    for module in (mailbox, limits):
        monkeypatch.setattr(module, "monotonic", lambda: STOPPED)


@NEAR
@pytest.mark.parametrize("by", ["option of the bus", "option of the client"])
async def test_g11_drop_newest_keeps_the_first_events(uri: str, near: bool, by: str) -> None:
    """The marker stands where the events are missing: after the oldest, and before what comes once there is room."""
    count, kept = 500, 50
    of_bus = {"overflow": "drop_newest"} if by == "option of the bus" else {}
    of_client: Overflow | None = None if of_bus else "drop_newest"
    async with (
        buses(uri, 2, mailbox_events=kept, slow_consumer_timeout=0.1, **of_bus) as nodes,
        nodes[1].client("bob", overflow=of_client) as bob,
    ):
        lost, dropped = Hooked(), Hooked()
        sender = nodes[1 if near else 0]
        sender.on_undeliverable(lost)
        nodes[1].on_dropped(dropped)
        for number in range(count):
            await sender.send("bob", "n", number)
        await fence([sender], [nodes[1]])
        await until(lambda: nodes[1].stats().dropped == count - kept)
        assert [event.data for event in await take(bob, 10)] == list(range(10))
        await sender.send("bob", "n", "room again")
        assert [event.data for event in await take(bob, 42)] == [*range(10, 50), Dropped(count - kept), "room again"]
        await until(lambda: len(lost) == count - kept)
        assert {fate.reason for fate in lost} == {"mailbox full"}
        await until(lambda: dropped == [("bob", Dropped(count - kept))])


@NEAR
@pytest.mark.parametrize("kind", ["iterated", "with a handler"])
async def test_g11_close_ends_the_handle_and_says_which_limit_was_met(uri: str, near: bool, kind: str) -> None:
    """The client is free, what waited is reported to its sender, and the error names the option to raise."""
    async with buses(uri, 2, mailbox_events=50, slow_consumer_timeout=0.1) as nodes, tasks() as group:
        lost, dropped = Hooked(), Hooked()
        sender = nodes[1 if near else 0]
        sender.on_undeliverable(lost)
        nodes[1].on_dropped(dropped)

        async def never(event: Event) -> None:
            await anyio.sleep_forever()

        handler = never if kind == "with a handler" else None
        bob = await nodes[1].client("bob", overflow="close", handler=handler).__aenter__()
        sent = 0

        async def send() -> None:
            nonlocal sent
            while True:
                await sender.send("bob", "n", sent)
                sent += 1

        with pytest.raises(ClientNotFound):
            await send()
        with pytest.raises(
            LimitExceeded, match=r"'bob' was closed because its mailbox overflowed: mailbox_events is 50; consume"
        ) as caught:
            await bob.send("bob", "n")
        assert (caught.value.option, caught.value.limit) == ("mailbox_events", 50)
        taken = 0 if handler is None else 1
        await until(lambda: len(lost) == sent - taken)
        reasons = Counter(fate.reason for fate in lost)
        assert reasons["mailbox full"] > 50 - taken
        assert set(reasons) <= {"mailbox full", "client gone"}
        assert nodes[1].stats().dropped == reasons["mailbox full"]
        await until(lambda: dropped == [("bob", Dropped(reasons["mailbox full"]))])
        async with nodes[0].client("bob", takeover=False) as again:
            reader = read(group, again)
            await sender.send("bob", "n", "again")
            await reader.got(1)
        await bob.aclose()


async def test_g11_a_reader_that_waits_gets_the_error(uri: str) -> None:
    """Iterating raises it too: also for one that was at work when the handle was closed."""
    options = {"mailbox_events": 5, "slow_consumer_timeout": 0.1, "overflow": "close"}
    async with buses(uri, 1, **options) as (bus,), tasks() as group, bus.client("bob") as bob:
        gate = anyio.Event()
        ended = Hooked()

        async def work() -> None:
            try:
                async for _ in bob:
                    await gate.wait()
            except LimitExceeded as error:
                ended(error)

        group.start_soon(work)
        await _flood(bus)
        gate.set()
        await until(lambda: len(ended) == 1)


@pytest.mark.parametrize("policy", get_args(Overflow))
async def test_g11_waiting_bytes_are_bounded_too(uri: str, policy: Overflow) -> None:
    """A few large events count as much as many small ones."""
    async with (
        buses(uri, 2, mailbox_size=64 * KIB, slow_consumer_timeout=0.1) as (a, b),
        b.client("bob", overflow=policy) as bob,
    ):
        lost = Hooked()
        a.on_undeliverable(lost)
        for number in range(100):
            try:
                await a.send("bob", "n", (number, b"x" * 10 * KIB))
            except ClientNotFound:
                break
        await fence([a], [b])
        await until(lambda: b.stats().dropped > 0)
        if policy == "close":
            with pytest.raises(LimitExceeded, match="mailbox_size"):
                await bob.receive()
            return
        dropped = b.stats().dropped
        events = await take(bob, 101 - dropped)
        numbers = [event.data[0] if event.type == "n" else event.data for event in events]
        kept = 100 - dropped
        assert 1 <= kept <= 8, "sizes are means of what came in one frame"
        if policy == "drop_newest":
            assert numbers == [*range(kept), Dropped(dropped)]
        else:
            assert numbers == [Dropped(dropped), *range(dropped, 100)]


@pytest.mark.parametrize("policy", get_args(Overflow))
async def test_g11_a_handler_that_never_returns_slows_no_other(uri: str, policy: Overflow) -> None:
    """A client that never reads and handlers that never return: their neighbours get all, and senders go on."""
    options = {
        "slow_consumer_timeout": 3.0,
        "mailbox_events": 100,
        "receive_budget": 64 * KIB,
        "overflow": policy,
        "close_timeout": 0.1,
    }
    count = 2000  # of each: 4 MB, or 60 times the credit; were that held back again and again, it would take 50 s
    async with buses(uri, 2, **options) as (a, b), tasks() as group:

        async def never(event: Event) -> None:
            await anyio.sleep_forever()

        b.on("n")(never)
        b.on("n")(brisk_handler := Inbox())
        await b.ready()
        async with b.client("stuck", handler=never), b.client("deaf"), b.client("brisk") as brisk:
            reader = read(group, brisk)
            clients = {"stuck", "deaf"}
            began = anyio.current_time()
            for number in range(count):
                for client in sorted(clients):
                    try:
                        await a.send(client, "n", b"x" * 1000)
                    except ClientNotFound:
                        clients.remove(client)
                await a.send("brisk", "n", number)
                await a.publish("n", number)
            await reader.got(count)
            await brisk_handler.got(count)
            assert reader.data == brisk_handler.data == list(range(count))
            assert b.stats().dropped > 0
            assert clients == (set() if policy == "close" else {"stuck", "deaf"})
            assert anyio.current_time() - began < 40.0


async def _flood(bus: eventbus.Bus) -> None:
    """Send to bob until there is none."""
    try:
        while True:
            await bus.send("bob", "n")
    except ClientNotFound:
        pass


async def test_a_client_closed_for_its_lag_does_not_linger(uri: str) -> None:
    """Its time to come back is for those who left, not for those who were thrown out."""
    async with buses(uri, 1, mailbox_events=5, slow_consumer_timeout=0.1) as (bus,):
        async with bus.client("bob", overflow="close", linger=DEADLINE):
            await _flood(bus)
        assert await bus.locate("bob") is None
        assert bus.stats().clients == 0


async def test_a_handler_is_never_closed(uri: str) -> None:
    """By the policy ``close`` handlers lose the oldest, as they have no handle that could end."""
    async with buses(uri, 1, mailbox_events=10, slow_consumer_timeout=0.1, overflow="close") as (bus,):
        gate = anyio.Event()
        got: list[int] = []

        @bus.on("n")
        async def slow(event: Event) -> None:
            await gate.wait()
            got.append(event.data)

        for number in range(100):
            await bus.emit("n", number)
        await until(lambda: bus.stats().dropped > 0)
        gate.set()
        await until(lambda: bool(got) and got[-1] == 99)
        assert len(got) + bus.stats().dropped == 100


async def test_a_policy_that_is_none_is_refused(uri: str) -> None:
    """The error names the three."""
    expected = "option 'overflow' is 'block'; it must be one of 'drop_oldest', 'drop_newest', 'close'"
    with pytest.raises(OptionError) as caught:
        eventbus.connect(uri, overflow="block")  # type: ignore[arg-type]
    assert str(caught.value) == expected
    async with buses(uri, 1) as (bus,):
        with pytest.raises(OptionError) as caught:
            bus.client("bob", overflow="block")  # type: ignore[arg-type]
        assert str(caught.value) == expected


@pytest.mark.parametrize("policy", get_args(Overflow))
async def test_g10_a_gap_takes_no_space_and_closes_no_client(uri: str, policy: Overflow) -> None:
    """It is told to every client, in its place, and keeps its count also where the mailbox is full."""
    async with (
        buses(uri, 1, mailbox_events=5, slow_consumer_timeout=0.1) as (bus,),
        bus.client("full", overflow=policy) as full,
        bus.client("other") as other,
    ):
        for number in range(5):
            await bus.send("full", "n", number)
        await until(lambda: full._held.mailbox._slow)
        gap = Gap("gone", node_partition(bus.node), 3)
        bus._node.delivery.deliver(gap)
        assert [event.data for event in await take(full, 6)] == [*range(5), gap]
        assert [event.data for event in await take(other, 1)] == [gap]
        assert bus.stats().dropped == 0


async def test_g10_gaps_outlive_the_events_around_them(uri: str) -> None:
    """What is dropped and what was missed is told apart; gaps of one sender and partition add up."""
    async with (
        buses(uri, 1, mailbox_events=5, slow_consumer_timeout=0.1) as (bus,),
        bus.client("bob") as bob,
    ):
        partition = node_partition(bus.node)
        await bus.send("bob", "n", "first")
        await until(lambda: bob._held.mailbox._slow)
        for number in range(20):
            bus._node.delivery.deliver(Gap("gone", partition, number))
            bus._node.delivery.deliver(Gap("too", partition, 2**62))
            await bus.send("bob", "n", number)
        gone, too = Gap("gone", partition, sum(range(16))), Gap("too", partition, 2**62)
        events = [event.data for event in await take(bob, 3 + 1 + 3 * 4)]
        assert sorted(events[:3], key=repr) == [Dropped(16), gone, too]
        assert events[3:] == [
            15,
            *(item for number in range(16, 20) for item in (attrs.evolve(gone, missed=number), too, number)),
        ]
        assert bus.stats().dropped == 16


async def test_g10_a_client_that_returns_gets_the_gaps_that_its_former_handle_did_not(uri: str) -> None:
    """A gap that waits in the handle, and one that comes while the client is away."""
    async with buses(uri, 1) as (bus,):
        partition = node_partition(bus.node)
        async with bus.client("bob", linger=DEADLINE):
            bus._node.delivery.deliver(Gap("gone", partition, 1))
        bus._node.delivery.deliver(Gap("gone", partition, 2))
        async with bus.client("bob") as bob:
            assert [event.data for event in await take(bob, 1)] == [Gap("gone", partition, 3)]


def test_g11_gaps_of_any_number_of_nodes_are_counted_without_bound_but_not_told_apart() -> None:
    """Frames can be forged in as many names as one likes."""
    losses = count_up(Dropped(5))
    for number in range(3 * MAX_KINDS_OF_LOSS):
        added = add_up(losses, count_up(Gap(f"@{number}", "n:here", 2)))
        assert added is losses
    assert len(losses) == MAX_KINDS_OF_LOSS + 1
    assert losses[Dropped(0)] == 5
    assert losses.total() == 5 + 3 * MAX_KINDS_OF_LOSS * 2


def test_g10_a_gap_keeps_its_place_behind_events_that_are_held_back() -> None:
    """Events that are forwarded come first, then what came here directly, and the gap where it was among it."""
    mailbox = Mailbox(MailboxPool(BusOptions(lease=3600), monotonic(), lambda *_: None).limits, lambda: None)
    gap = Gap("gone", "n:here", 3)
    mailbox.hold_back()
    mailbox.put([_event(1)], KIB, None)
    mailbox.tell(count_up(gap))
    mailbox.put([_event(2)], KIB, None)
    mailbox.put([replace(_event(0), hops=1)], KIB, None)
    mailbox.let_through()
    assert [event.data for event in iter(mailbox.next, None)] == [0, 1, gap, 2]


def test_g4_held_back_events_stay_behind_forwarded_events_of_the_same_frame() -> None:
    mailbox = Mailbox(MailboxPool(BusOptions(lease=3600), monotonic(), lambda *_: None).limits, lambda: None)
    mailbox.hold_back()
    mailbox.put([_event(1)], KIB, None)
    mailbox.put([replace(_event(0), hops=1), _event(2)], 2 * KIB, None)
    assert mailbox.count == 1
    mailbox.let_through()
    assert [event.data for event in iter(mailbox.next, None)] == [0, 1, 2]


@pytest.mark.usefixtures("stopped_clock")
def test_g11_a_node_that_is_slow_as_a_whole_lets_its_senders_be_less_ahead() -> None:
    """Where events are late and no mailbox gets empty: half as much each time, more again once one has caught up."""
    start = STOPPED
    mailboxes = MailboxPool(BusOptions(slow_consumer_timeout=4.0, lease=3600), start, lambda *_: None)
    slow_consumers = SlowConsumers(mailboxes.limits)
    slow = Mailbox(mailboxes.limits, lambda: None)
    for number in range(10):
        slow.add(_event(number), KIB)
    slow_consumers.tend(start + 0.5)
    lead = mailboxes.limits.backlog
    assert slow_consumers.ease == 1.0
    for tick in range(1, 4):
        slow_consumers.tend(start + 2.0 + tick / 20)
        assert (slow_consumers.ease, mailboxes.limits.backlog) == (2**-tick, int(lead * 2**-tick))
    while slow.next() is not None:
        pass
    for tick in range(4, 40):
        slow_consumers.tend(start + 2.0 + tick / 20)
    assert (slow_consumers.ease, mailboxes.limits.backlog, mailboxes.limits.dropped) == (1.0, lead, 0)


def test_g11_an_event_that_is_handled_at_once_came_just_now() -> None:
    """A node at rest ticks seldom: the time of its last tick may be long past."""
    past = monotonic() - 3600
    mailbox = Mailbox(MailboxPool(BusOptions(lease=86_400), past, lambda *_: None).limits, lambda: None)
    mailbox.occupy(_event(0), None)
    assert not mailbox.late(past + 1800)
    assert mailbox.late(monotonic() + 1)


@pytest.mark.usefixtures("stopped_clock")
@pytest.mark.parametrize("alone", [True, False], ids=["all are slow", "one of many"])
def test_g11_a_client_that_takes_events_is_a_slow_consumer_only_beside_faster_ones(alone: bool) -> None:
    """If all consumers are slow, senders wait as long as it takes, but not for a consumer that takes nothing."""
    start = STOPPED
    mailboxes = MailboxPool(BusOptions(slow_consumer_timeout=2.0, lease=3600), start, lambda *_: None)
    slow_consumers = SlowConsumers(mailboxes.limits)
    slow, brisk = Mailbox(mailboxes.limits, lambda: None), Mailbox(mailboxes.limits, lambda: None)
    for first in (0, 200):
        slow.put([_event(first + number) for number in range(200)], KIB, None)
    for tick in range(1, 100):
        if not alone:
            brisk.add(_event(tick), KIB)
            assert len([*iter(brisk.next, None)]) == 1
        slow.next()
        slow_consumers.tend(start + tick / 10)
        assert slow.has_room() != (alone or tick <= 20)
    for tick in range(100, 130):
        slow_consumers.tend(start + tick / 10)
        assert slow.has_room() != (alone and tick < 120)


@pytest.mark.usefixtures("stopped_clock")
def test_g11_bounds_hold_where_all_are_slow() -> None:
    """Senders to many do not wait for as long as those to one: what they send meanwhile may be more than may wait."""
    start = STOPPED
    mailboxes = MailboxPool(
        BusOptions(slow_consumer_timeout=2.0, lease=3600, mailbox_events=50), start, lambda *_: None
    )
    slow_consumers = SlowConsumers(mailboxes.limits)
    slow = Mailbox(mailboxes.limits, lambda: None)
    for tick in range(1, 100):
        slow.put([_event(number) for number in range(4)], KIB, None)
        slow.next()
        slow_consumers.tend(start + tick / 10)
        assert slow.count <= 50 or tick <= 30
    assert mailboxes.limits.dropped > 0


@given(
    st.sampled_from(["drop_oldest", "drop_newest"]),
    st.lists(
        st.one_of(
            st.integers(1, 12),
            st.builds(Gap, st.sampled_from("ab"), st.sampled_from("xy"), st.integers(1, 9)),
            st.sampled_from(["take", "tend"]),
        ),
        max_size=60,
    ),
    st.integers(1, 8),
    st.integers(1, 40),
)
def test_g11_events_received_and_reported_missing_add_up(
    policy: Overflow, steps: list[int | Gap | str], most: int, kib: int
) -> None:
    """Whatever comes, is missed and is taken when: events and markers count through all of it, without a hole."""
    options = BusOptions(mailbox_events=most, mailbox_size=kib * KIB, lease=3600)
    mailboxes = MailboxPool(options, monotonic(), lambda *_: None)
    mailbox = Mailbox(mailboxes.limits, lambda: None, policy)
    put = expected = 0
    told: Counter[Gap | None] = Counter()
    heard: Counter[Gap | None] = Counter()

    def take_one() -> bool:
        nonlocal expected
        event = mailbox.next()
        if event is None:
            return False
        if isinstance(event.data, Dropped | Gap):
            expected += event.data.missed
            heard[_kind(event.data)] += event.data.missed
        else:
            assert event.data == expected
            expected += 1
        return True

    for step in steps:
        if isinstance(step, int) and step > 6:
            put += mailbox.add(_event(put), 3 * KIB)
        elif isinstance(step, int):
            mailbox.put([_event(put + more) for more in range(step)], step * KIB, None)
            put += step
        elif isinstance(step, Gap):
            mailbox.tell(count_up(step))
            put += step.missed
            told[_kind(step)] += step.missed
        elif step == "take":
            take_one()
        else:
            mailbox.let_go()
            assert mailbox.count <= most
    while take_one():
        pass
    assert expected == put
    told[None] = mailboxes.limits.dropped
    assert +heard == +told


def _kind(loss: Dropped | Gap) -> Gap | None:
    return attrs.evolve(loss, missed=0) if isinstance(loss, Gap) else None


def _event(number: int) -> Event:
    return Event("n", "a", "bob", str(number), msgspec.Raw(msgspec.msgpack.encode(number)))
