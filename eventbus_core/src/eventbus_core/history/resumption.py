"""Decides what a reader with a token missed. Pure: the facts come from one atomic read."""

from __future__ import annotations

from typing import Final, NamedTuple

from eventbus_core.backend import Page, Position
from eventbus_core.model.reports import GapReason

NO_FINGERPRINT: Final = 0
"""The fingerprint in the position of a reader that begins there: it has no event that is to be proven."""


class Verdict(NamedTuple):
    """
    What a reader is told.

    Attributes:
        reason: why it cannot go on where it was; ``None`` if it can.
        missed: how many events are gone, if *reason* is ``TRIMMED``.
        after: the reader gets the events above this offset.
    """

    reason: GapReason | None
    missed: int
    after: int


def judge(known: Position, page: Page, kept: int) -> Verdict:
    """
    Return the verdict on a reader whose last event is *known*.

    *page* was read from the offset of *known*, and readers get the newest *kept* events at most. Only the fingerprint
    proves that the event at this offset is the one that the reader has. If the history does not hold it any more, the
    reader gets a gap, if only one of zero events. A position with ``NO_FINGERPRINT`` holds no event: nothing is proven.
    """
    top, floor = page.top, max(0, page.top.offset - kept)
    if known.epoch != top.epoch:
        return Verdict(GapReason.NEW_STREAM, 0, floor)
    if known.offset == top.offset:
        proven = known.fingerprint in (top.fingerprint, NO_FINGERPRINT)
        return Verdict(None, 0, known.offset) if proven else Verdict(GapReason.ROLLED_BACK, 0, floor)
    if known.offset > top.offset:
        return Verdict(GapReason.ROLLED_BACK, 0, floor)
    earliest = page.entries[0] if page.entries else None
    if earliest is not None and earliest.first <= known.offset:
        if known.fingerprint not in (earliest.fingerprint, NO_FINGERPRINT):
            return Verdict(GapReason.ROLLED_BACK, 0, floor)
        if known.offset >= floor:
            return Verdict(None, 0, known.offset)
    after = max(floor, top.offset if earliest is None else earliest.first - 1)
    if known.offset == 0 and after == 0:
        return Verdict(None, 0, 0)  # nothing was there to be proven
    return Verdict(GapReason.TRIMMED, after - known.offset, after)
