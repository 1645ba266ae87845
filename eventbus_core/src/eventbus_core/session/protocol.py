"""
The rules that both ends of a session share: the notes that they exchange, and when a request is repeated.

A session is the numbered sequence of frames from one node incarnation to one partition. Nothing in this package
does I/O or reads a clock: frames and times go in, frames and notes come out.

=========  ========================  ==========================================================================
note       from                      meaning
=========  ========================  ==========================================================================
grant      receiver, to the sender   you may send up to position *first*; all events below number *last* are handled
ask        sender, to the receivers  I am out of credit: repeat your grant
where      receiver, to all nodes    question *session*: where are your sessions to the partitions in *positions*?
at         sender, to the receiver   answer to question *session*: those that ever carried an event are at *positions*
missing    receiver, to the sender   retransmit the events from *first* to *last*
gone       sender, to the requester  the events from *first* to *last* are no longer kept
left       receiver, to the sender   I take nothing from number *first* on: do not wait for me
=========  ========================  ==========================================================================

Any note may be lost or duplicated. So grants carry absolute positions, and a request without an answer is repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from eventbus_core.session.wire import Header, Note

GRANT: Final = "grant"
ASK: Final = "ask"
WHERE: Final = "where"
AT: Final = "at"
MISSING: Final = "missing"
NOT_KEPT: Final = "gone"
RECEIVER_LEFT: Final = "left"

MAX_ASKED: Final = 80
"""Partitions in one ``where``: an answer that lists a session to each of them fits into the smallest frame."""
WHERE_PAUSES: Final = (0.05, 0.1, 0.15, *(0.25,) * 12)
"""
Seconds without any answer from each ``where`` to the next; after the last, no answer is expected any more.

A question without an answer must come from a dead or hung sender only: of a live one, the first frames after it may be
lost unnoticed. So they are many: if one frame in five is lost, all of them fail once in ten million times.
"""
MISSING_PAUSES: Final = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""The same for ``missing``: fewer, as each answer is large, and longer, until the sender's own connection is back."""


class SessionContext(Protocol):
    """
    The node, as both ends of a session use it.

    Attributes:
        namespace, node, incarnation: ours, as in :class:`Header`.
        reorder_tolerance: seconds that a frame may be overtaken by others before it counts as lost.
        pack: packs frames with events: :func:`pack`, or :func:`pack_sealed` if there is a secret.
        hold_back_size: bytes that a session may hold back while it waits for missing frames.
        on_handled: called with the arrival time of each frame whose deliveries are all handled.
    """

    namespace: str
    node: str
    incarnation: int
    reorder_tolerance: float
    hold_back_size: int
    on_handled: Callable[[float], None]
    pack: Callable[[Header, Sequence[bytes]], bytes]

    def tell(self, node: str, note: Note) -> None:
        """Send *note* to *node*'s session layer."""

    def count_duplicates(self, events: int) -> None:
        """Count *events* that arrived before and were dropped."""

    def count_missed(self, events: int) -> None:
        """Count *events* that are lost for good."""
