"""The reports that an application gets about events that were not handled."""

from __future__ import annotations

from enum import StrEnum

import attrs


class Reason(StrEnum):
    """Why an event that was accepted was not handled."""

    CLIENT_GONE = "client gone"
    NODE_UNREACHABLE = "node unreachable"
    NODE_DEAD = "node dead"
    NO_HANDLER = "no handler"
    MAILBOX_FULL = "mailbox full"
    EXPIRED = "expired"
    TOO_MANY_HOPS = "too many hops"
    BUS_CLOSED = "bus closed"
    REFUSED = "refused"


@attrs.frozen
class Dropped:
    """*missed* events were dropped from a full mailbox, in this place of its stream."""

    missed: int


class GapReason(StrEnum):
    """Why events were missed."""

    LOST = "lost"
    TRIMMED = "trimmed"
    ROLLED_BACK = "rolled_back"
    NEW_STREAM = "new_stream"
    UNKNOWN_POSITION = "unknown_position"


@attrs.frozen
class Gap:
    """
    Events that a receiver missed.

    Either they were lost between two nodes and could not be retransmitted, or they are not in the history of a
    retained topic any more.

    Attributes:
        source: the address of the node that sent them, ``#topic`` of a retained one, or the name of a retained queue;
            empty if more nodes did than are kept apart.
        partition: where they went; empty likewise.
        missed: how many; exactly, if *reason* is ``lost`` or ``trimmed``. Else that cannot be known, and it is 0.
        reason: ``lost`` between two nodes; ``trimmed``: beyond the retention of the topic; ``rolled_back``: the broker
            has lost its latest events, perhaps some that the receiver has; ``new_stream``: the broker has lost the
            whole stream, or has had no event of it for a day; ``unknown_position``: the text is no
            position of this topic.
        earliest: the position of the first event that the history still has; ``None`` if it has none, or *reason* is
            ``lost``.
        position: the position behind the last event that follows from the history; ``None`` if *reason* is ``lost``.
    """

    source: str
    partition: str
    missed: int
    reason: str = GapReason.LOST
    earliest: str | None = None
    position: str | None = None


@attrs.frozen
class Resumed:
    """
    The answer to a reader that missed nothing.

    Attributes:
        events: how many events follow that were published since its position.
        position: the position behind the last of them: a reader resumes from it if no further event comes.
    """

    events: int
    position: str


@attrs.frozen
class Undeliverable:
    """
    The fate of an event that was accepted and not handled, as reported to the node that accepted it.

    Attributes:
        id, type, source, target: those of the event.
        reason: one of ``client gone``, ``node unreachable``, ``node dead``, ``no handler``, ``mailbox full``,
            ``expired``, ``too many hops``, ``bus closed``, ``refused``; a newer node may report others.
    """

    id: str
    type: str
    source: str
    target: str
    reason: str
