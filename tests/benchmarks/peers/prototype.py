"""
A prototype of the bus and no peer: frames, mailboxes and credit on redis-py, without the rest.

It has no directory, repairs nothing, and checks no names: what ``eventbus`` costs beyond it is the price of that.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable
from typing import Any, ClassVar, Final

import msgspec

from tests.benchmarks.peers.base import Context, Deliver, decode, encode
from tests.benchmarks.peers.redis_py import RedisPy

WINDOW: Final = 16_384
"""Events that may be on their way from one node to another."""
GRANT_AFTER: Final = WINDOW // 4
FRAME: Final = 512
BACKLOG: Final = 8192
"""Events that may wait before senders do."""
LOCAL_BURST: Final = 64
ALL: Final = -1


class Outbound(msgspec.Struct, array_like=True, gc=False):
    """An event as it is sent."""

    target: str | None
    source: str
    type: str
    data: Any


class Inbound(msgspec.Struct, array_like=True, gc=False):
    """An event as it arrives: the consumer decodes the data."""

    target: str | None
    source: str
    type: str
    data: msgspec.Raw


class Frame(msgspec.Struct, array_like=True, gc=False):
    """Events of one node to another or to all, or only how many events of the receiver have been handled."""

    node: int
    first: int
    events: list[Any]
    handled: int = 0


class InboundFrame(Frame):
    events: list[Inbound]


class Mailbox:
    """The events that wait for one consumer, each with the node that sent it."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[int, msgspec.Raw]] = deque()
        self._filled = asyncio.Event()

    def put(self, node: int, data: msgspec.Raw) -> None:
        self.waiting.append((node, data))
        if len(self.waiting) == 1:
            self._filled.set()

    async def filled(self) -> None:
        self._filled.clear()
        if not self.waiting:
            await self._filled.wait()


class Prototype(RedisPy):
    """Broadcasts and topics have no credit; only their sender's backlog is bounded."""

    label = "prototype with credit"
    libraries: ClassVar[tuple[str, ...]] = ("msgspec", "redis", "hiredis")
    senders = (1,)
    windowed = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        nodes = range(context.case.nodes)
        self._node = context.node
        self._source = f"node-{context.node}"
        self._boxes: dict[str | None, Mailbox] = {name: Mailbox() for name in (*context.clients, None)}
        self._queues: dict[int, list[Outbound]] = {node: [] for node in (ALL, *nodes)}
        self._sent = dict.fromkeys(self._queues, 0)
        self._allowed = dict.fromkeys(nodes, WINDOW)
        self._handled = dict.fromkeys(nodes, 0)
        self._granted = dict.fromkeys(nodes, 0)
        self._due: set[int] = set()  # nodes that are to get a grant
        self._backlog = self._local = 0
        self._work, self._room = asyncio.Event(), asyncio.Event()
        self._expected: dict[tuple[int, bytes], int] = {}
        self.gaps = 0

    async def start(self, deliver: Deliver) -> None:
        await super().start(deliver)
        for name, box in self._boxes.items():
            self.spawn(self._consume(name, box))
        self.spawn(self._write())

    async def send(self, client: str, data: Any) -> None:
        node = self.context.owners[client]
        if node == self._node:
            self._boxes[client].put(node, msgspec.Raw(encode(data)))
            self._local += 1
            if not self._local % LOCAL_BURST:
                await asyncio.sleep(0)
        else:
            await self._enqueue(node, Outbound(client, self._source, "message", data))

    async def broadcast(self, data: Any) -> None:
        self._boxes[None].put(self._node, msgspec.Raw(encode(data)))
        await self._enqueue(ALL, Outbound(None, self._source, "message", data))

    async def publish(self, data: Any) -> None:
        for client in self.context.clients:
            self._boxes[client].put(self._node, msgspec.Raw(encode(data)))
        await self._enqueue(ALL, Outbound("#topic", self._source, "message", data))

    async def _enqueue(self, node: int, event: Outbound) -> None:
        while self._backlog >= BACKLOG:
            self._room.clear()
            await self._room.wait()
        self._queues[node].append(event)
        self._backlog += 1
        self._work.set()

    async def _consume(self, receiver: Hashable, box: Mailbox) -> None:
        deliver, waiting = self.deliver, box.waiting
        while True:
            await box.filled()
            while waiting:
                node, data = waiting.popleft()
                deliver(receiver, decode(data))
                if node != self._node and receiver is not None and not self.topical:
                    self._count(node)
            await asyncio.sleep(0)

    def _count(self, node: int) -> None:
        self._handled[node] += 1
        if self._handled[node] - self._granted[node] >= GRANT_AFTER:
            self._granted[node] = self._handled[node]
            self._due.add(node)
            self._work.set()

    async def _read(self) -> None:
        read: Any = msgspec.msgpack.Decoder(InboundFrame).decode
        async for message in self._pubsub.listen():
            if message["type"] == "message":
                self._take(message["channel"], read(message["data"]))
                await asyncio.sleep(0)

    def _take(self, channel: bytes, frame: InboundFrame) -> None:
        if frame.node == self._node:
            return
        if frame.handled:
            self._allowed[frame.node] = frame.handled + WINDOW
            self._work.set()
            return
        key = frame.node, channel
        self.gaps += self._expected.get(key, frame.first) != frame.first
        self._expected[key] = frame.first + len(frame.events)
        for event in frame.events:
            if event.target == "#topic":
                for client in self.context.clients:
                    self._boxes[client].put(frame.node, event.data)
            elif (box := self._boxes.get(event.target)) is not None:
                box.put(frame.node, event.data)

    async def _write(self) -> None:
        while True:
            due, self._due = self._due, set()
            pipeline = self.redis.pipeline(transaction=False)
            for node in due:
                pipeline.publish(f"n:{node}", encode(Frame(self._node, 0, [], self._granted[node])))
            taken = 0
            for node in self._queues:
                events = self._cut(node)
                taken += len(events)
                for start in range(0, len(events), FRAME):
                    part = events[start : start + FRAME]
                    channel = "all" if node == ALL else f"n:{node}"
                    pipeline.publish(channel, encode(Frame(self._node, self._sent[node], part)))
                    self._sent[node] += len(part)
            if not (taken or due):
                self._work.clear()
                await self._work.wait()
                continue
            await pipeline.execute()
            self._backlog -= taken
            if self._backlog < BACKLOG:
                self._room.set()

    def _cut(self, node: int) -> list[Outbound]:
        """Take what may be sent to *node* out of its queue."""
        queue = self._queues[node]
        room = len(queue) if node == ALL else min(len(queue), self._allowed[node] - self._sent[node])
        self._queues[node] = queue[room:]
        return queue[:room]
