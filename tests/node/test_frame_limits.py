"""Transports that carry small frames: every frame fits, whatever is in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import anyio
import attrs
import pytest

import eventbus
from eventbus_core.backend import Capabilities, Frame, TransportURI
from eventbus_memory import MemoryTransport
from tests.support import DEADLINE

LONGEST = "c" * 250


class SmallFrames(MemoryTransport):
    """Carries frames of 4,096 bytes, the least that a transport may have, and notes those that are larger."""

    capabilities: ClassVar[Capabilities] = attrs.evolve(MemoryTransport.capabilities, max_frame_size=4096)
    oversized: ClassVar[list[int]] = []

    async def publish(self, frames: Sequence[Frame]) -> Sequence[int]:
        self.oversized.extend(len(data) for _, data in frames if len(data) > self.capabilities.max_frame_size)
        return await super().publish(frames)


class SmallWithoutDirectory(SmallFrames):
    def __init__(self, uri: TransportURI, node: str) -> None:
        super().__init__(uri, node)
        self.directory = None


class TooSmall(MemoryTransport):
    capabilities: ClassVar[Capabilities] = attrs.evolve(MemoryTransport.capabilities, max_frame_size=4095)


@pytest.fixture(params=[SmallFrames, SmallWithoutDirectory])
def small(request: pytest.FixtureRequest) -> str:
    eventbus.register("small", request.param)
    SmallFrames.oversized.clear()
    return "small://"


async def test_every_frame_fits_the_transport(small: str) -> None:
    longest: dict[str, Any] = {"node": "n" * 64, "namespace": "s" * 64}
    names = [f"{LONGEST}{number}" for number in range(100)]
    async with (
        eventbus.connect(small, **longest) as a,
        eventbus.connect(small, node="m" * 64, namespace="s" * 64) as b,
        b.client(names[0]) as receiver,
    ):
        await receiver.subscribe(">")
        handles = [b.client(name) for name in names[1:]]
        async with anyio.create_task_group() as tasks:
            for handle in handles:
                tasks.start_soon(handle.__aenter__)
        with anyio.fail_after(DEADLINE):
            for number in range(500):
                await a.send(names[0], "t" * 255, number)
            for _ in range(10):
                await a.send(names[0], "t" * 255, b"x" * 2040)
            assert [(await receiver.receive()).data for _ in range(500)] == list(range(500))
            assert [len((await receiver.receive()).data) for _ in range(10)] == [2040] * 10
            for name, handle in zip(names[1:], handles, strict=True):
                await a.send(name, "t" * 255, {}, headers={"h": "x" * 2000})
                assert (await handle.receive()).headers is not None
                await handle.aclose()
    assert SmallFrames.oversized == []


async def test_an_event_that_does_not_fit_is_refused_with_the_limit(small: str) -> None:
    async with eventbus.connect(small) as bus, bus.client("bob"):
        with pytest.raises(eventbus.EventTooLarge, match="the limit is 2,048"):
            await bus.send("bob", "t", b"x" * 2048)


def test_a_transport_with_too_small_frames_is_refused() -> None:
    eventbus.register("toosmall", TooSmall)
    with pytest.raises(eventbus.ConfigurationError, match=r"TooSmall is 4,095 bytes.* at least 4,096 bytes"):
        eventbus.connect("toosmall://")


def test_a_larger_event_size_than_the_frames_allow_is_refused(small: str) -> None:
    with pytest.raises(eventbus.ConfigurationError, match=r"max_event_size is 5,000; .* at most 2,048 bytes"):
        eventbus.connect(small, max_event_size=5000)
