"""The events that the receivers of a program got, compared with the model."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from typing import Any

import anyio
import attrs

from eventbus_core.model.event import Event
from eventbus_core.model.reports import Undeliverable
from eventbus_core.testing import waiting
from eventbus_core.testing.simulation.expectations import Letter, Model, Receiver


@attrs.frozen
class ReceivedEvent:
    """One event as a receiver got it, copied at that moment; *forwarded* by a node that held its client before."""

    source: str
    target: str
    type: str
    data: Any
    headers: dict[str, str] | None
    forwarded: bool


class Records:
    """
    All events that arrived, and all that were reported as undeliverable.

    Attributes:
        got: the events of each receiver so far.
        ids: the ids of these events.
    """

    def __init__(self, model: Model) -> None:
        self.got: dict[Receiver, list[ReceivedEvent]] = defaultdict(list)
        self.ids: dict[Receiver, list[str]] = defaultdict(list)
        self._model = model
        self._lost: list[Undeliverable] = []
        self._doomed: dict[int, Letter] = {}
        self._grew = anyio.Event()

    def doom(self, letter: Letter) -> None:
        """Expect a report on *letter*: it was accepted, and no receiver will handle it."""
        self._doomed[letter.number] = letter

    def record(self, receiver: Receiver, event: Event) -> None:
        """Keep a copy of *event*, and spoil the original, which *receiver* must not share with others."""
        data, headers = copy.deepcopy(event.data), copy.deepcopy(event.headers)
        got = ReceivedEvent(event.source, event.target, event.type, data, headers, forwarded=event.hops > 0)
        self.got[receiver].append(got)
        self.ids[receiver].append(event.id)
        spoil(event.data)
        if event.headers is not None:
            event.headers.clear()
        self._grew.set()
        self._grew = anyio.Event()

    def reported(self, fate: Undeliverable) -> None:
        """Keep the report on an event that no receiver handled."""
        self._lost.append(fate)
        self._grew.set()
        self._grew = anyio.Event()

    async def settled(self) -> None:
        """Return once all expected events have arrived, and check them."""
        with anyio.move_on_after(waiting.DEADLINE):
            while len(self._lost) < len(self._doomed) or any(
                len(self.got[receiver]) < len(letters) for receiver, letters in self._model.mail.items()
            ):
                await self._grew.wait()
        self.check()

    def check(self) -> None:
        """Fail if an event is missing, unexpected, or different from the one that was sent."""
        for receiver in self.got.keys() | self._model.mail.keys():
            got, letters = self.got[receiver], self._model.mail[receiver]
            numbers = Counter(delivery.data["n"] for delivery in got)
            wanted = Counter(letter.number for letter in letters)
            missing, unexpected = dict(wanted - numbers), dict(numbers - wanted)
            assert numbers == wanted, f"{receiver}: missing are {missing}, unexpected {unexpected}"
            assert len(set(self.ids[receiver])) == len(got)
            check_streams(receiver, got, letters)
        reported = Counter((fate.source, fate.target, fate.type) for fate in self._lost)
        doomed = Counter((letter.source, letter.target, letter.type) for letter in self._doomed.values())
        assert reported == doomed


def check_streams(receiver: Receiver, got: list[ReceivedEvent], letters: list[Letter]) -> None:
    """
    Check each delivery against its letter, and the order of the events from one node to one address.

    A node that learns of a move sends to the new node what may overtake its forwarded events: G4 holds for the others.
    """
    by_number = {letter.number: letter for letter in letters}
    streams: dict[tuple[str, str], list[int]] = defaultdict(list)
    for delivery in got:
        letter = by_number[delivery.data["n"]]
        assert (delivery.source, delivery.target, delivery.type) == (letter.source, letter.target, letter.type)
        assert delivery.data == {"n": letter.number, "value": letter.value}
        assert delivery.headers in (None, {"n": str(letter.number)})
        if not delivery.forwarded:
            streams[letter.node, letter.target].append(letter.number)
    for (node, target), numbers in streams.items():
        assert numbers == sorted(numbers), f"{receiver} got what {node} sent to {target} in the order {numbers}"


def spoil(data: Any) -> None:
    """Clear *data* in place, nested values too, so that a shared copy shows."""
    if isinstance(data, dict):
        for value in data.values():
            spoil(value)
        data.clear()
    elif isinstance(data, list):
        for value in data:
            spoil(value)
        data.clear()
