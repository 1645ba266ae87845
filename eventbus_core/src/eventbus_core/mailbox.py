"""A mailbox: the events that wait for one client or handler, bounded, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import reduce
from operator import length_hint
from time import monotonic, time
from typing import Final

import anyio
import msgspec

from eventbus_core.event import Event
from eventbus_core.incoming import Ticket
from eventbus_core.losses import Dropped, Losses, add_up, count_up, loss_event, take_one
from eventbus_core.mailboxes import Mailboxes
from eventbus_core.options import Overflow

LOCAL_CHUNK: Final = 256
MAILBOX_FULL: Final = "mailbox full"
EXPIRED: Final = "expired"
NOTHING: Final[Iterator[Event]] = iter(())


class Chunk(msgspec.Struct, eq=False):
    """
    Events that came together, and what was lost just before them.

    *ticket* is settled once all of them have been handled or dropped. One chunk is made for nearly every visit to a
    mailbox: a struct of msgspec takes a third of the time of a class.
    """

    events: list[Event]
    size: int
    ticket: Ticket | None
    sender: str | None
    since: float
    losses: Losses | None = None

    def settle(self) -> None:
        """Give the sender its credit back; does nothing on successive calls."""
        if self.ticket is not None:
            self.ticket.settle(len(self.events))
            self.ticket = None


class Mailbox:
    """
    The events that wait for one consumer.

    While the consumer keeps up, nothing is dropped: remote senders wait for the credit that
    unhandled events hold back, local ones for room. A consumer that leaves an event waiting for
    longer than ``laggard_timeout`` holds up nobody any more, unless the node is slow as a whole and
    this one keeps at it; from then on, until it has caught up, what is beyond the bounds is dealt
    with as *overflow* says.

    Attributes:
        overflow: ``drop_oldest``, ``drop_newest``, or ``close``: then *on_full* is called, if there is one.
        on_full: called when too much waits; it is to :meth:`close`.
        at_once: has the consumer handle events that come from another node, on a ticket, if it can do so at once and
            nothing waits before them; takes away those that it still has in hand, and returns how many of the others it
            has handled: the rest is to be :meth:`put` here. ``None``: it cannot.
        closed: whether :meth:`close` was called.
    """

    __slots__ = (
        "_behind",
        "_chunks",
        "_current",
        "_far",
        "_lagging",
        "_losses",
        "_moved_at",
        "_near",
        "_place",
        "_rest",
        "_room",
        "_shared",
        "_size",
        "at_once",
        "closed",
        "on_full",
        "overflow",
        "wake",
    )

    def __init__(self, shared: Mailboxes, wake: Callable[[], None], overflow: Overflow | None = None) -> None:
        self._shared = shared
        self.wake = wake  # called when the first event comes into the empty mailbox
        self.overflow = overflow or shared.options.overflow
        self.on_full: Callable[[], None] | None = None
        self.at_once: Callable[[list[Event], Ticket | None], int] | None = None
        self._chunks: deque[Chunk] | None = None
        self._current: Chunk | None = None
        self._rest: Iterator[Event] = NOTHING  # of the current chunk
        self._size = 0
        self._lagging = False
        self._place: tuple[Iterator[Event], int] = NOTHING, 0  # of the consumer at the last tick, see kept_at
        self._moved_at = 0.0
        self._near = 0  # events of this node that wait
        self._far = 0  # and of others
        self._room: anyio.Event | None = None
        self._behind: list[Chunk] | None = None
        self._losses: Losses | None = None  # after all that waits
        self.closed = False

    @property
    def count(self) -> int:
        """How many events wait."""
        return self._near + self._far

    def put(self, events: list[Event], size: int, ticket: Ticket | None) -> None:
        """Add *events* of *size* bytes; never refuses and never waits."""
        self._come(Chunk(events, size, ticket, None if ticket is None else ticket.node, self._shared.now))

    def tell(self, losses: Losses) -> None:
        """Put word of *losses* behind all that waits: it takes no room, and is never dropped."""
        self._come(Chunk([], 0, None, None, self._shared.now, losses))

    def _come(self, chunk: Chunk) -> None:
        if self._behind is None:
            self._take_in(chunk)
            return
        passed_on = [event for event in chunk.events if event.hops]
        if passed_on:
            share = chunk.size * len(passed_on) // len(chunk.events)
            self._take_in(Chunk(passed_on, share, chunk.ticket, chunk.sender, chunk.since))
            chunk.events = [event for event in chunk.events if not event.hops]
            chunk.size -= share
        if chunk.events or chunk.losses:
            self._behind.append(chunk)

    def full(self) -> bool:
        """Return whether a local sender should wait for room before it adds anything."""
        shared = self._shared
        return (self._near >= shared.lead or self._size >= shared.room) and not self._lagging

    def add(self, event: Event, size: int) -> bool:
        """Add one event of this node if there is room; return whether there was."""
        shared = self._shared
        if (self._near >= shared.lead or self._size >= shared.room) and not self._lagging:
            return False
        last = self._chunks[-1] if self._chunks else None
        if last is not None and last.sender is None and len(last.events) < LOCAL_CHUNK and not self._losses:
            last.events.append(event)
            last.size += size
            self._near += 1
            self._size += size
        else:
            self._append(Chunk([event], size, None, None, shared.now))
        if self._lagging:
            self._keep_bounds()
        return True

    @property
    def holds_back(self) -> bool:
        """Whether what is forwarded is to come before what is sent here directly, see :meth:`hold_back`."""
        return self._behind is not None

    def occupy(self, event: Event, ticket: Ticket | None) -> None:
        """Count *event*, which was not :meth:`put` here, as one that the consumer has and is still to handle."""
        self._current = Chunk([event], 0, ticket, None if ticket is None else ticket.node, self._shared.now)
        self._shared.busy.add(self)

    def hold_back(self) -> None:
        """Let what is forwarded come before what is sent here directly, until :meth:`let_through`."""
        if self._behind is None:
            self._behind = []

    def let_through(self) -> None:
        """Take in what :meth:`hold_back` held back; does nothing on successive calls."""
        behind, self._behind = self._behind, None
        for chunk in behind or ():
            if not self.closed:
                self._take_in(chunk)

    async def room(self) -> None:
        """Wait until the consumer has taken something, or is not waited for any more."""
        if self._room is None:
            self._room = anyio.Event()
        await self._room.wait()

    def next(self) -> Event | None:
        """
        Return the next event, or ``None`` if there is none now.

        To ask for the next is to say that the one before has been handled. In the place of events
        that were lost comes one whose data is a :class:`Dropped` or a :class:`Gap`. Events that have
        expired are passed over, and reported.
        """
        # This is done for every event that is waited for, so the usual one costs a look at the clock and a step.
        if monotonic() > self._shared.fresh_until and self._stale():
            return None
        event = next(self._rest, None) or next(self._next_chunk(), None)
        while event is not None and event.expires is not None and self.expired(event, self.sender):
            event = next(self._rest, None) or next(self._next_chunk(), None)
        return event

    def take(self) -> Iterator[Event] | None:
        """
        Return the next events as far as they came together, or ``None`` if there are none now.

        What is not taken from the iterator stays in the mailbox, and to ask again is to say that what was taken has
        been handled. Those that have expired are among them: see :meth:`expired`.
        """
        if monotonic() > self._shared.fresh_until and self._stale():
            return None
        events = self._rest if length_hint(self._rest) else self._next_chunk()
        return None if events is NOTHING else events

    @property
    def sender(self) -> str | None:
        """The node that sent the event that was taken last, if another."""
        return None if self._current is None else self._current.sender

    def expired(self, event: Event, sender: str | None) -> bool:
        """Return whether the time of *event*, which came from *sender*, is over; if it is, report it."""
        if event.expires is None or event.expires >= time():
            return False
        self._shared.on_dropped([event], sender, EXPIRED)
        return True

    def _stale(self) -> bool:
        if self._shared.stale():
            self._shared.freeze(self)
            return True
        return False

    def _next_chunk(self) -> Iterator[Event]:
        """Settle the current chunk, which is at its end, and return the events of the next, or word of a loss."""
        if self._current is not None:
            self._current.settle()
            self._current = None
        losses = self._chunks[0].losses if self._chunks else self._losses
        if losses:
            return iter((loss_event(take_one(losses)),))
        if not self._chunks:
            self._lagging = False
            self._shared.rest(self)
            return NOTHING
        self._current = chunk = self._chunks.popleft()
        self._rest = iter(chunk.events)
        self._forget(chunk, len(chunk.events), chunk.size)
        self._let_in()
        return self._rest

    def stop_holding_up(self, before: float) -> None:
        """Give back the credit of all events if the oldest came before that time."""
        waiting = ([self._current] if self._current else []) + list(self._chunks or ())
        if waiting and waiting[0].since < before:
            self._lagging = True
            for chunk in waiting:
                chunk.settle()
            self._keep_bounds()
            self._let_in()

    def kept_at(self, now: float) -> bool:
        """
        Return whether the consumer took an event within ``laggard_timeout``, and no more waits than may.

        To be asked at each tick.
        """
        options, place = self._shared.options, (self._rest, length_hint(self._rest))
        if place != self._place:
            self._place, self._moved_at = place, now
        bounded = self.count <= options.mailbox_events and self._size <= options.mailbox_size
        return bounded and self._moved_at >= now - options.laggard_timeout

    def late(self, before: float) -> bool:
        """Return whether the oldest event came before that time, and senders are to wait for it."""
        oldest = self._current or (self._chunks[0] if self._chunks else None)
        return oldest is not None and oldest.since < before and not self._lagging

    def let_go(self) -> None:
        """Hold up no sender from now on: nobody consumes for the time being."""
        self.stop_holding_up(float("inf"))
        self._lagging = True

    def losses(self) -> Losses | None:
        """Return all losses of which word still waits here."""
        return reduce(add_up, [chunk.losses for chunk in (*(self._chunks or ()), *(self._behind or ()))], self._losses)

    def close(self) -> list[tuple[Event, str | None]]:
        """Take nothing in any more; return each event that was not handed out and the node that sent it, if another."""
        self.closed = True
        chunks = list(self._chunks or ()) + (self._behind or [])
        left = [(event, chunk.sender) for chunk in chunks for event in chunk.events]
        if self._current is not None:
            left[:0] = [(event, self._current.sender) for event in self._rest]
            chunks.append(self._current)
        for chunk in chunks:
            chunk.settle()
        self._chunks = self._current = self._behind = self._losses = None
        self._rest, self._place = NOTHING, (NOTHING, 0)
        self._size = self._near = self._far = 0
        self._shared.rest(self)
        self._let_in()
        self.wake()
        return left

    def _take_in(self, chunk: Chunk) -> None:
        if chunk.losses:
            self._losses = add_up(self._losses, chunk.losses)
            self._shared.busy.add(self)
            self.wake()
            return
        self._append(chunk)
        if self._lagging:
            chunk.settle()
            self._keep_bounds()

    def _append(self, chunk: Chunk) -> None:
        if self._chunks is None:  # most of many clients are idle: they get no deque
            self._chunks = deque()
        chunk.losses, self._losses = self._losses, None
        self._chunks.append(chunk)
        self._size += chunk.size
        if chunk.sender is None:
            self._near += len(chunk.events)
        else:
            self._far += len(chunk.events)
        if len(self._chunks) == 1:
            chunk.since = monotonic()
            self._shared.busy.add(self)
            self.wake()

    def _forget(self, chunk: Chunk, events: int, size: int) -> None:
        self._size -= size
        if chunk.sender is None:
            self._near -= events
        else:
            self._far -= events

    def _keep_bounds(self) -> None:
        """Deal with what is beyond the bounds."""
        options = self._shared.options
        newest = self.overflow == "drop_newest"
        while self._chunks:
            chunk = self._chunks[-1 if newest else 0]
            surplus = (self._size - options.mailbox_size) * len(chunk.events)  # by the mean size of the chunk's events
            excess = max(self.count - options.mailbox_events, -(-surplus // max(1, chunk.size)))
            if excess <= 0:
                return
            if self.overflow == "close" and self.on_full is not None:
                self.on_full()
                return
            self._drop(self._chunks, min(len(chunk.events), excess), newest=newest)

    def _drop(self, chunks: deque[Chunk], number: int, *, newest: bool) -> None:
        """Drop so many events of the oldest or the newest chunk, and leave word of it in their place."""
        chunk = chunks[-1 if newest else 0]
        chunk.settle()
        part = slice(len(chunk.events) - number, None) if newest else slice(number)
        lost, share = chunk.events[part], chunk.size * number // len(chunk.events)
        del chunk.events[part]
        chunk.size -= share
        losses: Losses | None = count_up(Dropped(number))
        if not chunk.events:
            losses = add_up(chunk.losses, losses)
            _ = chunks.pop() if newest else chunks.popleft()
        if newest or not chunks:
            self._losses = add_up(losses, self._losses)
        else:
            chunks[0].losses = add_up(losses, chunks[0].losses)
        self._forget(chunk, number, share)
        self._shared.dropped += number
        self._shared.on_dropped(lost, chunk.sender, MAILBOX_FULL)

    def _let_in(self) -> None:
        if self._room is not None:
            self._room.set()
            self._room = None
