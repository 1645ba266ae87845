"""The result of a run as one object, for programs."""

from __future__ import annotations

import msgspec

from eventbus_core.backend import TransportURI
from eventbus_core.cli.demo.plan import Plan
from eventbus_core.cli.demo.tally import Tally


class Latency(msgspec.Struct, frozen=True):
    """Sampled milliseconds from just before a send to the handler; ``None`` if no event arrived."""

    p50: float | None
    p99: float | None


class Summary(msgspec.Struct, frozen=True):
    """The output of ``eventbus demo --json``: the plan, and its result on all nodes together."""

    uri: str
    nodes: int
    clients: int
    seconds: float
    sent: int
    delivered: int
    expected: int
    lost: int
    duplicated: int
    misrouted: int
    reordered: int
    events_per_second: float
    latency_ms: Latency

    @property
    def flawless(self) -> bool:
        """Whether each receiver got each of its accepted events once, in order, and no others."""
        return not (self.lost or self.duplicated or self.misrouted or self.reordered)


def summarise(uri: str, plan: Plan, total: Tally, start: int) -> Summary:
    """Return the summary of a run; *total* is the tally of all nodes together."""
    return Summary(
        uri=str(TransportURI.parse(uri)),
        nodes=plan.nodes,
        clients=plan.clients,
        seconds=plan.seconds,
        sent=total.sent,
        delivered=total.delivered,
        expected=total.expected,
        lost=total.lost,
        duplicated=total.duplicated,
        misrouted=total.misrouted,
        reordered=total.reordered,
        events_per_second=round(total.rate(start), 1),
        latency_ms=latency_of(total),
    )


def latency_of(tally: Tally) -> Latency:
    """Return the median and the 99th percentile of *tally*."""
    return Latency(*(_rounded(tally.histogram.quantile(share)) for share in (0.5, 0.99)))


def _rounded(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else float(f"{milliseconds:.3g}")
