"""What a transport finds out about its broker, for ``eventbus doctor``."""

from __future__ import annotations

from time import perf_counter
from typing import Final, Literal, TypeAlias

import anyio
import attrs

from eventbus_core.errors import EventBusError, TransportUnavailable
from eventbus_core.transport import Frame, Transport, node_partition

Level: TypeAlias = Literal["ok", "warning", "error", "unknown"]

ROUNDS: Final = 200
SIZE: Final = 100
TIMEOUT: Final = 5.0
SLOW: Final = 0.05


@attrs.frozen
class Finding:
    """
    What came of one check.

    Attributes:
        check: what was looked at, in a word or two.
        level: ``ok``; ``warning``, if the bus works but need not go on to; ``error``, if it cannot
            work; ``unknown``, if it could not be looked at.
        detail: what was found.
        mend: what to do about it; empty if there is nothing to do.
    """

    check: str
    level: Level
    detail: str
    mend: str = ""


async def try_out(transport: Transport) -> list[Finding]:
    """
    Open *transport*, which must be new, and another of its kind, and send frames from one to the other.

    Returns what was found of ``connection`` and, if there is one, of ``round trip``.
    """
    peer = type(transport)(transport.uri, f"{transport.node}-peer")
    begin = perf_counter()
    try:
        async with transport, peer:
            opened = perf_counter() - begin
            return [
                Finding("connection", "ok", f"{transport.uri} answers; two connected within {opened * 1000:.1f} ms"),
                await _round_trip(transport, peer),
            ]
    except EventBusError as error:
        return [no_connection(error)]


def no_connection(error: EventBusError) -> Finding:
    """Return the finding that no connection could be made because of *error*."""
    down = isinstance(error, TransportUnavailable)
    mend = "start the broker, or mend the host, the port or the firewall between" if down else ""
    return Finding("connection", "error", str(error), mend)


async def _round_trip(transport: Transport, peer: Transport) -> Finding:
    try:
        with anyio.fail_after(TIMEOUT):
            times = await _times(transport, peer)
    except TimeoutError:
        mend = "see whether the broker is overloaded, and whether what is between cuts idle or long connections"
        return Finding("round trip", "error", f"{ROUNDS} frames were not back within {TIMEOUT:g} s", mend)
    except EventBusError as error:
        return Finding("round trip", "error", str(error))
    times.sort()
    half, most = times[len(times) // 2], times[len(times) * 99 // 100]
    detail = f"p50 {half * 1000:.2f} ms, p99 {most * 1000:.2f} ms, of {ROUNDS} frames of {SIZE} bytes"
    if most > SLOW:
        return Finding("round trip", "warning", detail, "look at the broker's load, or put the nodes nearer to it")
    return Finding("round trip", "ok", detail)


async def _times(transport: Transport, peer: Transport) -> list[float]:
    """Return how long each frame took from *transport* through the broker to *peer*, in seconds."""
    partition = node_partition(peer.node)
    await peer.join([partition])
    arriving = peer.receive()
    times = []
    for number in range(ROUNDS):
        frame = Frame(partition, b"%*d" % (SIZE, number))
        begin = perf_counter()
        await transport.publish([frame])
        while await anext(arriving) != frame:
            pass
        times.append(perf_counter() - begin)
    return times
