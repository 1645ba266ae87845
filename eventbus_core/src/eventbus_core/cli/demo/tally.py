"""The results of the checks of one node, and of all nodes together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from eventbus_core.cli.demo.check import Checker
from eventbus_core.cli.demo.latency_histogram import LatencyHistogram
from eventbus_core.cli.demo.plan import Plan


class Tally(msgspec.Struct, frozen=True):
    """
    The results of one node.

    Attributes:
        clients: how many it held.
        sent: events that its bus accepted.
        local, remote, topic, broadcast: deliveries here, each event once for each receiver: to clients from
            this node and from other nodes, by topics, and by broadcasts.
        expected: deliveries that should have taken place.
        lost, duplicated, misrouted, reordered: the faults among them.
        last: when the last delivery arrived, in monotonic nanoseconds.
        latencies: the counts of a :class:`LatencyHistogram`.
        refusals: sends that raised, by the message; the bus did not accept those events.
        notes: counters of the bus that may explain a loss.
    """

    clients: int
    sent: int
    local: int
    remote: int
    topic: int
    broadcast: int
    expected: int
    lost: int
    duplicated: int
    misrouted: int
    reordered: int
    last: int
    latencies: dict[int, int]
    refusals: dict[str, int]
    notes: dict[str, int]

    @property
    def delivered(self) -> int:
        """All deliveries, each event once for each receiver."""
        return self.local + self.remote + self.topic + self.broadcast

    @property
    def histogram(self) -> LatencyHistogram:
        """The latencies of deliveries to this node's receivers."""
        return LatencyHistogram(self.latencies.items())

    def rate(self, start: int) -> float:
        """Return deliveries per second, from *start* to the last one."""
        return self.delivered * 1e9 / max(1, self.last - start) if self.delivered else 0.0


def tally_node(
    plan: Plan,
    node: int,
    checkers: Sequence[Checker],
    accepted: Sequence[Sequence[int]],
    *,
    last: int,
    latencies: LatencyHistogram,
    refusals: dict[str, int],
    notes: dict[str, int],
) -> Tally:
    """Return the tally of *node*: the results of its *checkers*, given the events that all nodes *accepted*."""
    sent = {plan.stream(sender, receiver): n for sender, row in enumerate(accepted) for receiver, n in enumerate(row)}
    kinds: Counter[str] = Counter()
    for checker in checkers:
        for stream, number in checker.arrived().items():
            kinds[_kind(plan, node, stream)] += number
    expected = sum(checker.expected(sent) for checker in checkers)
    lost = sum(checker.lost(sent) for checker in checkers)
    unaccepted = kinds.total() - (expected - lost)
    damaged = sum(checker.damaged for checker in checkers)
    return Tally(
        clients=len(plan.clients_of(node)),
        sent=sum(accepted[node]),
        local=kinds["local"],
        remote=kinds["remote"],
        topic=kinds["topic"],
        broadcast=kinds["broadcast"],
        expected=expected,
        lost=lost,
        duplicated=unaccepted + sum(checker.duplicated for checker in checkers),
        misrouted=sum(checker.misrouted for checker in checkers),
        reordered=sum(checker.reordered for checker in checkers),
        last=last,
        latencies=dict(latencies.counts),
        refusals=refusals,
        notes={name: number for name, number in {**notes, "damaged": damaged}.items() if number},
    )


def add_tallies(tallies: Iterable[Tally]) -> Tally:
    """Return the tally of all nodes together."""
    every = list(tallies)
    latencies = LatencyHistogram()
    refusals: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    for tally in every:
        latencies.include(tally.histogram)
        refusals.update(tally.refusals)
        notes.update(tally.notes)

    def total(name: str) -> int:
        return sum(getattr(tally, name) for tally in every)

    return Tally(
        clients=total("clients"),
        sent=total("sent"),
        local=total("local"),
        remote=total("remote"),
        topic=total("topic"),
        broadcast=total("broadcast"),
        expected=total("expected"),
        lost=total("lost"),
        duplicated=total("duplicated"),
        misrouted=total("misrouted"),
        reordered=total("reordered"),
        last=max(tally.last for tally in every),
        latencies=dict(latencies.counts),
        refusals=dict(refusals),
        notes=dict(notes),
    )


def _kind(plan: Plan, node: int, stream: int) -> str:
    sender, receiver = plan.ends(stream)
    if receiver == plan.everyone:
        return "broadcast"
    if receiver >= plan.clients:
        return "topic"
    return "local" if sender == node else "remote"
