"""A mailbox: the events that wait for one client or handler, bounded and in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import reduce
from itertools import chain
from operator import length_hint
from time import monotonic, time
from typing import Final, NamedTuple, TypeAlias

from eventbus_core.concurrency.notifier import Notifier
from eventbus_core.mailbox.chunk import Chunk
from eventbus_core.mailbox.limits import MailboxLimits
from eventbus_core.mailbox.loss_markers import Losses, add_up, count_up, loss_event, take_one
from eventbus_core.model.event import Event
from eventbus_core.model.reports import Dropped, Reason
from eventbus_core.options import Overflow
from eventbus_core.session.incoming import Ticket

LOCAL_CHUNK: Final = 256
NOTHING: Final[Iterator[Event]] = iter(())

AtOnce: TypeAlias = Callable[[list[Event], Ticket | None], int]


class Leftover(NamedTuple):
    """An event that a closed mailbox had not handed out, and the node that sent it, if another."""

    event: Event
    sender: str | None
    ticket: Ticket | None

    def settle(self) -> None:
        """Confirm the event to its sender: call it once the fate of the event is known."""
        if self.ticket is not None:
            self.ticket.settle(1)


class Mailbox:
    """
    The events that wait for one consumer.

    While the consumer keeps up, nothing is dropped: remote senders wait for the credit that unhandled events hold
    back, local senders wait for room. A consumer that leaves an event waiting for longer than
    ``slow_consumer_timeout`` delays its senders no more, unless the node as a whole is slow and this consumer makes
    progress; from then on, until it has caught up, the policy *overflow* applies beyond the bounds.

    How the fields relate: ``_chunks`` wait; ``_current`` was taken last, and ``_rest`` iterates over its events that
    the consumer has not taken. ``_local`` and ``_remote`` count the events in ``_chunks`` by where they came from, and
    ``_size`` is their size in bytes, so ``count`` leaves out the rest of ``_current``. ``_held_back`` holds chunks
    that must come after what a former owner still forwards.

    Attributes:
        overflow: ``drop_oldest``, ``drop_newest``, or ``close``: then *on_full* is called, if there is one, and must
            :meth:`close` the mailbox.
        at_once: called with events of another node and their ticket, to handle them without a stay in the mailbox. It
            removes from the list the events that the consumer keeps in hand, and returns how many of the others were
            handled; the rest must be :meth:`put` here. ``None`` if the consumer cannot do that, or is closed.
        closed: whether :meth:`close` was called.
    """

    __slots__ = (
        "_chunks",
        "_current",
        "_held_back",
        "_limits",
        "_local",
        "_losses",
        "_moved_at",
        "_on_full",
        "_place",
        "_remote",
        "_rest",
        "_room",
        "_size",
        "_slow",
        "at_once",
        "closed",
        "overflow",
        "wake",
    )

    def __init__(
        self,
        limits: MailboxLimits[Mailbox],
        wake: Callable[[], None],
        overflow: Overflow | None = None,
        *,
        on_full: Callable[[], None] | None = None,
        at_once: AtOnce | None = None,
    ) -> None:
        self._limits = limits
        self.wake = wake  # called when the first event is put into the empty mailbox
        self.overflow = overflow or limits.options.overflow
        self.at_once = at_once
        self._on_full = on_full
        self._chunks: deque[Chunk] | None = None
        self._current: Chunk | None = None
        self._rest: Iterator[Event] = NOTHING  # of the current chunk
        self._size = 0
        self._slow = False
        self._place: tuple[Iterator[Event], int] = NOTHING, 0  # of the consumer at the last tick, see making_progress
        self._moved_at = 0.0
        self._local = 0  # events of this node that wait
        self._remote = 0  # and of others
        self._room = Notifier()
        self._held_back: list[Chunk] | None = None
        self._losses: Losses | None = None  # after all that waits
        self.closed = False

    @property
    def count(self) -> int:
        """How many events wait."""
        return self._local + self._remote

    def put(self, events: list[Event], size: int, ticket: Ticket | None) -> None:
        """Add *events* of *size* bytes; never refuses and never waits."""
        self._come(Chunk(events, size, ticket, None if ticket is None else ticket.node, self._limits.now))

    def tell(self, losses: Losses) -> None:
        """Put a marker of *losses* behind all that waits; it takes no room and is never dropped."""
        self._come(Chunk([], 0, None, None, self._limits.now, losses))

    def _come(self, chunk: Chunk) -> None:
        if self._held_back is None:
            self._take_in(chunk)
            return
        passed_on = [event for event in chunk.events if event.hops]
        if passed_on:
            share = chunk.size * len(passed_on) // len(chunk.events)
            self._take_in(Chunk(passed_on, share, chunk.ticket, chunk.sender, chunk.since))
            chunk.events = [event for event in chunk.events if not event.hops]
            chunk.size -= share
        if chunk.events or chunk.losses:
            self._held_back.append(chunk)

    def has_room(self) -> bool:
        """Return whether a local sender may add an event without waiting."""
        limits = self._limits
        return self._slow or (self._local < limits.backlog and self._size < limits.max_bytes)

    def add(self, event: Event, size: int) -> bool:
        """Add one event of this node if there is room; return whether there was."""
        limits = self._limits
        if (self._local >= limits.backlog or self._size >= limits.max_bytes) and not self._slow:  # has_room, inlined
            return False
        last = self._chunks[-1] if self._chunks else None
        if last is not None and last.sender is None and len(last.events) < LOCAL_CHUNK and not self._losses:
            last.events.append(event)
            last.size += size
            self._local += 1
            self._size += size
        else:
            self._append(Chunk([event], size, None, None, limits.now))
        if self._slow:
            self._keep_bounds()
        return True

    @property
    def holds_back(self) -> bool:
        """Whether forwarded events must come before direct ones, see :meth:`hold_back`."""
        return self._held_back is not None

    def always_wait(self) -> None:
        """Handle nothing at once any more: the consumer turned out to wait for something."""
        self.at_once = None

    def occupy(self, event: Event, ticket: Ticket | None) -> None:
        """Count *event*, which was not :meth:`put` here, as one that the consumer has in hand."""
        self._limits.begin(self)  # first, since the time of the last tick may be long past
        self._current = Chunk([event], 0, ticket, None if ticket is None else ticket.node, self._limits.now)

    def hold_back(self) -> None:
        """Keep events that are sent here directly behind forwarded ones, until :meth:`let_through`."""
        if self._held_back is None:
            self._held_back = []

    def let_through(self) -> None:
        """Take in the events that were held back; does nothing on successive calls."""
        behind, self._held_back = self._held_back, None
        for chunk in behind or ():
            if not self.closed:
                self._take_in(chunk)

    async def wait_for_room(self) -> None:
        """Wait until the consumer has taken something, or senders need not wait for it any more."""
        await self._room.wait()

    def next(self) -> Event | None:
        """
        Return the next event, or ``None`` if there is none now.

        A call says that the event before was handled. In the place of lost events stands one whose data is a
        :class:`Dropped` or a :class:`Gap`. Expired events are skipped and reported.
        """
        # Called for each event that is awaited: the usual one costs a look at the clock and a step.
        if monotonic() > self._limits.fresh_until and self._frozen():
            return None
        event = next(self._rest, None) or next(self._next_chunk(), None)
        while event is not None and event.expires is not None and self.expired(event, self.sender):
            event = next(self._rest, None) or next(self._next_chunk(), None)
        return event

    def take(self) -> Iterator[Event] | None:
        """
        Return the next events that came together, or ``None`` if there are none now.

        Events that are not taken from the iterator stay in the mailbox; the next call says that those taken were
        handled. Expired events are among them: see :meth:`expired`.
        """
        if monotonic() > self._limits.fresh_until and self._frozen():
            return None
        events = self._rest if length_hint(self._rest) else self._next_chunk()
        return None if events is NOTHING else events

    def unsettled(self, ticket: Ticket, events: int) -> list[Chunk]:
        """Return the chunks of *ticket* that are not settled, at most until they have *events* events."""
        found: list[Chunk] = []
        for chunk in chain((self._current,), self._chunks or (), self._held_back or ()):
            if chunk is not None and chunk.ticket is ticket:
                found.append(chunk)
                events -= len(chunk.events)
                if events <= 0:
                    break
        return found

    def first_unhandled(self, chunk: Chunk) -> Event:
        """Return the first event of *chunk*, which is :meth:`unsettled`, that may not be handled yet."""
        taken = len(chunk.events) - length_hint(self._rest) if chunk is self._current else 0
        return chunk.events[max(taken - 1, 0)]  # the last that was taken may be in hand

    @property
    def sender(self) -> str | None:
        """The node that sent the event that was taken last, if another."""
        return None if self._current is None else self._current.sender

    def expired(self, event: Event, sender: str | None) -> bool:
        """Return whether *event*, which came from *sender*, has expired; report it if so."""
        if event.expires is None or event.expires >= time():
            return False
        self._limits.on_dropped([event], sender, Reason.EXPIRED)
        return True

    def _frozen(self) -> bool:
        if self._limits.frozen():
            self._limits.wait_for_thaw(self)
            return True
        return False

    def _next_chunk(self) -> Iterator[Event]:
        """Settle the current chunk, which is at its end, and return the events of the next, or a loss marker."""
        if self._current is not None:
            self._current.settle()
            self._current = None
        losses = self._chunks[0].losses if self._chunks else self._losses
        if losses:
            return iter((loss_event(take_one(losses)),))
        if not self._chunks:
            self._slow = False
            self._limits.rest(self)
            return NOTHING
        self._current = chunk = self._chunks.popleft()
        self._rest = iter(chunk.events)
        self._forget(chunk, len(chunk.events), chunk.size)
        self._room.notify()
        return self._rest

    def stop_holding_up(self, before: float) -> None:
        """Give back the credit of all events if the oldest came before that time."""
        waiting = ([self._current] if self._current else []) + list(self._chunks or ())
        if waiting and waiting[0].since < before:
            self._slow = True
            for chunk in waiting:
                chunk.settle()
            self._keep_bounds()
            self._room.notify()

    def making_progress(self, now: float) -> bool:
        """
        Return whether the consumer took an event within ``slow_consumer_timeout`` and the mailbox is in its bounds.

        Must be called at each tick.
        """
        options, place = self._limits.options, (self._rest, length_hint(self._rest))
        if place != self._place:
            self._place, self._moved_at = place, now
        bounded = self.count <= options.mailbox_events and self._size <= options.mailbox_size
        return bounded and self._moved_at >= now - options.slow_consumer_timeout

    def late(self, before: float) -> bool:
        """Return whether the oldest event came before that time, and senders wait for it."""
        oldest = self._current or (self._chunks[0] if self._chunks else None)
        return oldest is not None and oldest.since < before and not self._slow

    def let_go(self) -> None:
        """Delay no sender from now on: there is no consumer for the time being."""
        self.stop_holding_up(float("inf"))
        self._slow = True

    def losses(self) -> Losses | None:
        """Return all losses whose markers wait here."""
        return reduce(
            add_up, [chunk.losses for chunk in (*(self._chunks or ()), *(self._held_back or ()))], self._losses
        )

    def close(self) -> list[Leftover]:
        """Refuse further events; return those that were not handed out, for the caller to settle."""
        self.closed = True
        self.at_once = None
        chunks = list(self._chunks or ()) + (self._held_back or [])
        left = [Leftover(event, chunk.sender, chunk.ticket) for chunk in chunks for event in chunk.events]
        if (current := self._current) is not None:
            rest = list(self._rest)
            left[:0] = [Leftover(event, current.sender, current.ticket) for event in rest]
            if current.ticket is not None:
                current.ticket.settle(len(current.events) - len(rest))
            self._current = Chunk([], 0, None, current.sender, current.since)  # of the event in hand
        self._chunks = self._held_back = self._losses = None
        self._rest, self._place = NOTHING, (NOTHING, 0)
        self._size = self._local = self._remote = 0
        self._limits.rest(self)
        self._room.notify()
        self.wake()
        return left

    def _take_in(self, chunk: Chunk) -> None:
        if chunk.losses:
            self._losses = add_up(self._losses, chunk.losses)
            self._limits.begin(self)
            self.wake()
            return
        self._append(chunk)
        if self._slow:
            chunk.settle()
            self._keep_bounds()

    def _append(self, chunk: Chunk) -> None:
        if self._chunks is None:  # most of many clients are idle: they get no deque
            self._chunks = deque()
        chunk.losses, self._losses = self._losses, None
        self._chunks.append(chunk)
        self._size += chunk.size
        if chunk.sender is None:
            self._local += len(chunk.events)
        else:
            self._remote += len(chunk.events)
        if len(self._chunks) == 1:
            chunk.since = monotonic()
            self._limits.begin(self)
            self.wake()

    def _forget(self, chunk: Chunk, events: int, size: int) -> None:
        self._size -= size
        if chunk.sender is None:
            self._local -= events
        else:
            self._remote -= events

    def _keep_bounds(self) -> None:
        """Apply the overflow policy beyond the bounds."""
        options = self._limits.options
        newest = self.overflow == "drop_newest"
        while self._chunks:
            chunk = self._chunks[-1 if newest else 0]
            surplus = (self._size - options.mailbox_size) * len(chunk.events)  # by the mean size of the chunk's events
            excess = max(self.count - options.mailbox_events, -(-surplus // max(1, chunk.size)))
            if excess <= 0:
                return
            if self.overflow == "close" and self._on_full is not None:
                self._on_full()
                return
            self._drop(self._chunks, min(len(chunk.events), excess), newest=newest)

    def _drop(self, chunks: deque[Chunk], number: int, *, newest: bool) -> None:
        """Drop *number* events of the oldest or the newest chunk, and put a marker in their place."""
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
        self._limits.count_dropped(number)
        self._limits.on_dropped(lost, chunk.sender, Reason.MAILBOX_FULL)
