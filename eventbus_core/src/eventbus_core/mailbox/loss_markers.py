"""
Markers in the stream of a mailbox: what was lost in that place.

Losses of one kind and place are added up, so that a marker takes no room however much was lost.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final, TypeAlias

import attrs
import msgspec
from msgspec.structs import force_setattr

from eventbus_core.model.event import Event
from eventbus_core.model.numbers import MAX_NUMBER
from eventbus_core.model.reports import Dropped, Gap

LOSS: Final = "$sys.loss"
"""The type of an event that stands in a client's stream where others were lost."""
MAX_KINDS_OF_LOSS: Final = 1000
"""Kinds that are kept apart in one place: forged frames may name any number of sources."""
OF_MANY: Final = Gap("", "", 0)

Losses: TypeAlias = Counter[Dropped | Gap]
"""How many events were lost in one place of a stream, by losses whose own count is zero."""


def count_up(loss: Dropped | Gap) -> Losses:
    """Return *loss* as the only one of its place."""
    return Counter({attrs.evolve(loss, missed=0): loss.missed})


def add_up(first: Losses | None, second: Losses | None) -> Losses | None:
    """
    Return both, which are now of one place: losses that differ only in their count become one.

    Beyond ``MAX_KINDS_OF_LOSS`` the gaps that came last count as one of unknown source and partition.
    """
    if first and second:
        first.update(second)
        of_many = first.pop(OF_MANY, 0)
        while len(first) > MAX_KINDS_OF_LOSS:
            of_many += first.popitem()[1]
        if of_many:
            first[OF_MANY] = of_many
    return first or second


def take_one(losses: Losses) -> Dropped | Gap:
    """Remove one of *losses*, which must not be empty, and return it."""
    kind = next(iter(losses))
    return attrs.evolve(kind, missed=min(losses.pop(kind), MAX_NUMBER))  # numbers of gaps may be forged


def loss_of(event: Event) -> Dropped | Gap | None:
    """Return the loss that *event* stands for, if this node put it there: none can come from the wire."""
    loss: Any = event._data
    return loss[0] if event.type == LOSS and loss is not None and isinstance(loss[0], Dropped | Gap) else None


def loss_event(loss: Dropped | Gap) -> Event:
    """Return an event whose ``data`` is *loss*."""
    event = Event(LOSS, "$sys", "", "", msgspec.Raw(msgspec.msgpack.encode(loss)))
    value: Any = (loss,)
    force_setattr(event, "_data", value)
    return event
