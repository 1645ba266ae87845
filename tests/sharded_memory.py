"""An in-memory backend whose partitions are spread over several servers, each of which may hang, fail or move."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

import anyio
from anyio.lowlevel import checkpoint

from eventbus_core.backend import Frame, Outcome, Partition, TransportURI
from eventbus_core.errors import TransportUnavailable
from eventbus_memory import MemoryTransport

SERVERS = ("server-0", "server-1", "server-2", "server-3")


class Sharded(MemoryTransport):
    """
    Checks that the core keeps to the contract: one write for each route at a time, of frames of that route.

    Attributes:
        hung: the servers that hang, each with the event that ends it.
        taken: how many frames of its next write a server takes before that write fails.
        moved: the servers of partitions that are not at their first one.
        busy: the servers that a write of this node has not ended on.
    """

    hung: ClassVar[dict[str, anyio.Event]] = {}
    taken: ClassVar[dict[str, int]] = {}
    moved: ClassVar[dict[Partition, str]] = {}

    def __init__(self, uri: TransportURI, node: str) -> None:
        super().__init__(uri, node)
        self._closing = anyio.Event()
        self.busy: set[str] = set()

    def route(self, partition: Partition) -> str:
        return self.moved.get(partition) or SERVERS[sum(partition.encode()) % len(SERVERS)]

    async def publish(self, frames: Sequence[Frame]) -> Sequence[int]:
        (server,) = {self.route(frame.partition) for frame in frames}
        assert server not in self.busy, "two writes of one route at a time"
        self.busy.add(server)
        try:
            while server in self.hung and not self._closing.is_set():
                await self.hung[server].wait()
            if any(self.route(frame.partition) != server for frame in frames):
                raise TransportUnavailable(f"partitions have moved away from {server}")
            if server in self.taken:
                await super().publish(frames[: self.taken.pop(server)])
                raise TransportUnavailable(f"{server} has failed")
            return await super().publish(frames)
        finally:
            self.busy.discard(server)

    def begin_publish(self, frames: Sequence[Frame]) -> Outcome | None:
        (server,) = {self.route(frame.partition) for frame in frames}
        assert server not in self.busy, "two writes of one route at a time"
        if server in self.hung:
            return None
        self.busy.add(server)
        taken = self.taken.pop(server, len(frames) + 1)
        counts = self._hand_over(frames[:taken])

        async def outcome() -> Sequence[int]:
            try:
                while server in self.hung and not self._closing.is_set():
                    await self.hung[server].wait()
                await checkpoint()
                if taken <= len(frames):
                    raise TransportUnavailable(f"{server} has failed")
                return counts
            finally:
                self.busy.discard(server)

        return outcome

    async def aclose(self) -> None:
        self._closing.set()
        for event in self.hung.values():
            event.set()
        await super().aclose()

    @classmethod
    def hang(cls, server: str) -> None:
        """Have *server* answer no more."""
        cls.hung.setdefault(server, anyio.Event())

    @classmethod
    def go_on(cls, server: str) -> None:
        """Have *server* answer again."""
        if server in cls.hung:
            cls.hung.pop(server).set()

    @classmethod
    def reset(cls) -> None:
        """Let every server answer, and carry its own partitions."""
        for server in SERVERS:
            cls.go_on(server)
        cls.taken.clear()
        cls.moved.clear()

    @classmethod
    @contextmanager
    def freeze_one(cls) -> Iterator[str]:
        """Have one server hang within the block."""
        cls.hang(SERVERS[1])
        try:
            yield SERVERS[1]
        finally:
            cls.go_on(SERVERS[1])
