"""The frames of all sessions that were sent and may be asked for again, and those that are to be retransmitted."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

import msgspec

from eventbus_core.backend import Frame, node_partition
from eventbus_core.concurrency.budget import Budget

MAX_RETRANSMISSIONS: Final = 10_000
MAX_RETRANSMISSION_SIZE: Final = 16 * 1024 * 1024


class KeptFrame(msgspec.Struct, eq=False):
    """
    A frame that may be asked for again, until its buffer drops it.

    Attributes:
        session_frames: the kept frames of the same session, this one among them, oldest first.
        first: the number of its first event.
        events: how many events it carries.
        size: the bytes of these events.
        at: when it was sent.
        data: its bytes.
        taken_back: whether its session has taken it back or discarded it; then it is no longer in ``session_frames``.
    """

    session_frames: deque[KeptFrame]
    first: int
    events: int
    size: int
    at: float
    data: bytes
    taken_back: bool = False

    def take_back(self) -> None:
        """Keep the frame, now empty, only until its turn to be dropped."""
        self.taken_back = True
        self.data = b""


class ResendBuffer:
    """
    Keeps sent frames within *max_size* bytes and *max_age* seconds, and collects those to retransmit.

    Invariant: all frames stand in ``_frames`` in the order in which they were sent, and so do those of each session
    in its own queue. The oldest of all is therefore the oldest of its session, and dropping it is one step in each.

    Attributes:
        retransmissions: frames to publish once more as they are; bounded by :meth:`has_budget`.

    A node that asks gets at most as many bytes a second as are kept, or ``MAX_RETRANSMISSION_SIZE``, if that is more.
    """

    def __init__(self, max_size: int, max_age: float) -> None:
        self.retransmissions: list[Frame] = []
        self._max_size = max_size
        self._max_age = max_age
        self._frames: deque[KeptFrame] = deque()
        self._size = 0
        self._retransmission_size = 0
        self._budget = Budget(max(max_size, MAX_RETRANSMISSION_SIZE))

    def keep(self, frame: KeptFrame) -> None:
        """Keep *frame*, and drop the oldest frames of any session beyond the bound."""
        frame.session_frames.append(frame)
        self._frames.append(frame)
        self._size += len(frame.data)
        while self._size > self._max_size:
            self._drop_oldest()

    def take_back(self, session_frames: deque[KeptFrame]) -> None:
        """Drop the newest frame of a session, since its numbers will be used again."""
        frame = session_frames.pop()
        self._size -= len(frame.data)
        frame.take_back()

    def discard(self, frame: KeptFrame) -> None:
        """Drop *frame*, wherever it stands in its session."""
        frame.session_frames.remove(frame)
        self._size -= len(frame.data)
        frame.take_back()

    def expire(self, now: float) -> None:
        """Drop the frames that are too old."""
        while self._frames and self._frames[0].at < now - self._max_age:
            self._drop_oldest()
        self._budget.expire(now)

    def has_budget(self, node: str, now: float, size: int = 0) -> bool:
        """
        Return whether more may be sent to *node* now on its request, and count *size* bytes if so.

        Otherwise it has to ask again.
        """
        few = len(self.retransmissions) < MAX_RETRANSMISSIONS
        return few and self._retransmission_size < MAX_RETRANSMISSION_SIZE and self._budget.allows(node, now, size)

    def retransmit(self, node: str, frames: Iterable[bytes], now: float) -> None:
        """Publish *frames* once more, to *node* alone."""
        partition = node_partition(node)
        for data in frames:
            self.retransmissions.append(Frame(partition, data))
            self._retransmission_size += len(data)
            self._budget.allows(node, now, len(data))

    def take_retransmissions(self) -> list[Frame]:
        """Return the frames to publish again, and clear them."""
        frames, self.retransmissions = self.retransmissions, []
        self._retransmission_size = 0
        return frames

    def _drop_oldest(self) -> None:
        frame = self._frames.popleft()
        if not frame.taken_back:
            frame.session_frames.popleft()
            self._size -= len(frame.data)
