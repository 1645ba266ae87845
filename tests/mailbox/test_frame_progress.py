"""How far a frame was handled, while its events wait in several mailboxes."""

from __future__ import annotations

import weakref
from functools import partial
from time import monotonic
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from eventbus_core.backend import node_partition
from eventbus_core.mailbox.frame_progress import FrameProgress
from eventbus_core.mailbox.mailbox import Leftover, Mailbox
from eventbus_core.mailbox.pool import MailboxPool
from eventbus_core.model.event import Event
from eventbus_core.options import BusOptions
from eventbus_core.session.incoming import Ticket
from tests.support import DEADLINE, buses, fence, take, until

MAILBOXES = 3


class _Session:
    """The end of a session, as far as a ticket knows it."""

    def handled(self, ticket: Ticket) -> None:
        ticket.done = True


class _Frame:
    """A frame whose events wait in mailboxes; *settled* are those that their receivers need not handle any more."""

    def __init__(self, receivers: list[int]) -> None:
        limits = MailboxPool(BusOptions(lease=3600), monotonic(), lambda *_: None).limits
        self.mailboxes = [Mailbox(limits, lambda: None) for _ in range(MAILBOXES)]
        self.events = [Event("n", "@a", str(to), str(number), Raw(b"\xc0")) for number, to in enumerate(receivers)]
        self.settled: set[str] = set()
        session: Any = _Session()
        self.ticket = Ticket(session, "a", 1, 10 * len(receivers), monotonic())
        self.ticket.expect(len(receivers))
        chunks: dict[Mailbox, list[Event]] = {}
        for event in self.events:
            chunks.setdefault(self.mailboxes[int(event.target)], []).append(event)
        for mailbox, events in chunks.items():
            mailbox.put(events, 10, self.ticket)
        self.ticket.track(FrameProgress(self.ticket, self.events, chunks))
        self._in_hand: list[Event | None] = [None] * MAILBOXES
        self.left: list[Leftover] = []

    def next(self, to: int) -> None:
        if (before := self._in_hand[to]) is not None:
            self.settled.add(before.id)
        self._in_hand[to] = None if self.mailboxes[to].closed else self.mailboxes[to].next()

    def give_up(self, to: int) -> None:
        if self.mailboxes[to].closed:
            return
        self.mailboxes[to].let_go()
        self.settled.update(event.id for event in self.events if event.target == str(to))

    def close(self, to: int) -> None:
        if not self.mailboxes[to].closed:
            self.left += self.mailboxes[to].close()
            if (last := self._in_hand[to]) is not None:
                self.settled.add(last.id)

    def settle(self) -> None:
        if self.left:
            one = self.left.pop(0)
            one.settle()
            self.settled.add(one.event.id)

    @property
    def first_unsettled(self) -> int:
        """The number of the first event that is not settled."""
        return next((number for number, event in enumerate(self.events, 1) if event.id not in self.settled), 0)


@given(
    st.lists(st.integers(0, MAILBOXES - 1), min_size=1, max_size=12),
    st.lists(st.tuples(st.sampled_from(["next"] * 6 + ["give_up"]), st.integers(0, MAILBOXES - 1))),
)
def test_the_first_event_of_a_frame_that_is_not_handled_is_known(
    receivers: list[int], steps: list[tuple[str, int]]
) -> None:
    frame = _Frame(receivers)
    for step, to in steps:
        getattr(frame, step)(to)
        if not frame.ticket.done:
            assert frame.ticket.handled_below() == frame.first_unsettled


@given(
    st.lists(st.integers(0, MAILBOXES - 1), min_size=1, max_size=12),
    st.lists(
        st.tuples(st.sampled_from(["next"] * 3 + ["give_up", "close"]), st.integers(0, MAILBOXES - 1))
        | st.tuples(st.just("settle"))
    ),
)
def test_g5_no_event_is_taken_for_handled_that_is_not(receivers: list[int], steps: list[tuple[Any, ...]]) -> None:
    frame = _Frame(receivers)
    for step, *to in steps:
        getattr(frame, step)(*to)
        if not frame.ticket.done:
            assert frame.ticket.handled_below() <= frame.first_unsettled


def test_the_events_of_a_handled_frame_are_freed_at_once() -> None:
    """Not only by the garbage collector: that runs seldom, as events do not count for it."""
    frame = _Frame([0, 1])

    class Progress:
        def __call__(self) -> int:
            return 0

    frame.ticket.track(progress := Progress())
    freed = weakref.ref(progress)
    del progress
    for to in (0, 1):
        frame.next(to)
        assert freed() is not None
        frame.next(to)
    assert freed() is None


async def test_g5_a_sender_learns_which_events_of_a_frame_are_handled(uri: str) -> None:
    """Only the others are reported if the node dies now; whole frames were confirmed, and these events came in one."""
    async with buses(uri, 2, slow_consumer_timeout=DEADLINE) as (a, b), b.client("bob") as bob:
        await a.send("bob", "first")  # now the route is known, and no later send waits
        await take(bob, 1)
        for number in range(10):
            await a.send("bob", f"n.{number}")
        await fence([a], [b])
        session = a._node.outbox.queue(node_partition(b.node), b.node).session

        def first_unconfirmed() -> str:
            return session.kept_events(session.handled)[0].id

        for taken in (4, 3):
            last = (await take(bob, taken))[-1]  # may be in hand
            await until(partial(lambda id: first_unconfirmed() == id, last.id))
