"""What the receivers of a program got, held against what the model says."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from typing import Any

import anyio
import attrs

from eventbus_core.event import Event
from eventbus_core.losses import Undeliverable
from eventbus_core.testing import waiting
from eventbus_core.testing.model import Letter, Model, Receiver


@attrs.frozen
class Delivery:
    """What a receiver got, as it was at that moment."""

    source: str
    target: str
    type: str
    data: Any
    headers: dict[str, str] | None


class Records:
    """
    All that came, and all that was reported as undeliverable.

    Attributes:
        got: what each receiver got so far.
        ids: of all events that came, to each of the receivers.
    """

    def __init__(self, model: Model) -> None:
        self.got: dict[Receiver, list[Delivery]] = defaultdict(list)
        self.ids: dict[Receiver, list[str]] = defaultdict(list)
        self._model = model
        self._lost: list[Undeliverable] = []
        self._doomed: dict[int, Letter] = {}
        self._grew = anyio.Event()

    def doom(self, letter: Letter) -> None:
        """Expect a report on *letter*, which was accepted, though nobody will handle it."""
        self._doomed[letter.number] = letter

    def record(self, receiver: Receiver, event: Event) -> None:
        """Keep what *receiver* got, and spoil the receiver's own copy, which nobody else may hold."""
        data, headers = copy.deepcopy(event.data), copy.deepcopy(event.headers)
        self.got[receiver].append(Delivery(event.source, event.target, event.type, data, headers))
        self.ids[receiver].append(event.id)
        spoil(event.data)
        if event.headers is not None:
            event.headers.clear()
        self._grew.set()
        self._grew = anyio.Event()

    def reported(self, fate: Undeliverable) -> None:
        """Keep what a sender was told of an event that nobody handled."""
        self._lost.append(fate)
        self._grew.set()
        self._grew = anyio.Event()

    async def settled(self) -> None:
        """Return once all that must have come has come, and check it."""
        with anyio.move_on_after(waiting.DEADLINE):
            while len(self._lost) < len(self._doomed) or any(
                len(self.got[receiver]) < len(letters) for receiver, letters in self._model.mail.items()
            ):
                await self._grew.wait()
        self.check()

    def check(self) -> None:
        """Fail if anything came that should not have, or came otherwise than it was sent, or has not come yet."""
        for receiver in self.got.keys() | self._model.mail.keys():
            got, letters = self.got[receiver], self._model.mail[receiver]
            numbers = Counter(delivery.data["n"] for delivery in got)
            wanted = Counter(letter.number for letter in letters)
            assert numbers == wanted, f"{receiver}: missing {wanted - numbers}, too much {numbers - wanted}"
            assert len(set(self.ids[receiver])) == len(got)
            check_streams(receiver, got, letters)
        reported = Counter((fate.source, fate.target, fate.type) for fate in self._lost)
        doomed = Counter((letter.source, letter.target, letter.type) for letter in self._doomed.values())
        assert reported == doomed


def check_streams(receiver: Receiver, got: list[Delivery], letters: list[Letter]) -> None:
    """Check each delivery against its letter, and the order within what one node sent to one address."""
    by_number = {letter.number: letter for letter in letters}
    streams: dict[tuple[str, str], list[int]] = defaultdict(list)
    for delivery in got:
        letter = by_number[delivery.data["n"]]
        assert (delivery.source, delivery.target, delivery.type) == (letter.source, letter.target, letter.type)
        assert delivery.data == {"n": letter.number, "value": letter.value}
        assert delivery.headers in (None, {"n": str(letter.number)})
        streams[letter.node, letter.target].append(letter.number)
    for (node, target), numbers in streams.items():
        assert numbers == sorted(numbers), f"{receiver} got what {node} sent to {target} in the order {numbers}"


def spoil(data: Any) -> None:
    """Change *data* in place, as deep as it goes: whoever else holds it will see."""
    if isinstance(data, dict):
        for value in data.values():
            spoil(value)
        data.clear()
    elif isinstance(data, list):
        for value in data:
            spoil(value)
        data.clear()
