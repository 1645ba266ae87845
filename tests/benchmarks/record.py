"""What one run found, as a line of JSON."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from tests.benchmarks.brokers import Counters
from tests.benchmarks.cases import Case

SHARES: Final = (0.01, 0.05, *(tenth / 10 for tenth in range(1, 10)), 0.95, 0.99, 0.999, 1.0)
"""The shares of deliveries whose latencies are kept."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """
    One run; times in seconds.

    Attributes:
        phase: ``trial``, to find the number of senders, or ``measured``.
        rate, remote_rate: deliveries a second, all and those from other nodes.
        cpu: of the nodes, in seconds; the harness' own checks included.
        foreign: cores that others used meanwhile.
        speed: of the machine meanwhile, see :class:`Speed`.
        rss: the memory of all nodes together, in MiB every quarter of a second.
        latencies, remote_latencies: the milliseconds that the shares of :data:`SHARES` did not exceed, of all
            deliveries and of those from other nodes; empty if there were none.
        undisturbed_latencies: the same of the events that the load of others shall not delay, where a case has such.
    """

    at: str
    peer: str
    label: str
    case: Case
    phase: str
    senders: int
    seconds: float
    sent: int
    delivered: int
    lost: int
    duplicated: int
    misrouted: int
    reordered: int
    damaged: int
    refused: dict[str, int]
    failures: list[str]
    rate: float
    remote_rate: float
    cpu: float
    server: Counters
    foreign: float
    speed: float
    rss: list[int]
    latencies: list[float]
    remote_latencies: list[float]
    undisturbed_latencies: list[float] = []
    versions: dict[str, str]
    machine: str

    @property
    def clean(self) -> bool:
        """Whether each accepted event came once, in the right place, and none was refused."""
        return not (self.lost or self.duplicated or self.misrouted or self.damaged or self.refused or self.failures)

    def latency(self, share: float, *, remote: bool = False) -> float:
        """Return the milliseconds that *share*, one of :data:`SHARES`, of the deliveries did not exceed."""
        known = self.remote_latencies if remote else self.latencies
        return known[SHARES.index(share)] if known else 0.0

    def undisturbed_latency(self, share: float) -> float:
        """Return the same of the undisturbed events; 0 if the case has none."""
        return self.undisturbed_latencies[SHARES.index(share)] if self.undisturbed_latencies else 0.0

    @property
    def cpu_per_event(self) -> float:
        """Microseconds of the nodes per delivery."""
        return self.cpu / max(1, self.delivered) * 1e6

    @property
    def server_cpu_per_event(self) -> float:
        """Microseconds of the server per delivery."""
        return self.server.cpu / max(1, self.delivered) * 1e6

    def line(self) -> str:
        """Return the run in a line, for people who watch."""
        name = f"{self.case.scenario} {self.case.variant}".strip()
        flaws = {
            flaw: value
            for flaw in ("lost", "duplicated", "misrouted", "reordered", "damaged")
            if (value := getattr(self, flaw))
        }
        return (
            f"{name:24} {self.label:26} x{self.senders:<5}{self.rate:>10,.0f}/s "
            f"p50 {self.latency(0.5):8.3g} p99 {self.latency(0.99):8.3g} ms  "
            f"cpu {self.cpu_per_event:6.2f} + {self.server_cpu_per_event:5.2f} us  "
            f"speed {self.speed:4.0f} foreign {self.foreign:4.2f}"
            + (f"  {flaws}" if flaws else "")
            + (f"  refused {self.refused}" if self.refused else "")
            + (f"  {self.failures[:1]}" if self.failures else "")
            + (f"  CUT {self.server.cut}" if self.server.cut else "")
        )


def append(path: Path, record: Record) -> None:
    """Add *record* to the file at *path*."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(msgspec.json.encode(record) + b"\n")


def load(paths: Iterable[Path]) -> list[Record]:
    """Return the records in the files at *paths*."""
    decode = msgspec.json.Decoder(Record).decode
    return [decode(line) for path in paths for line in path.read_bytes().splitlines()]
