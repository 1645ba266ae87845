"""What an adapter is."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Hashable, Mapping, Sequence
from typing import Any, ClassVar, Final, TypeAlias

import attrs
import msgspec

from tests.benchmarks.cases import Case

Deliver: TypeAlias = Callable[[Hashable, Any], None]
"""To be called with the name of a client, or ``None`` for a broadcast, and the data."""

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder().decode

POOL: Final = 512  # redis-py 8 caps a pool at 100 connections if it isn't told otherwise


@attrs.frozen
class Context:
    """
    What the harness knows; an adapter uses what its peer may fairly know.

    Attributes:
        uri: of the broker.
        node: the number of this one.
        clients: that it holds.
        owners: the node of each client; for a peer whose user keeps such a map.
        senders: how many sends there will be at a time.
    """

    uri: str
    node: int
    clients: Sequence[str]
    owners: Mapping[str, int]
    case: Case
    senders: int


class Peer(ABC):
    """
    One side, on one node. A send returns when the peer would tell its caller that the event is accepted.

    Attributes:
        broker: the server that it needs: ``redis``, ``nats``, or ``memory`` for none.
        label: its row in the tables.
        libraries: whose versions are recorded.
        senders: how many sends at a time to try.
        windowed: whether one task sends, and the number of senders is the adapter's own window.
        failures: what went wrong in its tasks.
    """

    broker: ClassVar[str] = "redis"
    label: ClassVar[str]
    libraries: ClassVar[tuple[str, ...]] = ("redis", "hiredis")
    senders: ClassVar[tuple[int, ...]] = (16, 128)
    windowed: ClassVar[bool] = False

    def __init__(self, context: Context) -> None:
        self.context = context
        self._tasks: list[asyncio.Task[None]] = []

    @abstractmethod
    async def start(self, deliver: Deliver) -> None:
        """Connect, and return when every subscription is in place."""

    @abstractmethod
    async def send(self, client: str, data: Any) -> object:
        """Send to one client."""

    @abstractmethod
    async def broadcast(self, data: Any) -> object:
        """Send to every node."""

    @abstractmethod
    async def publish(self, data: Any) -> object:
        """Send to all clients, as subscribers of one topic."""

    async def request(self, client: str, data: Any) -> Any:
        """Send to one client and return its answer, which is *data* again."""
        raise NotImplementedError(f"{self.label} has no adapter for requests")

    async def close(self) -> None:
        """Disconnect."""
        await self.end_tasks()

    @property
    def topical(self) -> bool:
        """Whether clients are to receive the topic, and nothing else."""
        return self.context.case.traffic == "topic"

    @property
    def failures(self) -> list[str]:
        return [
            repr(task.exception() or "a task ended too early")
            for task in self._tasks
            if task.done() and not task.cancelled()
        ]

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a task that does not end by itself."""
        self._tasks.append(asyncio.create_task(coroutine))

    async def end_tasks(self) -> None:
        """End the tasks that were spawned."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()


def with_pool(uri: str) -> str:
    """Return *uri* with as many connections as there may be senders, for a peer that makes its own client of it."""
    return f"{uri}?max_connections={POOL}"
