"""
One session, seen from its two ends: numbering, duplicate removal, repair of gaps, and credit.

A session is the numbered sequence of frames from one node incarnation to one partition.
Nothing here does I/O or reads a clock: frames and times go in, frames and notes come out.

=========  ============================  =====================================================
note       from                          meaning
=========  ============================  =====================================================
grant      receiver, to the sender       you may send up to position *first*; all below number *last* is handled
ask        sender, to the receivers      I am held up: tell me your grant again
where      receiver, to the sender       which number comes next on *partition*?
missing    receiver, to the sender       send the events from *first* up to *last* again
gone       sender, to the one who asked  the events from *first* up to *last* are kept no more
left       receiver, to the sender       I take nothing from number *first* on: do not wait for me
=========  ============================  =====================================================

Every note may be lost or doubled: grants carry absolute positions, and what gets no answer
is asked again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from eventbus_core.wire import Note

if TYPE_CHECKING:
    from eventbus_core.outgoing import Kept, Outgoing

GRANT: Final = "grant"
ASK: Final = "ask"
WHERE: Final = "where"
MISSING: Final = "missing"
GONE: Final = "gone"
LEFT: Final = "left"

ASK_AGAIN: Final = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Seconds after each question to the next; after the last nobody will answer."""
MISSING_AGAIN: Final = (*ASK_AGAIN, 3.2)
"""The same for what is missing: a sender that is there hears nothing while its own connection is not back yet."""


class SessionContext(Protocol):
    """What a session needs of the node that it belongs to."""

    namespace: str
    node: str
    incarnation: int
    window: int
    narrowed: int
    patience: float
    hold_back_size: int
    duplicates: int
    missed: int
    on_settled: Callable[[float], None]

    def keep(self, kept: Kept) -> None:
        """Keep a frame that was sent, for as long as there is room."""

    def unkeep(self, outgoing: Outgoing) -> None:
        """Keep the frame of *outgoing* that was kept last no more."""

    def tell(self, node: str, note: Note) -> None:
        """Send *note* to *node*'s session layer."""
