"""Messages that make a node work for whoever asks: bounded per sender and second, counted, and no lines of the log."""

from __future__ import annotations

import logging
from time import monotonic, thread_time

import msgspec
import pytest
from msgspec.structs import replace

from eventbus_core.backend import Frame, node_partition
from eventbus_core.concurrency.budget import KEYS_AT_LIMIT
from eventbus_core.model.event import MAX_HEADERS, Event, encode_event
from eventbus_core.node.snapshot import SNAPSHOTS_PER_SECOND, STATS
from eventbus_core.observability.rejections import Rejections
from eventbus_core.session.wire import MAX_FRAME_EVENTS, Header, pack
from tests.support import buses, until

FRAME_SIZE = 15_000_000
STANDSTILL = 1.0  # seconds of CPU, where 0.1 are enough on a machine that does nothing else


def flood(namespace: str, victim: str, event: Event, count: int, names: int = 1) -> bytes:
    """Return one frame with *event* *count* times, in the names of nodes that do not exist."""
    header = Header(namespace, "ghost", 1, 1, node_partition(victim), 1, count, 0, [])
    forged = [encode_event(replace(event, source=f"@ghost{number or ''}")) for number in range(names)]
    return pack(header, [forged[number % names] for number in range(count)])


@pytest.mark.parametrize("names", [1, MAX_FRAME_EVENTS])
@pytest.mark.parametrize("type", [STATS, "$sys.hear"])
async def test_g12_one_frame_full_of_requests_is_answered_within_a_budget(uri: str, type: str, names: int) -> None:
    async with buses(uri, 1) as (bus,):
        data = None if type == STATS else {"number": 1, "node": "ghost"}
        raw = msgspec.Raw(msgspec.msgpack.encode(data))
        event = Event(type, "@ghost", bus.address, "x", raw, reply_to="@ghost")
        count = MAX_FRAME_EVENTS
        frame = flood(bus.namespace, bus.node, event, count, names)
        begin = monotonic()
        bus._node.receiver._on_frame(Frame(node_partition(bus.node), frame))
        took = monotonic() - begin
        rejected = bus.stats().refused.get("throttled", 0)
        limit = (SNAPSHOTS_PER_SECOND if type == STATS else 5_000) * min(names, KEYS_AT_LIMIT)
        assert count - rejected <= limit * (took + 2)
        await until(lambda: bus.state == "open")


@pytest.mark.parametrize("names", [1, MAX_FRAME_EVENTS], ids=["one name", "many names"])
@pytest.mark.parametrize("target", ["@victim", "bob", "nobody"])
@pytest.mark.parametrize("type", [STATS, "$sys.hear", "n"])
@pytest.mark.parametrize("headers", [0, MAX_HEADERS], ids=["without headers", "full of headers"])
async def test_g12_no_frame_stops_a_node(type: str, target: str, headers: int, names: int) -> None:
    """The largest frame there may be is dealt with in a moment of CPU; a larger one is not looked into."""
    async with buses("memory://", 1) as (bus,), bus.client("bob", handler=lambda _event: None):
        target = bus.address if target == "@victim" else target
        size = FRAME_SIZE // MAX_FRAME_EVENTS - 100
        text = {f"{number}": "x" * (size // headers - 4) for number in range(headers)}
        raw = msgspec.Raw(msgspec.msgpack.encode({"number": 1, "node": "ghost"} if headers else "x" * size))
        event = Event(type, "@ghost", target, "x", raw, text or None, reply_to="@ghost" if type == STATS else None)
        count = min(FRAME_SIZE // len(encode_event(event)), MAX_FRAME_EVENTS)
        frame = flood(bus.namespace, bus.node, event, count, names)
        begun = thread_time()
        bus._node.receiver._on_frame(Frame(node_partition(bus.node), frame))
        assert thread_time() - begun < STANDSTILL
        assert bus._node.receiver.frames == 1


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_g12_what_a_frame_says_cannot_forge_lines_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "eventbus")
    Rejections("server-1").add("left", "a frame to l:9\n2026-11-29 CRITICAL root logged in" + "x" * 5000)
    (record,) = caplog.records
    assert "\n" not in record.getMessage()
    assert len(record.getMessage()) < 1000
