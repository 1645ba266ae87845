"""Where dropped sessions stood, so that each continues there if its sender turns out to be alive."""

from __future__ import annotations

from typing import Final, TypeAlias

from eventbus_core.session.incoming import Incoming
from eventbus_core.session.wire import Header

MAX_DROPPED: Final = 100_000

_Key: TypeAlias = "tuple[str, int, int, int]"
"""Node, incarnation, session, and the number of our join of its partition."""


class DroppedSessions:
    """
    Remembers the next expected number of each session that was dropped, so that nothing is lost in silence.

    A sender that hung for longer than its lease is given up, and its sessions are dropped. When it continues them, the
    receiver must know what it expected: it asks for the events in between, or reports a gap of exactly that many.

    Bounded: the numbers of at most ``MAX_DROPPED`` sessions are kept, and the oldest are dropped first. A session whose
    number is no longer kept continues with the first frame that comes.
    """

    def __init__(self) -> None:
        self._expected: dict[_Key, int] = {}
        self._incomplete: dict[str, int] = {}
        """Per node, the latest incarnation of which a number is no longer kept."""

    def remember(self, incoming: Incoming, join: int) -> None:
        """Keep where *incoming* stands, which came by our *join* of its partition."""
        self._expected[incoming.node, incoming.incarnation, incoming.session, join] = incoming.continues_at
        if len(self._expected) > MAX_DROPPED:
            node, incarnation, _, _ = oldest = next(iter(self._expected))
            del self._expected[oldest]
            self._incomplete[node] = max(incarnation, self._incomplete.get(node, 0))
            if len(self._incomplete) > MAX_DROPPED:
                del self._incomplete[next(iter(self._incomplete))]

    def recall(self, header: Header, join: int) -> int | None:
        """Return the number expected next in the session of *header*, if it was dropped since our *join*."""
        return self._expected.pop((header.node, header.incarnation, header.session, join), None)

    def is_incomplete(self, header: Header) -> bool:
        """Return whether the session of *header* may be one whose number is no longer kept."""
        return header.incarnation <= self._incomplete.get(header.node, 0)
