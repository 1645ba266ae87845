"""What the bus tells an application when it could not keep an event."""

from __future__ import annotations

from typing import Any, Final

import attrs
import msgspec
from msgspec.structs import force_setattr

from eventbus_core.event import Event

LOSS: Final = "$sys.loss"
"""The type of an event that stands in a client's stream where others were lost."""


@attrs.frozen
class Dropped:
    """Events that this receiver left waiting for too long: *missed* of them were dropped, in this place."""

    missed: int


@attrs.frozen
class Gap:
    """
    Events that were lost on the way for good, and could not be sent again.

    Attributes:
        source: the address of the node that sent them.
        partition: where they went.
        missed: how many.
    """

    source: str
    partition: str
    missed: int


@attrs.frozen
class Undeliverable:
    """
    The fate of an accepted event that nobody handled, as reported to its sender's node.

    Attributes:
        id, type, source, target: those of the event.
        reason: ``client gone``, ``node unreachable``, ``node dead``, ``no handler``, ``mailbox full``, ``expired`` or
            ``too many hops``.
    """

    id: str
    type: str
    source: str
    target: str
    reason: str


def loss_of(event: Event) -> Dropped | Gap | None:
    """Return the loss that *event* stands for, if the bus itself put it there: from the wire none can come."""
    loss: Any = event._data
    return loss[0] if event.type == LOSS and loss is not None and isinstance(loss[0], Dropped | Gap) else None


def loss_event(loss: Dropped | Gap) -> Event:
    """Return an event whose ``data`` is *loss*."""
    event = Event(LOSS, "$sys", "", "", msgspec.Raw(msgspec.msgpack.encode(loss)))
    value: Any = (loss,)
    force_setattr(event, "_data", value)
    return event
