"""A single event is written by its sender, in its own turn of the event loop, if the transport can."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest
from anyio.lowlevel import checkpoint

import eventbus
from eventbus_core.backend import Frame, Outcome
from eventbus_core.errors import TransportUnavailable
from eventbus_core.outbox.route_queue import RouteQueue
from eventbus_core.session.wire import unpack, unpack_events
from eventbus_memory import MemoryTransport
from tests.support import Inbox, buses, until


class AtOnce(MemoryTransport):
    """
    Notes the writes of the node n0.

    Attributes:
        begun: the number of events in each write that a sender began.
        written: of each other write.
        busy: whether writes cannot begin now.
        failures: so many of the next writes that begin are taken, and then fail.
        deaf: so many of the next writes that begin reach no receiver.
    """

    begun: list[int]
    written: list[int]
    busy = False
    failures = 0
    deaf = 0

    async def publish(self, frames: Sequence[Frame]) -> Sequence[int]:
        self._note(self.written, frames)
        return await super().publish(frames)

    def begin_publish(self, frames: Sequence[Frame]) -> Outcome | None:
        if self.busy:
            return None
        kind = type(self)
        self._note(self.begun, frames)
        if self.deaf:
            kind.deaf -= 1
            counts: Sequence[int] = [0] * len(frames)
        else:
            counts = self._hand_over(frames)

        async def outcome() -> Sequence[int]:
            await checkpoint()
            if self.failures:
                kind.failures -= 1
                raise TransportUnavailable("the answer was lost")
            return counts

        return outcome

    def _note(self, writes: list[int], frames: Sequence[Frame]) -> None:
        bodies = [unpack(frame.data, len(frame.data))[1] for frame in frames]
        events = [event for body in bodies for event in unpack_events(body) if event.type == "n"]
        if self.node == "n0" and events:  # else it is what the nodes tell each other
            writes.append(len(events))


Place = tuple[type[AtOnce], eventbus.Bus, Inbox]


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    """Yield the class of the transport, a bus, and what its events come to."""
    kind: type[AtOnce] = type("AtOnce", (AtOnce,), {"begun": [], "written": []})
    eventbus.register("atonce", kind)
    async with buses("atonce://x") as (a, b), b.client("bob", handler=(bob := Inbox())):
        await a.send("bob", "other")  # finds the way
        await bob.got(1)
        bob.events.clear()
        yield kind, a, bob


async def idle(bus: eventbus.Bus) -> list[RouteQueue]:
    """Return the routes when nothing is to be written, with no turn of the event loop in between."""
    await bus.flush()
    await until(lambda: all(route.idle() for route in bus._node.outbox._routes.values()))
    return list(bus._node.outbox._routes.values())


async def idle_after_one(bus: eventbus.Bus) -> None:
    """Return when nothing is to be written and the last event was alone, with no turn in between."""
    while not (routes := await idle(bus)) or not all(route.expects_one() for route in routes):
        await bus.broadcast("other")


async def test_g10_a_single_event_is_written_before_its_send_returns(place: Place) -> None:
    kind, a, bob = place
    await idle_after_one(a)
    for number in range(3):
        await a.send("bob", "n", number)
        assert kind.begun == [1] * (number + 1)
        await bob.got(number + 1)
        await idle_after_one(a)
    assert kind.written == []
    assert bob.data == [0, 1, 2]


async def test_g4_events_behind_it_follow_together_and_the_next_ones_are_written_together(place: Place) -> None:
    kind, a, bob = place
    await idle_after_one(a)
    for number in range(10):
        await a.send("bob", "n", number)
    await bob.got(10)
    await idle(a)
    assert (kind.begun, kind.written) == ([1], [9])
    for number in range(10, 20):
        await a.send("bob", "n", number)
    await bob.got(20)
    assert (kind.begun, kind.written) == ([1], [9, 10])
    assert bob.data == list(range(20))


async def test_g5_a_write_that_began_and_failed_is_repeated(place: Place) -> None:
    kind, a, bob = place
    await idle_after_one(a)
    kind.failures = 1
    await a.send("bob", "n", 0)
    await a.send("bob", "n", 1)
    await bob.got(2)
    await idle_after_one(a)
    assert bob.data == [0, 1]
    assert (kind.begun, a._node.outbox.writer.failures) == ([1], 1)


async def test_g10_the_writer_publishes_what_cannot_begin_now(place: Place) -> None:
    kind, a, bob = place
    await idle_after_one(a)
    kind.busy = True
    await a.send("bob", "n", 0)
    assert kind.written == []
    await a.send("bob", "n", 1)
    await bob.got(2)
    assert kind.begun == []
    assert bob.data == [0, 1]


async def test_g5_an_event_that_reached_no_receiver_is_written_again(place: Place) -> None:
    kind, a, bob = place
    await idle_after_one(a)
    kind.deaf = 1
    await a.send("bob", "n", 0)
    await bob.got(1)
    assert (kind.begun[0], bob.data) == (1, [0])
    assert a.stats().undeliverable == 0
