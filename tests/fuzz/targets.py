"""What is fed with frames, and how that is watched."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import attrs

import eventbus
from eventbus import Event, NamespaceMismatch, NodeAlreadyPresent, register
from eventbus_core.backend import Frame, Partition, TransportURI
from eventbus_core.errors import EventDataError, FrameError
from eventbus_core.model.reports import Gap
from eventbus_core.session.incoming import Ready
from eventbus_core.session.wire import unpack, unpack_events
from eventbus_memory import MemoryTransport
from tests.fuzz.mutation import Mutator

LIMIT = 16 * 1024 * 1024
FACTOR = 40
"""Bytes that a frame may make the bus allocate for each of its own: the smallest event has 6, and takes 180."""
DATA_FACTOR = 150
"""The same for data once someone reads it: a dict of one entry has 3, and takes over 200."""
FLOOR = 64 * 1024
GROWTH = 2 * 1024 * 1024
BATCH = 100


class Asking(MemoryTransport):
    """Has no directory: what nodes know of each other, frames say."""

    def __init__(self, uri: TransportURI, node: str) -> None:
        super().__init__(uri, node)
        self.directory = None


register("fuzz-asking", Asking)


class FuzzError(AssertionError):
    """Raised when a frame did what none may do."""


@attrs.define
class Watch:
    """
    Measures what each frame allocates, and what stays.

    Attributes:
        outcomes: of the frames so far, by kind.
        most: bytes that a frame allocated at the most, and for how large a frame.
        growth: bytes that stayed of the second half of the frames.
    """

    outcomes: Counter[str] = attrs.field(factory=Counter)
    most: tuple[int, int] = (0, 0)
    growth: int = 0

    def feed(
        self,
        take: Callable[[bytes], str],
        frame: bytes,
        factor: int = FACTOR,
        delivered: Callable[[], int] = lambda: 0,
    ) -> None:
        """
        Let *take* have *frame*, and count what it returns.

        *delivered* says how many bytes of events were handed to receivers so far. A frame may end a gap, and so have
        frames delivered that were held back; the handlers read their data, at once or later, as time permits.

        Raises:
            FuzzError: it raised, or allocated too much for the frame and what was delivered with it.
        """
        already = delivered()
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        try:
            outcome = take(frame)
        except Exception as error:
            raise FuzzError(f"frame {frame.hex()}: {error!r}") from error
        used = tracemalloc.get_traced_memory()[1] - before
        read = delivered() - already
        if used > factor * len(frame) + DATA_FACTOR * read + FLOOR:
            size = f"{len(frame)} bytes, {read:,} delivered with them"
            raise FuzzError(f"frame {frame.hex():.2000}: {size}, made it allocate {used:,}")
        self.most = max(self.most, (used, len(frame)))
        self.outcomes[outcome] += 1

    def __str__(self) -> str:
        used, size = self.most
        outcomes = ", ".join(f"{count:,} {kind}" for kind, count in self.outcomes.most_common())
        return (
            f"{outcomes}; at the most {used:,} bytes allocated, for a frame of {size:,}; "
            f"{self.growth:+,} bytes stayed of the second half"
        )


def decode(frame: bytes) -> str:
    """Decode *frame* to events; return what became of it."""
    try:
        _, body = unpack(frame, LIMIT)
        unpack_events(body)
    except FrameError as error:
        return error.kind
    return "read"


def read_data(frame: bytes) -> str:
    """Read the data of the events in *frame*; return what became of it."""
    try:
        _, body = unpack(frame, LIMIT)
        for event in unpack_events(body):
            _ = event.data, event.topic, event.asker, repr(event)
    except FrameError:
        return "no data"
    except EventDataError:
        return "unreadable data"
    return "readable data"


def fuzz_codec(frames: int, seed: int) -> Watch:
    """Feed the wire codec; see :class:`Watch`."""
    watch, halfway = Watch(), 0
    tracemalloc.start()
    try:
        for number, frame in enumerate(Mutator(seed).frames(frames)):
            if number == frames // 2:
                halfway, _ = tracemalloc.get_traced_memory()
            watch.feed(decode, frame)
            watch.feed(read_data, frame, DATA_FACTOR)
        watch.growth = tracemalloc.get_traced_memory()[0] - halfway
    finally:
        tracemalloc.stop()
    return _flat(watch)


async def fuzz_node(uri: str, frames: int, seed: int) -> Watch:
    """Feed a node that lives on *uri*, with a client, handlers and subscriptions; it has to live on."""
    watch, halfway = Watch(), 0
    mutated = enumerate(Mutator(seed).frames(frames))
    tracemalloc.start()
    try:
        while True:
            try:
                async with _node(uri) as bus:
                    delivered = _count_delivered(bus)
                    for number, frame in mutated:
                        if number == frames // 2:
                            halfway, _ = tracemalloc.get_traced_memory()
                        watch.feed(lambda frame, bus=bus: _take(bus, frame), frame, delivered=delivered)  # type: ignore[misc]
                        if number % BATCH == 0:
                            await anyio.lowlevel.checkpoint()
                    watch.growth = tracemalloc.get_traced_memory()[0] - halfway
                    await _lives(bus)
                    break
            except (NodeAlreadyPresent, NamespaceMismatch):
                # Without a directory, who says that it came first, or by which terms, is believed.
                watch.outcomes["end of the node"] += 1
    finally:
        tracemalloc.stop()
    return _flat(watch)


@asynccontextmanager
async def _node(uri: str) -> AsyncIterator[eventbus.Bus]:
    options: dict[str, Any] = {
        "resend_size": 64 * 1024,
        "hold_back_size": 16 * 1024,
        "mailbox_events": 100,
        "owner_cache": 100,
    }
    async with (
        eventbus.connect(uri, node="n0", namespace="ns", close_timeout=0.1, **options) as bus,
        bus.client("alice", handler=_read) as alice,
    ):
        bus.on("order")(_read)
        bus.on("a.*.>", data=dict[str, int])(_read)
        await alice.subscribe("order")
        await alice.subscribe("a.>")
        yield bus


def _take(bus: eventbus.Bus, frame: bytes) -> str:
    """Have the node take in *frame* as its reader does; return what became of it."""
    receiver, counts = bus._node.receiver, bus._node.rejections.counts
    before, taken = counts.copy(), receiver.frames
    receiver._on_frame(Frame(Partition("all"), frame))
    refused = counts - before
    return next(iter(refused), "taken in" if receiver.frames > taken else "own")


def _count_delivered(bus: eventbus.Bus) -> Callable[[], int]:
    """Return a function that returns how many bytes of events the node has delivered from now on."""
    delivery, total = bus._node.receiver._delivery, 0
    deliver = delivery.deliver

    def count(item: Ready | Gap) -> None:
        nonlocal total
        if isinstance(item, Ready):
            total += len(item.body)
        deliver(item)

    delivery.deliver = count  # type: ignore[method-assign]
    return lambda: total


async def _lives(bus: eventbus.Bus) -> None:
    answered = anyio.Event()
    bus.on("still.there")(lambda _event: answered.set())
    await bus.broadcast("still.there")
    with anyio.fail_after(60):
        await answered.wait()


def _read(event: Event) -> None:
    _ = event.data, event.headers, repr(event)


def _flat(watch: Watch) -> Watch:
    if watch.growth > GROWTH:
        raise FuzzError(f"memory grows: {watch}")
    return watch
