"""Events of retained streams, which know their position."""

from __future__ import annotations

from typing import Any, NamedTuple

from msgspec.structs import force_setattr

from eventbus_core.model.event import Event
from eventbus_core.model.tokens import Mark, Token


class Origin(NamedTuple):
    """
    What the events of one entry have in common.

    Attributes:
        tag: of the stream, as in tokens.
        epoch: of the stream.
        fingerprint: of the entry.
        anchor: an earlier event of the stream, if known.
    """

    tag: str
    epoch: str
    fingerprint: int
    anchor: Mark | None


class RetainedEvent(Event, frozen=True, array_like=True, gc=False):
    """An event that came from a retained stream; on the wire it is like any other."""

    # The origin and the offset of the event; on the wire this field can only be nil.
    _place: None = None

    @property
    def position(self) -> str | None:
        """See :class:`Event`."""
        place: Any = self._place
        if place is None:
            return None
        origin, offset = place
        anchor = origin.anchor if origin.anchor is not None and origin.anchor.offset <= offset else None
        return str(Token(origin.tag, origin.epoch, Mark(offset, origin.fingerprint), anchor))


def place(event: RetainedEvent, origin: Origin, offset: int) -> RetainedEvent:
    """Give *event*, which no receiver has seen yet, its position, and return it."""
    force_setattr(event, "_place", (origin, offset))
    return event
