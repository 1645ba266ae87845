"""The retained topics that this node receives: each event in the order of its stream, however it came here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import islice
from time import monotonic
from typing import Final

import anyio

from eventbus_core.backend import Partition, Position, lane_partition
from eventbus_core.concurrency.backoff import Backoff
from eventbus_core.concurrency.notifier import Notifier
from eventbus_core.errors import EventBusError, FrameError, TransportUnavailable
from eventbus_core.history.feed import Feed, Seam
from eventbus_core.history.history_reader import HistoryReader, Reading
from eventbus_core.history.shares import Share, decode_share
from eventbus_core.history.stream_names import retention_of, stream_of
from eventbus_core.mailbox.loss_markers import count_up
from eventbus_core.mailbox.mailbox import Mailbox
from eventbus_core.model.event import Event, copy_event
from eventbus_core.model.reports import Gap, GapReason
from eventbus_core.model.retention import Retention
from eventbus_core.model.tokens import Mark, Token, tag_of
from eventbus_core.model.topics import SHARES, lane_of
from eventbus_core.observability.log import get_logger
from eventbus_core.observability.rejections import Rejections
from eventbus_core.options import BusOptions
from eventbus_core.routing.subscriptions import Subscriptions

logger = get_logger("eventbus")

PATIENCE: Final = 0.02
"""Seconds for which a share that was overtaken by another may arrive, before the history is read."""
CHECK_EVERY: Final = 5.0
"""Seconds from one comparison of all feeds with the history to the next: the last share of a burst may be lost."""
ANCHOR_AGE: Final = 5.0
"""Seconds by which the anchor in a token is behind, at least."""
MAX_FEEDS: Final = 10_000
LOOKED_AT: Final = 16
"""Feeds that may make room for another one, each time."""
AT_ONCE: Final = 100
READS: Final = 5


class TopicFeed:
    """
    A topic that this node receives.

    Attributes:
        topic, retention: which, and how much of it is kept.
        order: puts live shares in order.
        seams: of the readers that resumed.
        anchor: an event from some seconds ago, if known.
    """

    def __init__(self, topic: str, lane: Partition, retention: Retention) -> None:
        self.topic = topic
        self._lane = lane
        self.retention = retention
        self.order = Feed()
        self.seams: dict[Mailbox, Seam] = {}
        self.anchor: Mark | None = None
        self._next: Mark | None = None
        self._noted_at = 0.0

    def lacks(self, mailbox: Mailbox, end: Position | None) -> bool:
        """Return whether *mailbox* waits for live events, and did not read up to *end* itself."""
        seam = self.seams.get(mailbox)
        return seam is None or not (seam.reading or (end is not None and seam.passed(end)))

    def note(self, share: Share, now: float) -> None:
        """Remember the end of *share* as an anchor for later tokens, now and then."""
        if now - self._noted_at >= ANCHOR_AGE:
            self.anchor, self._next = self._next or self.anchor, Mark(share.last, share.fingerprint)
            self._noted_at = now

    def proven(self, token: Token) -> None:
        """Note that the stream still holds the event of *token*, if any: it is an anchor until a later one is known."""
        if token.mark.offset:
            self.anchor = self.anchor or token.anchor or token.mark

    def place(self, position: Position) -> Token:
        """Return the token of *position*."""
        mark = Mark(position.offset, position.fingerprint)
        anchor = self.anchor if self.anchor is not None and self.anchor.offset <= mark.offset else None
        return Token(tag_of(stream_of(self.topic)), position.epoch, mark, anchor)

    def token(self, position: Position) -> str:
        """Return the token of *position*, as text."""
        return str(self.place(position))

    def gap(self, reading: Reading, missed: int) -> Gap:
        """Return what receivers are told who missed so many events before those of *reading*."""
        first = reading.verdict.after + 1
        share = reading.shares[0] if reading.shares else None
        earliest = None if share is None else self.token(Position(share.epoch, first, share.fingerprint))
        reason = reading.verdict.reason or GapReason.TRIMMED
        return Gap(stream_of(self.topic), self._lane, missed, reason, earliest, self.token(reading.end))

    def unreadable(self, events: int) -> Gap:
        """Return what receivers are told of so many *events* that cannot be read."""
        return Gap(stream_of(self.topic), self._lane, events)

    def drop_seams(self) -> None:
        """Forget the seams of readers that are gone, and do not read any more."""
        for mailbox in [mailbox for mailbox, seam in self.seams.items() if mailbox.closed and not seam.reading]:
            del self.seams[mailbox]

    @property
    def idle(self) -> bool:
        """Whether the feed may begin again with the next share: no reader relies on it, and it lacks nothing."""
        return not (self.seams or self.order.behind or self.order.opening)

    def begin_again(self) -> None:
        """Forget what is of another life of the stream: its anchors, and where readers joined it."""
        self.seams = {mailbox: seam for mailbox, seam in self.seams.items() if seam.reading}
        for seam in self.seams.values():
            seam.reset()
        self.anchor = self._next = None
        self._noted_at = 0.0


class Feeds:
    """
    Hands the events of retained topics to their receivers on this node.

    Attributes:
        deliveries: to receivers of this node.
        repairs: how often a feed was behind and read the history.
        missed: events that were trimmed before this node got them.
        gaps: receivers that were told of a gap, by its reason.
    """

    def __init__(
        self,
        options: BusOptions,
        subscriptions: Subscriptions,
        reader: HistoryReader,
        rejections: Rejections,
        on_gap: Callable[[Gap], None],
    ) -> None:
        self.deliveries = self.repairs = self.missed = 0
        self.gaps: Counter[str] = Counter()
        self._lanes = options.lanes
        self._options = options
        self._max_waiting = options.mailbox_events
        self._match = subscriptions.topics.match
        self._reader = reader
        self._rejections = rejections
        self._on_gap = on_gap
        self._feeds: dict[str, TopicFeed] = {}
        self._behind: dict[str, TopicFeed] = {}
        self._check_at = monotonic() + CHECK_EVERY
        self._work = Notifier()

    def on_share(self, event: Event) -> None:
        """Take in a share that came from this or another node."""
        topic = event.type.removeprefix(SHARES)
        try:
            share = decode_share(event.raw)
        except FrameError as error:
            self._rejections.add(error.kind, error)
            return
        feed = self._feeds.get(topic)
        if not self._match(topic) and (feed is None or not feed.order.opening):
            self._drop(topic)  # it begins again with the next receiver
            return
        if feed is None:
            retention = retention_of(topic, self._options)
            if retention is None:
                return
            feed = self._feed(topic, retention)
        self._hand_on(feed, feed.order.live(share))

    def open(self, topic: str, retention: Retention, mailbox: Mailbox) -> TopicFeed:
        """Buffer what *mailbox* gets of *topic* from now on, until :meth:`join` or :meth:`leave`."""
        feed = self._feed(topic, retention)
        feed.seams[mailbox] = Seam()
        feed.order.open()
        return feed

    def reads(self, topic: str, mailbox: Mailbox) -> bool:
        """Return whether the feed of *topic* is being read for *mailbox*."""
        seam = self._seam(topic, mailbox)
        return seam is not None and seam.reading

    def has_all(self, topic: str, mailbox: Mailbox) -> bool:
        """Return whether *mailbox* joined the feed of *topic* by a read: then the history repairs each lost share."""
        return self._seam(topic, mailbox) is not None

    def join(self, feed: TopicFeed, mailbox: Mailbox, reading: Reading) -> None:
        """Give *mailbox*, for which the feed was opened, what was read, then what was buffered; from now on all."""
        for share in reading.shares:
            self._put(feed, share, reading.verdict.after, [mailbox])
        for share in feed.seams[mailbox].joined(reading.end):
            self._put(feed, share, 0, [mailbox])
        self._hand_on(feed, feed.order.opened(reading.end))

    async def read(self, feed: TopicFeed, mailbox: Mailbox, read: Callable[[], Awaitable[Reading]]) -> Reading:
        """
        Return what *read* reads for *mailbox*, for which the feed was opened.

        If the broker has lost the stream, or its latest events, and the feed has not noticed, it does so first.
        """
        for _ in range(READS):
            seam, before = feed.seams[mailbox], feed.order.cursor
            seam.begin()
            reading = await read()
            if feed.order.precedes(reading.end, before):
                feed.order.fall_behind()
                await self._repair(feed)
            elif not seam.stale and not feed.order.began_behind(reading.end):
                return reading
        raise TransportUnavailable(f"the history of topic {feed.topic!r} changes while it is read; try again")

    def leave(self, feed: TopicFeed, mailbox: Mailbox) -> None:
        """Undo :meth:`open`: the history was not read."""
        feed.seams.pop(mailbox, None)
        self._hand_on(feed, feed.order.not_opened())

    def distrust(self) -> None:
        """Compare every feed with the history soon: shares may have been lost."""
        self._check_at = 0.0
        self._work.notify()

    async def run(self) -> None:
        """Read the history for feeds that are behind."""
        backoff = Backoff()
        while True:
            if not self._behind:
                with anyio.move_on_after(max(0.0, self._check_at - monotonic())):
                    await self._work.wait()
            else:
                await anyio.sleep(PATIENCE)
            try:
                if monotonic() >= self._check_at:
                    self._check_at = monotonic() + CHECK_EVERY
                    await self._check()
                await self._catch_up()
            except EventBusError as error:
                logger.debug("retained topics cannot be read now: %s", error)
                self._check_at = 0.0
                await backoff.pause()
            else:
                backoff.reset()

    def _seam(self, topic: str, mailbox: Mailbox) -> Seam | None:
        feed = self._feeds.get(topic)
        return None if feed is None else feed.seams.get(mailbox)

    def _feed(self, topic: str, retention: Retention) -> TopicFeed:
        feed = self._feeds.get(topic)
        if feed is None:
            if len(self._feeds) >= MAX_FEEDS:
                self._make_room()
            lane = lane_partition(lane_of(topic, self._lanes))
            feed = self._feeds[topic] = TopicFeed(topic, lane, retention)
        return feed

    def _make_room(self) -> None:
        """Remove an idle feed, if one of the next few is idle: to look at all would cost more with every feed."""
        for topic in list(islice(self._feeds, LOOKED_AT)):
            if self._feeds[topic].idle:
                self._drop(topic)
                return
            self._feeds[topic] = self._feeds.pop(topic)  # now the last

    def _drop(self, topic: str) -> None:
        self._feeds.pop(topic, None)
        self._behind.pop(topic, None)

    async def _check(self) -> None:
        """Find the feeds that the history is ahead of."""
        for feed in self._feeds.values():
            feed.drop_seams()
        feeds = [feed for feed in self._feeds.values() if feed.order.cursor is not None]
        tops = await self._reader.tops([stream_of(feed.topic) for feed in feeds]) if feeds else ()
        for feed, top in zip(feeds, tops, strict=True):
            if top is None or not feed.order.at(top):
                feed.order.fall_behind()
                self._behind[feed.topic] = feed

    async def _catch_up(self) -> None:
        failures: list[EventBusError] = []

        async def repair(feed: TopicFeed) -> None:
            try:
                await self._repair(feed)
            except EventBusError as error:
                failures.append(error)

        async with anyio.create_task_group() as group:
            for feed in list(self._behind.values())[:AT_ONCE]:
                group.start_soon(repair, feed)
        if failures:
            raise failures[0]

    async def _repair(self, feed: TopicFeed) -> None:
        """Read what the feed lacks, and hand it on, unless it came meanwhile."""
        order = feed.order
        cursor = order.begin_read() if order.behind else None
        if cursor is not None:
            self.repairs += 1
            reading = await self._reader.since(stream_of(feed.topic), feed.retention, feed.place(cursor))
            if self._feeds.get(feed.topic) is not feed:
                return  # dropped meanwhile: another feed may be in its place
            self._take_in(feed, reading)
        if not order.behind and self._behind.get(feed.topic) is feed:
            del self._behind[feed.topic]

    def _take_in(self, feed: TopicFeed, reading: Reading) -> None:
        order, verdict = feed.order, reading.verdict
        if verdict.reason is None:
            self._hand_on(feed, order.caught_up(reading.end, reading.shares))
        elif verdict.reason is GapReason.TRIMMED:
            if missed := order.skip(verdict.after):
                self._tell_lacking(feed, feed.gap(reading, missed), reading.end._replace(offset=verdict.after))
            self._hand_on(feed, order.caught_up(reading.end, reading.shares), verdict.after)
        else:
            feed.begin_again()
            self._tell_lacking(feed, feed.gap(reading, 0))
            self._hand_on(feed, order.reset(reading.end, reading.shares), verdict.after)

    def _tell_lacking(self, feed: TopicFeed, gap: Gap, end: Position | None = None) -> None:
        """Tell the readers of *feed* of *gap*, but for those that read up to its *end* themselves."""
        self._tell([mailbox for mailbox in self._match(feed.topic) if feed.lacks(mailbox, end)], gap)

    def _tell(self, mailboxes: Sequence[Mailbox], gap: Gap) -> None:
        if mailboxes:
            self.missed += gap.missed
            self.gaps[gap.reason] += len(mailboxes)
            self._on_gap(gap)
        for mailbox in mailboxes:
            mailbox.tell(count_up(gap))

    def _hand_on(self, feed: TopicFeed, shares: Iterable[Share], after: int = 0) -> None:
        for share in shares:
            mailboxes = self._match(feed.topic)
            if feed.seams:
                mailboxes = tuple(
                    mailbox for mailbox in mailboxes if (seam := feed.seams.get(mailbox)) is None or seam.live(share)
                )
            self._put(feed, share, after, mailboxes)
        if feed.order.behind:
            self._behind[feed.topic] = feed
            self._work.notify()

    def _put(self, feed: TopicFeed, share: Share, after: int, mailboxes: Sequence[Mailbox]) -> None:
        """
        Put the events of *share* above the offset *after* into *mailboxes*, a copy into each but the first.

        Those that cannot be read are a gap.
        """
        feed.note(share, monotonic())
        events, missing = share.unpack(stream_of(feed.topic), after, feed.anchor)
        for place, mailbox in enumerate(mailboxes if events else ()):
            if mailbox.closed:
                continue
            self.deliveries += len(events)
            mailbox.put(list(map(copy_event, events)) if place else list(events), len(share.body), None)
            if mailbox.count > self._max_waiting:  # no sender waits for it: the bounds apply at once
                mailbox.let_go()
        if missing:
            self._rejections.add("malformed", f"{missing:,} events of the stream {stream_of(feed.topic)!r}")
            self._tell([mailbox for mailbox in mailboxes if not mailbox.closed], feed.unreadable(missing))
