"""The account of a trial: what was sent, handled and reported. No I/O."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final

import attrs

from eventbus import Gap
from eventbus_core.backend import ALL_NODES, lane_partition, node_partition
from eventbus_core.cli.demo.plan import Plan, node_name
from eventbus_core.model.topics import lane_of
from tests.faults.journal import Entry

SAMPLED: Final = 16  # one event in so many has its latency taken


@attrs.frozen
class Book:
    """What one node's journals hold, and the gaps that it was told of."""

    sent: Sequence[Entry] = ()
    handled: Sequence[Entry] = ()
    reported: Sequence[Entry] = ()
    gaps: Sequence[Gap] = ()


@attrs.define
class Figures:
    """
    What came of a trial. Each event counts once for each of its receivers.

    Attributes:
        sent: events accepted.
        delivered: of these, how many were handled.
        lost: of these, how many were not.
        doubled: how often one was handled again.
        reordered: how often one was handled after a later one of its stream.
        gaps: events reported missing to their receivers.
        reported: events reported undeliverable to their senders.
        silent: lost events that were not reported, and gaps reported beside events that were not lost.
        premature: events reported undeliverable that were handled all the same.
        silence: the longest time, in seconds, without an event from another node, at the node where that was longest.
        p99: milliseconds from accepted to handled that 99 of 100 events did not exceed.
    """

    sent: int = 0
    delivered: int = 0
    lost: int = 0
    doubled: int = 0
    reordered: int = 0
    gaps: int = 0
    reported: int = 0
    silent: int = 0
    premature: int = 0
    silence: float = 0.0
    p99: float = 0.0


def audit(
    plan: Plan,
    lanes: Mapping[int, str],
    books: Mapping[int, Book],
    *,
    dead: Collection[int] = (),
    left: Collection[int] = (),
    moved: bool = False,
    absent: Collection[int] = (),
) -> Figures:
    """
    Return the figures of all *books*, by the number of the node.

    Args:
        lanes: the partitions of topics, by receiver.
        dead: nodes that were killed: what they were the last to know of counts neither as sent nor as lost.
        left: nodes that left in good order: what they accepted counts, and topics and broadcasts for them do not.
        moved: whether clients moved to other nodes: then gaps are compared per sender alone.
        absent: nodes whose own silence is no wonder.
    """
    figures = Figures()
    accepted = Counter(stream for book in books.values() for stream, _, _ in book.sent)
    reported: dict[int, set[int]] = defaultdict(set)
    for book in books.values():
        for stream, number, _ in book.reported:
            reported[stream].add(number)
    figures.reported = sum(map(len, reported.values()))
    unreported: Counter[tuple[str, str, str]] = Counter()  # by receiving node, sending node and partition
    for (node, stream), numbers in _deliveries(plan, books, {*dead, *left}).items():
        sender, receiver = plan.ends(stream)
        came = _check_order(numbers, figures)
        end = max(came, default=-1) + 1 if sender in dead else max(accepted[stream], max(came, default=-1) + 1)
        missing = set(range(end)) - came
        figures.sent += end
        figures.delivered += len(came)
        figures.lost += len(missing)
        if receiver < plan.clients:
            figures.premature += len(reported[stream] & came)
            missing -= reported[stream]
        if missing:
            unreported[_origin(plan, lanes, node, stream, moved)] += len(missing)
    told: Counter[tuple[str, str, str]] = Counter()
    for node, book in books.items():
        for gap in book.gaps:
            addressed = moved and gap.partition not in (ALL_NODES, *lanes.values())
            key = ("", gap.source, "") if addressed else (node_name(node), gap.source, gap.partition)
            told[key] += gap.missed
    figures.gaps = told.total()
    figures.silent = sum(abs(unreported[key] - told[key]) for key in unreported | told)
    figures.silence = _silence(plan, books, {*dead, *left, *absent})
    figures.p99 = _latency(books, 0.99)
    return figures


def _deliveries(
    plan: Plan, books: Mapping[int, Book], gone: Collection[int]
) -> Mapping[tuple[int, int], Sequence[int]]:
    """Return the numbers that came, in order, of each stream, at each node if all nodes receive it."""
    came: dict[tuple[int, int], list[int]] = {}
    for stream in range(plan.nodes * plan.receivers):
        for node in books if stream % plan.receivers >= plan.clients else (-1,):
            came[node, stream] = []
    entries = [(at, node, stream, number) for node, book in books.items() for stream, number, at in book.handled]
    entries.sort()
    for _, node, stream, number in entries:
        came[node if stream % plan.receivers >= plan.clients else -1, stream].append(number)
    return {place: numbers for place, numbers in came.items() if place[0] not in gone}


def _check_order(numbers: Iterable[int], figures: Figures) -> set[int]:
    came: set[int] = set()
    last = -1
    for number in numbers:
        if number in came:
            figures.doubled += 1
        elif number < last:
            figures.reordered += 1
        else:
            last = number
        came.add(number)
    return came


def _origin(plan: Plan, lanes: Mapping[int, str], node: int, stream: int, moved: bool) -> tuple[str, str, str]:
    """Return the node that should have got an event of *stream*, the one that sent it, and the partition."""
    sender, receiver = plan.ends(stream)
    source = f"@{node_name(sender)}"
    if receiver >= plan.clients:
        return node_name(node), source, lanes.get(receiver, ALL_NODES)
    holder = node_name(receiver % plan.nodes)
    return ("", source, "") if moved else (holder, source, node_partition(holder))


def lanes_of(plan: Plan, lanes: int) -> dict[int, str]:
    """Return the partitions of the plan's topics in a namespace of so many *lanes*."""
    return {
        receiver: lane_partition(lane_of(plan.topic(receiver), lanes))
        for receiver in range(plan.clients, plan.everyone)
    }


def _silence(plan: Plan, books: Mapping[int, Book], excused: Collection[int]) -> float:
    """Return the longest pause between events from other nodes, while these sent."""
    sent = [at for book in books.values() for _, _, at in book.sent]
    if not sent:
        return 0.0
    longest = 0
    for node, book in books.items():
        if node not in excused:
            times = [at for stream, _, at in book.handled if plan.ends(stream)[0] != node]
            if times:  # not so if the others send to one node only, and this is not it
                longest = max(longest, *(later - at for at, later in pairwise([min(sent), *times, max(sent)])))
    return longest / 1e9


def _latency(books: Mapping[int, Book], share: float) -> float:
    accepted = {
        (stream, number): at for book in books.values() for stream, number, at in book.sent if not number % SAMPLED
    }
    latencies = sorted(
        at - began
        for book in books.values()
        for stream, number, at in book.handled
        if not number % SAMPLED and (began := accepted.get((stream, number))) is not None
    )
    return max(0, latencies[int(len(latencies) * share)]) / 1e6 if latencies else 0.0
