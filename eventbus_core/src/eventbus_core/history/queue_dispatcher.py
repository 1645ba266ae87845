"""The dispatcher of a retained queue: takes its events out of the history, and notes there which are handled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from time import monotonic
from typing import Final, NamedTuple

import anyio

from eventbus_core.backend import POSITION_LIFE, Entry, Page, Position
from eventbus_core.concurrency.backoff import Backoff
from eventbus_core.concurrency.notifier import Notifier
from eventbus_core.errors import EventBusError
from eventbus_core.history.queue_progress import PROVEN, QueueProgress, QueueRecord, decode_record, encode_record
from eventbus_core.history.queue_streams import QueueStreams
from eventbus_core.history.resumption import judge
from eventbus_core.history.shares import unpack_salvaged
from eventbus_core.history.stream_names import queue_stream, record_stream
from eventbus_core.model.event import Event
from eventbus_core.model.reports import GapReason
from eventbus_core.model.retention import Retention
from eventbus_core.observability.log import get_logger

logger = get_logger("eventbus")

POLL_EVERY: Final = 2.0
"""Seconds after which the history is read although no node said that it has more: that message may be lost."""


class Knowledge(NamedTuple):
    """What a dispatcher knew of the stream at its end, and when it read an event last that it had not read."""

    record: QueueRecord
    read_at: float


class QueueDispatcher:
    """
    Hands out the events of the retained queue *name* to its consumers, while this node holds the queue.

    An event counts as handled once that is in the history. So events that were with consumers when the node of the
    dispatcher died, and those that were handled in the last moment before, are handed out again by the next.

    Args:
        former: what the dispatcher before it on this node knew. A broker that comes back empty has also lost the note
            of what is handled, and ended the lease of this node, so that the next dispatcher has to notice the loss.
    """

    def __init__(
        self,
        name: str,
        retention: Retention,
        streams: QueueStreams,
        frozen: Callable[[], bool],
        former: Knowledge | None = None,
    ) -> None:
        self._name = name
        self._retention = retention
        self._streams = streams
        self._frozen = frozen  # another node may dispatch the queue now
        self._work = streams.queues.dispatch(name, frozen)
        self._progress = QueueProgress()
        self._former = former
        self._read_at = -inf if former is None else former.read_at
        self._more = False  # the history has events that were not read
        self._done_count = self._recorded_count = 0  # events handled, and gaps told; the history knows the latter
        self._withdrawn = self._closed = False
        self._changed = Notifier()

    async def run(self) -> None:
        """Hand out until cancelled."""
        self._progress = await self._resumed()
        async with anyio.create_task_group() as group:
            group.start_soon(self._record)
            await self._hand_out()

    def close(self) -> None:
        """Leave what is not handled to the next dispatcher; after :meth:`run` has ended."""
        self._streams.queues.end_dispatch(self._name)
        self._closed = True
        self._changed.notify()

    @property
    def knowledge(self) -> Knowledge | None:
        """What the next dispatcher on this node has to know."""
        if not self._progress.epoch:
            return self._former
        return Knowledge(self._progress.record(monotonic()), self._read_at)

    def wake(self) -> None:
        """Read the history: it has more."""
        self._more = True
        self._changed.notify()

    def withdraw(self) -> None:
        """Hand out nothing more; another dispatcher will."""
        self._withdrawn = True
        self._work.withdraw()
        self._changed.notify()

    async def finished(self) -> None:
        """
        Return once every event that was handed out is handled, and the history knows; after :meth:`withdraw`.

        After :meth:`close`, that is for the next dispatcher.
        """
        while len(self._work):
            await self._work.wait_for_progress()
        while self._recorded_count < self._done_count and not self._closed:
            await self._changed.wait()

    async def _resumed(self) -> QueueProgress:
        """Return the progress of the dispatcher before."""
        backoff = Backoff()
        while True:
            try:
                page = await self._streams.reader.page(record_stream(self._name), 1)
                record = decode_record(page.entries[-1].body) if page is not None and page.entries else None
                if record is None and self._former is not None and self._was_read_lately(self._former.record.epoch):
                    record = self._former.record
                return await self._resume(record) if record is not None and record.epoch else QueueProgress()
            except EventBusError as error:
                logger.debug("queue %s cannot be read now: %s", self._name, error)
                await backoff.pause()

    async def _resume(self, record: QueueRecord) -> QueueProgress:
        """Return the progress by *record*: from the latest of its marks that the stream still proves."""
        reason = GapReason.NEW_STREAM
        for mark in record.marks:
            page = await self._streams.reader.page(queue_stream(self._name), max(1, mark.offset))
            if page is None:  # a day after the last event, or the broker lost it
                if record.unhandled or self._was_read_lately(record.epoch):
                    self._tell(GapReason.NEW_STREAM, 0)
                return QueueProgress()
            verdict = judge(Position(record.epoch, *mark), page, page.top.offset)
            if verdict.reason in PROVEN:
                if mark is record.mark:
                    return QueueProgress(record.epoch, mark, record.unhandled, record.anchor, record.told)
                self._tell(reason, 0)
                unhandled = [offset for offset in record.unhandled if offset <= mark.offset]
                return QueueProgress(record.epoch, mark, unhandled, mark)
            reason = verdict.reason or reason
        self._tell(reason, 0)
        return QueueProgress()

    def _was_read_lately(self, epoch: str) -> bool:
        """
        Return whether this node read an event of *epoch* for the first time less than a day ago.

        Then the broker still has the stream. A read without a new event says nothing: the stream may end at any time.
        """
        former = self._former
        return former is not None and former.record.epoch == epoch and monotonic() - former.read_at < POSITION_LIFE

    async def _hand_out(self) -> None:
        backoff = Backoff()
        while True:
            self._more = False
            try:
                page = await self._next_page()
            except EventBusError as error:
                logger.debug("queue %s cannot be read now: %s", self._name, error)
                await backoff.pause()
                continue
            backoff.reset()
            if page is not None:
                await self._take(page)
            if page is None or page.top.offset < self._progress.following:
                await self._wait_for_more()

    async def _wait_for_more(self) -> None:
        with anyio.move_on_after(POLL_EVERY):
            while not self._more:
                await self._changed.wait()

    async def _next_page(self) -> Page | None:
        page = await self._streams.reader.page(queue_stream(self._name), self._progress.start)
        if page is None or self._progress.check(page) is None:
            return page
        self._progress = await self._resume(self._progress.record(monotonic()))
        return await self._streams.reader.page(queue_stream(self._name), self._progress.start)

    async def _take(self, page: Page) -> None:
        progress = self._progress
        if progress.check(page) is not None:
            return  # the stream changes while it is read: the next read resumes
        if not page.entries:
            self._tell_missed(progress.take_end(page.top))
        for entry in page.entries:
            missed, offsets = progress.take(entry)
            if offsets:
                self._read_at = monotonic()
            self._tell_missed(missed)
            events = self._unpack(entry)
            for offset in offsets:
                handled = partial(self._handled, progress, offset)
                event = events[offset - entry.first]
                if event is None:
                    self._streams.tell(self._name, GapReason.LOST, 1)
                    handled()
                    continue
                while not (self._work.has_room() or self._withdrawn):
                    await self._work.wait_for_progress()
                if self._withdrawn:
                    await anyio.sleep_forever()
                self._work.add(event, len(memoryview(event.raw)), handled)

    def _unpack(self, entry: Entry) -> Sequence[Event | None]:
        """Return the events of *entry*; ``None`` for each that cannot be read, or was forged."""
        events = unpack_salvaged(entry.body, entry.events)
        return [event if event is not None and event.target == self._name else None for event in events]

    def _tell_missed(self, missed: int) -> None:
        if missed:
            self._tell(GapReason.TRIMMED, missed)

    def _tell(self, reason: GapReason, missed: int) -> None:
        """Report events that are gone, and have the history know, so that the next dispatcher does not do so again."""
        self._streams.tell(self._name, reason, missed)
        self._note()

    def _handled(self, progress: QueueProgress, offset: int) -> None:
        progress.handled(offset)
        self._note()

    def _note(self) -> None:
        self._done_count += 1
        self._changed.notify()

    async def _record(self) -> None:
        """Note in the history what is handled, whenever that has changed and no other node can dispatch the queue."""
        backoff = Backoff()
        while True:
            while self._recorded_count == self._done_count:
                await self._changed.wait()
            if self._frozen():
                await backoff.pause()
                continue
            count, record = self._done_count, self._progress.record(monotonic())
            try:
                await self._streams.record(self._name, self._retention, encode_record(record))
            except EventBusError as error:
                logger.debug("queue %s: cannot note what is handled now: %s", self._name, error)
                await backoff.pause()
            else:
                backoff.reset()
                self._recorded_count = count
                self._changed.notify()
