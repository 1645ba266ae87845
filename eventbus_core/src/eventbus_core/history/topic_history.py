"""Reading retained topics: resume after a position, and the latest events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

from eventbus_core.concurrency.deadlines import Deadlines
from eventbus_core.errors import EventBusError, InvalidName, OptionError, TopicNotRetained
from eventbus_core.history.feeds import Feeds, TopicFeed
from eventbus_core.history.history_reader import HistoryReader, Reading
from eventbus_core.history.resumption import Verdict
from eventbus_core.history.stream_names import inbox_of, not_retained, retention_of, stream_of
from eventbus_core.mailbox.mailbox import Mailbox
from eventbus_core.model.event import Event
from eventbus_core.model.names import check_pattern, check_topic
from eventbus_core.model.reports import Gap, Resumed
from eventbus_core.model.retention import Retention
from eventbus_core.model.tokens import Token
from eventbus_core.model.topics import has_wildcard
from eventbus_core.options import BusOptions
from eventbus_core.routing.subscriptions import Subscriptions


class TopicHistory:
    """
    The retained topics of a bus, as readers see them.

    Attributes:
        resumes: readers that came back with a position.
        gaps: those of them that were told of a gap, by its reason.
    """

    def __init__(
        self,
        options: BusOptions,
        reader: HistoryReader,
        feeds: Feeds,
        subscriptions: Subscriptions,
        deadlines: Deadlines,
    ) -> None:
        self.resumes = 0
        self.gaps: Counter[str] = Counter()
        self._options = options
        self._reader = reader
        self._feeds = feeds
        self._subscriptions = subscriptions
        self._deadlines = deadlines

    async def resume(
        self, topic: str, since: str, mailbox: Mailbox, subscribe: Callable[[], Awaitable[None]]
    ) -> Resumed | Gap:
        """
        Put into *mailbox* what follows the position *since*, then what is published to *topic* from now on.

        *subscribe* subscribes the mailbox to the topic; what it raises is raised here.

        Raises:
            TopicNotRetained: *topic* is not.
            EventBusError: *mailbox* receives the topic already.
            TransportUnavailable: the history cannot be read now; the mailbox is left subscribed.
        """
        return await self._resume(topic, self._retention(topic), since, mailbox, subscribe)

    async def resume_inbox(
        self, client: str, since: str, mailbox: Mailbox, subscribe: Callable[[], Awaitable[None]]
    ) -> Resumed | Gap:
        """
        Do what :meth:`resume` does with what is sent to a retained *client*.

        Raises:
            OptionError: *client* is not retained.
        """
        topic = inbox_of(client)
        retention = retention_of(topic, self._options)
        if retention is None:
            raise not_retained(client)
        return await self._resume(topic, retention, since, mailbox, subscribe)

    async def _resume(
        self,
        topic: str,
        retention: Retention,
        since: str,
        mailbox: Mailbox,
        subscribe: Callable[[], Awaitable[None]],
    ) -> Resumed | Gap:
        if not isinstance(since, str):
            raise OptionError.bad_value("since", since, "a position, which is text, or '' for from now on")
        if self._feeds.reads(topic, mailbox) or mailbox in self._subscriptions.topics.match(topic):
            raise EventBusError(
                f"this client receives topic {topic!r} already, so it cannot resume it; "
                f"unsubscribe first from the patterns that match it"
            )
        feed = self._feeds.open(topic, retention, mailbox)
        try:
            with self._deadlines.within(None):
                await subscribe()
                reading = await self._feeds.read(feed, mailbox, partial(self._read, feed, since))
            answer = _answer(feed, reading)
            self._feeds.join(feed, mailbox, reading)
        except BaseException:
            self._feeds.leave(feed, mailbox)
            raise
        self.resumes += bool(since)
        if isinstance(answer, Gap):
            self.gaps[answer.reason] += 1
        return answer

    async def latest(self, topic: str, limit: int) -> list[Event]:
        """
        Return the newest *limit* events of *topic*, oldest first.

        Raises:
            TopicNotRetained: *topic* is not.
            TransportUnavailable: the history cannot be read now.
        """
        retention = self._retention(topic)
        with self._deadlines.within(None):
            reading = await self._reader.latest(stream_of(topic), retention, limit)
        if reading is None:
            return []
        after, stream = reading.verdict.after, stream_of(topic)
        return [event for share in reading.shares for event in share.unpack(stream, after, None)[0]]

    async def _read(self, feed: TopicFeed, since: str) -> Reading:
        stream = stream_of(feed.topic)
        if since:
            token = Token.parse(since, stream)
            reading = await self._reader.since(stream, feed.retention, token)
            if token is not None and reading.verdict.reason is None:
                feed.proven(token)
            return reading
        position = await self._reader.position(stream, feed.retention)
        return Reading(Verdict(None, 0, position.offset), (), position)

    def _retention(self, topic: str) -> Retention:
        if has_wildcard(check_pattern(topic)):
            raise InvalidName("topic", topic, "history is read of one topic at a time, not of a pattern")
        retention = self._options.retain.of(check_topic(topic))
        if retention is None:
            raise TopicNotRetained(topic)
        return retention


def _answer(feed: TopicFeed, reading: Reading) -> Resumed | Gap:
    if reading.verdict.reason is None:
        return Resumed(reading.events, feed.token(reading.end))
    return feed.gap(reading, reading.verdict.missed)
