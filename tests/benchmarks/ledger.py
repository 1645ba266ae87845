"""Checks what comes to the receivers of one node."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from time import monotonic_ns
from typing import Any

import msgspec

from eventbus_core.cli.demo.check import Checker
from eventbus_core.cli.demo.latency_histogram import LatencyHistogram
from tests.benchmarks.payload import WARM, Payload


class Found(msgspec.Struct, frozen=True):
    """What the ledger of one node found; ``last`` in monotonic nanoseconds, latencies as histograms."""

    delivered: int
    remote: int
    lost: int
    duplicated: int
    misrouted: int
    reordered: int
    damaged: int
    last: int
    local_latencies: dict[int, int]
    remote_latencies: dict[int, int]
    undisturbed_latencies: dict[int, int]


class Ledger:
    """
    The account of one node; receivers are known by whatever name a peer delivers to.

    Attributes:
        delivered: deliveries so far.
        warm: receivers and numbers of the events that opened the ways.
        last: when the last delivery was seen.
    """

    def __init__(
        self,
        payload: Payload,
        node: int,
        per_node: int,
        receivers: Mapping[Hashable, Sequence[int]],
        undisturbed: Callable[[int, int], bool] | None = None,
    ) -> None:
        self.delivered = 0
        self.last = 0
        self.warm: set[tuple[Hashable, int]] = set()
        self._read = payload.read
        self._node = node
        self._per_node = per_node  # streams of one sender
        self._checkers = {receiver: Checker(streams) for receiver, streams in receivers.items()}
        self._strangers = 0
        self._timed = 7  # one event in eight; 0: every one
        self._local = LatencyHistogram()
        self._remote = LatencyHistogram()
        self._undisturbed = undisturbed
        self._of_undisturbed = LatencyHistogram()

    def time_every_event(self) -> None:
        """Leave no latency out: there are few events."""
        self._timed = 0

    def take(self, receiver: Hashable, data: Any) -> None:
        """Check one delivery."""
        stream, number, sent_at, body = self._read(data)
        if stream == WARM:
            self.warm.add((receiver, number))
            return
        self.delivered += 1
        checker = self._checkers.get(receiver)
        if checker is None:
            self._strangers += 1
            return
        checker.take(stream, number, body)
        if not number & self._timed:
            self.last = now = monotonic_ns()
            (self._local if stream // self._per_node == self._node else self._remote).add(now - sent_at)
            if self._undisturbed is not None and self._undisturbed(stream, number):
                self._of_undisturbed.add(now - sent_at)

    def expected(self, accepted: Mapping[int, int]) -> int:
        """Return how many deliveries there should be if so many events of each stream were *accepted*."""
        return sum(checker.expected(accepted) for checker in self._checkers.values())

    def find(self, accepted: Mapping[int, int]) -> Found:
        """Return what was right and what was wrong."""
        delivered = remote = 0
        for checker in self._checkers.values():
            for stream, number in checker.arrived().items():
                delivered += number
                remote += number if stream // self._per_node != self._node else 0
        checkers = list(self._checkers.values())
        return Found(
            delivered,
            remote,
            lost=sum(checker.lost(accepted) for checker in checkers),
            duplicated=sum(checker.duplicated for checker in checkers),
            misrouted=sum(checker.misrouted for checker in checkers) + self._strangers,
            reordered=sum(checker.reordered for checker in checkers),
            damaged=sum(checker.damaged for checker in checkers),
            last=self.last,
            local_latencies=dict(self._local.counts),
            remote_latencies=dict(self._remote.counts),
            undisturbed_latencies=dict(self._of_undisturbed.counts),
        )
