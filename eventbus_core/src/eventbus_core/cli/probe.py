"""The checks of ``eventbus doctor`` that work for any broker: the connection, and the round trip of frames."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from time import perf_counter
from typing import Final

import anyio

from eventbus_core.backend import Finding, Frame, Partition, Transport, lane_partition
from eventbus_core.errors import EventBusError, TransportUnavailable

ROUND_TRIPS: Final = 200
FRAME_SIZE: Final = 100
ROUND_TRIP_TIMEOUT: Final = 5.0
SLOW_ROUND_TRIP: Final = 0.05
FIRST_UNUSED_LANE: Final = 65_536
UNUSED_LANES: Final = 100_000_000
"""Lanes that no bus has: frames there disturb no node, and the user of a node may listen to every lane."""


async def examine_broker(make: Callable[[str], Transport]) -> list[Finding]:
    """
    Return the findings about a broker; *make* returns a transport to it, with the given ending of the node id if it is
    free to choose one.

    ``connection`` comes first, then the findings of the backend, then ``round trip`` if there is a connection.
    """
    own: list[Finding] = []
    try:
        own = await make("").diagnose()
        transport, peer = make(""), make("-peer")
        begin = perf_counter()
        async with transport, peer:
            opened = perf_counter() - begin
            detail = f"{transport.uri} answers; two connections took {opened * 1000:.1f} ms"
            return [Finding("connection", "ok", detail), *own, await _round_trip(transport, peer)]
    except EventBusError as error:
        return [_no_connection(error), *own]


def _no_connection(error: EventBusError) -> Finding:
    """Return the finding that *error* prevented the connection."""
    down = isinstance(error, TransportUnavailable)
    hint = "start the broker, or correct the host or the port, or check the firewall" if down else ""
    return Finding("connection", "error", str(error), hint)


async def _round_trip(transport: Transport, peer: Transport) -> Finding:
    partition = lane_partition(FIRST_UNUSED_LANE + secrets.randbelow(UNUSED_LANES))
    try:
        with anyio.fail_after(ROUND_TRIP_TIMEOUT):
            times = await _times(transport, peer, partition)
    except TimeoutError:
        hint = "check the load of the broker, and whether a proxy or firewall cuts connections"
        return Finding(
            "round trip", "error", f"{ROUND_TRIPS} frames did not return within {ROUND_TRIP_TIMEOUT:g} s", hint
        )
    except EventBusError as error:
        return Finding("round trip", "error", str(error))
    times.sort()
    half, most = times[len(times) // 2], times[len(times) * 99 // 100]
    server = transport.route(partition)
    detail = f"p50 {half * 1000:.2f} ms, p99 {most * 1000:.2f} ms for {ROUND_TRIPS} frames of {FRAME_SIZE} bytes"
    detail += f" by way of {server}" if server else ""
    if most > SLOW_ROUND_TRIP:
        return Finding("round trip", "warning", detail, "check the load of the broker, or move the nodes nearer to it")
    return Finding("round trip", "ok", detail)


async def _times(transport: Transport, peer: Transport, partition: Partition) -> list[float]:
    """Return how long each frame to *partition* took from *transport* through the broker to *peer*, in seconds."""
    await peer.join([partition])
    arriving = peer.receive()
    times = []
    for number in range(ROUND_TRIPS):
        frame = Frame(partition, b"%*d" % (FRAME_SIZE, number))
        begin = perf_counter()
        await transport.publish([frame])
        while await anext(arriving) != frame:
            pass
        times.append(perf_counter() - begin)
    return times
