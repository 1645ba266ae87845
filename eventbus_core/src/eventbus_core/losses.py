"""What the bus tells an application when it could not keep an event."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final, TypeAlias

import attrs
import msgspec
from msgspec.structs import force_setattr

from eventbus_core.event import Event
from eventbus_core.wire import LARGEST

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
        source: the address of the node that sent them; empty if too many nodes did to tell them apart.
        partition: where they went; empty likewise.
        missed: how many.
    """

    source: str
    partition: str
    missed: int


Losses: TypeAlias = Counter[Dropped | Gap]
"""How many events were lost in one place of a stream, by losses that themselves count none."""

MOST_KINDS: Final = 1000
"""Of losses in one place; frames that are forged may be of any number of sources."""


@attrs.frozen
class Undeliverable:
    """
    The fate of an accepted event that nobody handled, as reported to its sender's node.

    Attributes:
        id, type, source, target: those of the event.
        reason: ``client gone``, ``node unreachable``, ``node dead``, ``no handler``, ``mailbox full``, ``expired``,
            ``too many hops`` or ``bus closed``.
    """

    id: str
    type: str
    source: str
    target: str
    reason: str


OF_MANY: Final = Gap("", "", 0)


def count_up(loss: Dropped | Gap) -> Losses:
    """Return *loss* as the only one of its place."""
    return Counter({attrs.evolve(loss, missed=0): loss.missed})


def add_up(first: Losses | None, second: Losses | None) -> Losses | None:
    """
    Return both, which are now of one place: those that differ in their count alone become one.

    Beyond ``MOST_KINDS`` the gaps that came last count as one of unknown source and partition.
    """
    if first and second:
        first.update(second)
        of_many = first.pop(OF_MANY, 0)
        while len(first) > MOST_KINDS:
            of_many += first.popitem()[1]
        if of_many:
            first[OF_MANY] = of_many
    return first or second


def take_one(losses: Losses) -> Dropped | Gap:
    """Take one out of *losses*, which are some."""
    kind = next(iter(losses))
    return attrs.evolve(kind, missed=min(losses.pop(kind), LARGEST))  # numbers of gaps may be forged


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
