"""Frames that the broker refuses for good: their events are reported, and nothing else is held up."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

import eventbus
from eventbus_core.backend import Frame, Partition
from eventbus_core.errors import ConfigurationError, PartitionRefused
from eventbus_memory import MemoryTransport
from tests.servers import RedisServer
from tests.support import Hooked, Inbox, buses, until

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])


class Refusing(MemoryTransport):
    """Refuses the frames to ``partitions``, or whole writes with ``error``."""

    partitions: frozenset[str] = frozenset()
    sizes: range = range(0)
    error: ConfigurationError | None = None
    writes = 0

    async def publish(self, frames: Sequence[Frame]) -> Sequence[int]:
        type(self).writes += 1
        if self.error is not None:
            raise self.error
        refused = [self._refuses(frame) for frame in frames]
        counts = iter(await super().publish([f for f, bad in zip(frames, refused, strict=True) if not bad]))
        receivers = [-1 if bad else next(counts) for bad in refused]
        if any(refused):
            names: list[Partition] = [frame.partition for frame, bad in zip(frames, refused, strict=True) if bad]
            raise PartitionRefused(f"no right to {', '.join(names)}", names, receivers)
        return receivers

    def _refuses(self, frame: Frame) -> bool:
        return frame.partition in self.partitions or len(frame.data) in self.sizes


@pytest.fixture
def refusing() -> type[Refusing]:
    kind = type("Refusing", (Refusing,), {})
    eventbus.register("refusing", kind)
    return kind


async def test_g5_events_in_refused_frames_are_reported_and_the_others_arrive(refusing: type[Refusing]) -> None:
    async with buses("refusing://x") as (a, b), b.client("bob", handler=(bob := Inbox())):
        b.on("news.*")(news := Inbox())
        await b.ready()
        a.on_undeliverable(lost := Hooked())
        await a.send("bob", "n", -1)
        await bob.got(1)
        refusing.partitions = frozenset(f"l:{lane}" for lane in range(64))
        for number in range(20):
            await a.publish("news.x", number)
            await a.send("bob", "n", number)
        await bob.got(21)
        await until(lambda: len(lost) == 20)
        assert [(fate.target, fate.reason) for fate in lost] == [("#news.x", "refused")] * 20
        assert a.stats().undeliverable_by_reason == {"refused": 20}
        assert a.state == "open"
        refusing.partitions = frozenset()
        await a.publish("news.x", "last")
        await news.got(1)
        assert (news.data, b.stats().missed) == (["last"], 0)


async def test_g10_a_refused_frame_between_others_is_a_gap_at_its_receiver(refusing: type[Refusing]) -> None:
    async with buses("refusing://x", frame_size=1024) as (a, b), b.client("bob", handler=(bob := Inbox())):
        a.on_undeliverable(lost := Hooked())
        b.on_gap(gaps := Hooked())
        await a.send("bob", "n", b"first")
        await bob.got(1)
        refusing.sizes = range(5000, 9000)
        for data in (b"1", b"-" * 6000, b"2", b"3"):  # one write, of three frames
            await a.send("bob", "n", data)
        await bob.got(4)
        assert bob.data == [b"first", b"1", b"2", b"3"]
        await until(lambda: len(lost) == 1)
        await until(lambda: bool(gaps))
        assert sum(gap.missed for gap in gaps) == b.stats().missed == 1
        await a.send("bob", "n", b"last")
        await bob.got(5)


async def test_a_request_whose_frame_is_refused_fails_at_once(refusing: type[Refusing]) -> None:
    async with buses("refusing://x") as (a, b), b.client("bob", handler=Inbox()):
        await a.send("bob", "n")
        refusing.partitions = frozenset([f"n:{b.node}"])
        with pytest.raises(eventbus.RequestFailed, match="refused"):
            await a.request("bob", "ask", timeout=20)


async def test_refused_frames_are_logged_once_a_minute(
    refusing: type[Refusing], caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("eventbus").setLevel(logging.WARNING)
    async with buses("refusing://x") as (a, b):
        b.on("news.*")(Inbox())
        await b.ready()
        a.on_undeliverable(lost := Hooked())
        refusing.partitions = frozenset(f"l:{lane}" for lane in range(64))
        for number in range(20):
            await a.publish(f"news.{number}")
            await until(lambda: len(lost) == number + 1)  # noqa: B023
        assert len([record for record in caplog.records if "the broker refuses" in record.getMessage()]) == 1
        assert "no right to l:" in caplog.text


async def test_a_refusal_of_every_write_is_an_outage_that_is_told_once(refusing: type[Refusing]) -> None:
    async with buses("refusing://x", lease=60.0) as (a, b), b.client("bob", handler=(bob := Inbox())):
        await a.send("bob", "n", 0)
        await bob.got(1)
        a.on_disconnected(down := Hooked())
        refusing.error = ConfigurationError("PUBLISH is renamed")
        await a.send("bob", "n", 1)
        before = refusing.writes
        await until(lambda: refusing.writes >= before + 4)
        assert (a.state, [reason for reason in down if "PUBLISH is renamed" in reason]) == ("disconnected", down[:1])
        assert len(down) == 1
        refusing.error = None
        await bob.got(2)
        await until(lambda: a.state == "open")


async def test_a_frame_too_large_for_redis_holds_up_no_other(tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--proto-max-bulk-len", "1048576") as server:
        async with buses(server.uri) as (a, b), b.client("bob", handler=(bob := Inbox())):
            a.on_undeliverable(lost := Hooked())
            await a.send("bob", "n", -1)
            await bob.got(1)
            await a.send(b.address, "large", b"x" * (2**20 - 20))
            for number in range(50):
                await a.send("bob", "n", number)
            await bob.got(51)
            await until(lambda: len(lost) == 1)
            assert (lost[0].type, lost[0].reason, a.state) == ("large", "refused", "open")
