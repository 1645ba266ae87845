"""The feeds of a node: readers that leave while they read, and more feeds than a node keeps."""

from __future__ import annotations

from time import monotonic

import pytest

from eventbus import Bus, Retention
from eventbus_core.backend import Position
from eventbus_core.history import feeds as module
from eventbus_core.history import share_relay
from eventbus_core.history.feeds import Feeds, TopicFeed
from eventbus_core.history.history_reader import Reading
from eventbus_core.history.resumption import Verdict
from eventbus_core.mailbox.mailbox import Mailbox
from eventbus_core.mailbox.pool import MailboxPool
from eventbus_core.options import BusOptions
from tests.support import buses, take, until

KEPT = Retention()
END = Position("e", 3, 7)


def feeds_of(bus: Bus) -> Feeds:
    history = bus._node.history
    assert history is not None
    return history.feeds


def mailbox() -> Mailbox:
    return Mailbox(MailboxPool(BusOptions(), monotonic(), lambda *_: None).limits, lambda: None)


async def test_g13_a_reader_that_leaves_while_it_reads_holds_up_no_other() -> None:
    """Its seam stays until it has read, and goes with the next check."""
    async with buses("memory://", 1, retain={"chat.>": KEPT}) as (bus,):
        feeds, reader = feeds_of(bus), mailbox()
        feed = feeds.open("chat.room", KEPT, reader)
        reader.close()
        feed.drop_seams()
        feeds.join(feed, reader, Reading(Verdict(None, 0, 3), (), END))
        assert (feed.order.opening, feed.order.cursor) == (0, END)
        feed.drop_seams()
        assert not feed.seams


@pytest.mark.parametrize("reader", [False, True])
async def test_g10_events_too_large_for_a_share_are_all_that_a_new_subscriber_gets(
    reader: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not get what was published before, also if another client resumes meanwhile."""
    monkeypatch.setattr(share_relay, "MAX_ENVELOPE", 64 * 1024 * 1024)  # so none fits
    async with buses("memory://", 1, retain={"chat.>": KEPT}) as (bus,):
        await bus.publish("chat.room", "before", durable=True)
        async with bus.client("plain") as plain:
            await plain.subscribe("chat.>")
            feeds, other = feeds_of(bus), mailbox()
            feed = feeds.open("chat.room", KEPT, other) if reader else None
            await bus.publish("chat.room", 1, durable=True)
            if feed is not None:
                await until(lambda: feed.order.cursor is not None)
                feeds.join(feed, other, await feeds._reader.since("#chat.room", KEPT, None))
            await bus.publish("chat.room", 2, durable=True)
            assert [event.data for event in await take(plain, 2)] == [1, 2]


@pytest.mark.parametrize("busy", ["read", "behind", "idle"])
async def test_only_idle_feeds_make_room_for_others(busy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FEEDS", 1)
    async with buses("memory://", 1, retain={"chat.>": KEPT}) as (bus,):
        feeds, reader = feeds_of(bus), mailbox()
        first = feeds.open("chat.first", KEPT, reader)
        if busy != "read":
            feeds.leave(first, reader)
        if busy == "behind":
            first.order.fall_behind()
        feeds.open("chat.second", KEPT, reader)
        again = feeds.open("chat.first", KEPT, reader)
        assert (again is first) == (busy != "idle")


async def test_g11_a_feed_that_becomes_idle_is_found_among_many_and_opening_one_looks_at_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_FEEDS", 100)
    looks = 0

    def idle(feed: TopicFeed) -> bool:
        nonlocal looks
        looks += 1
        return bool(was_idle(feed))

    was_idle = vars(TopicFeed)["idle"].fget
    monkeypatch.setattr(TopicFeed, "idle", property(idle))
    async with buses("memory://", 1, retain={"chat.>": KEPT}) as (bus,):
        feeds, reader = feeds_of(bus), mailbox()
        opened = [feeds.open(f"chat.{number}", KEPT, reader) for number in range(300)]
        assert looks <= 200 * module.LOOKED_AT
        feeds.leave(opened[150], reader)
        for number in range(300, 300 + 300 // module.LOOKED_AT + 1):
            feeds.open(f"chat.{number}", KEPT, reader)
        assert feeds.open("chat.150", KEPT, reader) is not opened[150], "the idle feed was not removed"
