"""The components of a node that retains topics, together."""

from __future__ import annotations

import attrs

from eventbus_core.concurrency.service_group import Service
from eventbus_core.history.appender import Appender
from eventbus_core.history.feeds import Feeds
from eventbus_core.history.history_reader import HistoryReader
from eventbus_core.history.queue_streams import QueueStreams
from eventbus_core.history.topic_history import TopicHistory
from eventbus_core.mailbox.mailbox import Mailbox


@attrs.frozen
class HistoryParts:
    """
    What a node has only if it retains topics.

    Attributes:
        appender: takes what is published to them.
        reader: reads their streams.
        feeds: hands them to their receivers on this node.
        topics: resumes readers.
        queues: the streams of retained queues.
        shares: the mailbox in which shares wait for the feeds.
    """

    appender: Appender
    reader: HistoryReader
    feeds: Feeds
    topics: TopicHistory
    queues: QueueStreams
    shares: Mailbox

    def services(self) -> list[Service]:
        """Return the tasks to run."""
        return [self.appender.run, self.feeds.run]
