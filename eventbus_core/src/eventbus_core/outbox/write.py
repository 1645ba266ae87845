"""A write: the frames of one call of the transport."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from eventbus_core.backend import Frame, Outcome, Partition, Transport
from eventbus_core.outbox.partition_queue import PartitionQueue

Taken: TypeAlias = "tuple[PartitionQueue, list[bytes], float]"
"""The events of a frame, the queue that they came from, and when the oldest was accepted."""


class Write:
    """
    The frames of one call of the transport, and what to do once it has taken them.

    Attributes:
        frames: those with events first, then those without: notes, probes, answers to questions for positions, and
            frames of the sessions themselves.
        taken: the events of each frame with events.
        probed: the queue of each probe.
        repeated: whether the call was made before and failed, so that a frame may have arrived before.
    """

    __slots__ = ("_outcome", "frames", "probed", "repeated", "taken")

    def __init__(self, *, repeated: bool = False) -> None:
        self.frames: list[Frame] = []
        self.taken: list[Taken] = []
        self.probed: list[PartitionQueue] = []
        self.repeated = repeated
        self._outcome: Outcome | None = None

    @property
    def begun(self) -> bool:
        """Whether the transport has the frames, and :meth:`publish` only waits for the outcome."""
        return self._outcome is not None

    def begin(self, transport: Transport) -> None:
        """Have *transport* write the frames now, if it can."""
        self._outcome = transport.begin_publish(self.frames)

    def publish(self, transport: Transport) -> Awaitable[Sequence[int] | None]:
        """Do what :meth:`Transport.publish` does, or the rest of it."""
        outcome, self._outcome = self._outcome, None
        return transport.publish(self.frames) if outcome is None else outcome()

    def failed(self) -> None:
        """Note that the call failed: the broker may have taken any number of the frames."""
        self.repeated = True

    def split(self, route: Callable[[Partition], str]) -> dict[str, Write]:
        """Return a write for each *route* of the frames, in their order."""
        names = [route(frame.partition) for frame in self.frames]
        if names.count(names[0]) == len(names):
            return {names[0]: self}
        parts: dict[str, Write] = {}
        taken = iter(self.taken)
        for name, frame in zip(names, self.frames, strict=True):
            part = parts.get(name)
            if part is None:
                part = parts[name] = Write(repeated=self.repeated)
            part.frames.append(frame)
            if (events := next(taken, None)) is not None:
                part.taken.append(events)
        for queue in self.probed:
            parts[route(queue.session.partition)].probed.append(queue)
        return parts
