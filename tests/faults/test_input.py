"""Frames of a hostile writer, under load: nodes reject them, and go on."""

from __future__ import annotations

import os

import msgspec
import pytest

from eventbus import Event
from eventbus_core.backend import node_partition
from eventbus_core.cli.demo.plan import node_name
from eventbus_core.model.event import encode_event
from eventbus_core.session.wire import MAX_FRAME_EVENTS, Header, pack
from tests.faults.form import CHOSEN, FORM
from tests.faults.trial import Trial, nothing_lost, trial
from tests.servers import RedisServer

pytestmark = [
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),
    pytest.mark.skipif(not CHOSEN, reason="set EVENTBUS_FAULTS=short or long: they take minutes"),
]

TARGET = 0
GARBAGE = 2_000
FRAME_SIZE = 15_000_000
MANY = 300_000


def channel(here: Trial, node: int) -> bytes:
    """Return the name of the channel of *node*."""
    (found,) = here.command("PUBSUB", "CHANNELS", f"*:{here.plan.namespace}:{node_partition(node_name(node))}")
    assert isinstance(found, bytes)
    return found


def requests(here: Trial, node: int, events: int) -> bytes:
    """Return one frame of *events* requests for statistics to *node*, as long as may be."""
    target = f"@{node_name(node)}"
    data = msgspec.Raw(msgspec.msgpack.encode(None))
    headers = {"h": "x" * max(0, FRAME_SIZE // events - 100)}
    request = encode_event(Event("$sys.stats", "@ghost", target, "x", data, headers, reply_to="@ghost"))
    header = Header(here.plan.namespace, "ghost", 1, 1, node_partition(node_name(node)), 1, events, 0)
    return pack(header, [request] * events)


async def test_17_a_flood_of_garbage_and_a_frame_of_requests(redis_server: RedisServer) -> None:
    async with trial("17 garbage, and frames with 15 MB of requests", redis_server) as here:
        await here.load(FORM.rate)
        await here.flowing()
        name = channel(here, TARGET)
        for _ in range(GARBAGE):
            here.command("PUBLISH", name, os.urandom(100))
        for events in (MAX_FRAME_EVENTS, MANY):
            here.command("PUBLISH", name, requests(here, TARGET, events))
        await here.flowing()
        stats = await here.nodes[TARGET].ask("stats")
    nothing_lost(here.figures)
    assert stats["refused"]["malformed"] >= GARBAGE
    assert stats["refused"]["oversized"] == 1
    assert stats["refused"]["throttled"] > 0
    assert stats["leases_lost"] == 0
