"""The tallies of nodes add up to the accepted events; latencies are known within the steps of the histogram."""

from __future__ import annotations

import math
from collections.abc import Set

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from eventbus_core.cli.demo.check import Checker, body_of
from eventbus_core.cli.demo.latency_histogram import STEPS, LatencyHistogram
from eventbus_core.cli.demo.plan import Plan
from eventbus_core.cli.demo.summary import summarise
from eventbus_core.cli.demo.tally import Tally, add_tallies, tally_node

SECOND = 1_000_000_000
durations = st.lists(st.integers(2, 10**12), min_size=1)


@st.composite
def demos(draw: st.DrawFn) -> tuple[Plan, list[list[int]]]:
    """A plan, and how many events each node accepted for each receiver."""
    plan = Plan("demo", draw(st.integers(1, 4)), draw(st.integers(1, 6)), 1.0)
    row = st.lists(st.integers(0, 5), min_size=plan.receivers, max_size=plan.receivers)
    return plan, draw(st.lists(row, min_size=plan.nodes, max_size=plan.nodes))


def receivers_of(plan: Plan, node: int) -> list[list[int]]:
    return [[plan.everyone], *([client, *plan.topics_of(client)] for client in plan.clients_of(node))]


def run(plan: Plan, accepted: list[list[int]], lost: Set[tuple[int, int, int]] = frozenset()) -> list[Tally]:
    """Deliver all accepted events except those (sender, receiver, number) that are *lost*."""
    tallies = []
    for node in range(plan.nodes):
        checkers = []
        for receivers in receivers_of(plan, node):
            checker = Checker(plan.streams_to(receivers))
            for sender in range(plan.nodes):
                for receiver in receivers:
                    stream = plan.stream(sender, receiver)
                    for number in range(accepted[sender][receiver]):
                        if (sender, receiver, number) not in lost:
                            checker.take(stream, number, body_of(stream, number))
            checkers.append(checker)
        latencies = LatencyHistogram()
        latencies.add(1000 * (node + 1))
        tallies.append(
            tally_node(
                plan,
                node,
                checkers,
                accepted,
                last=SECOND * (node + 2),
                latencies=latencies,
                refusals={"no room": 1},
                notes={"dropped": 0},
            )
        )
    return tallies


@given(demos())
def test_deliveries_are_counted_by_kind(demo: tuple[Plan, list[list[int]]]) -> None:
    """Without faults, deliveries are the accepted events times their receivers, kind by kind."""
    plan, accepted = demo
    total = add_tallies(run(plan, accepted))
    clients = range(plan.clients)
    assert total.sent == sum(map(sum, accepted))
    assert total.local + total.remote == sum(row[client] for row in accepted for client in clients)
    assert total.local == sum(accepted[node][client] for node in range(plan.nodes) for client in plan.clients_of(node))
    assert total.topic == sum(row[topic] for row in accepted for client in clients for topic in plan.topics_of(client))
    assert total.broadcast == plan.nodes * sum(row[plan.everyone] for row in accepted)
    assert total.delivered == total.expected
    assert (total.lost, total.duplicated, total.misrouted, total.reordered) == (0, 0, 0, 0)
    assert total.clients == plan.clients
    assert total.notes == {}
    assert total.refusals == {"no room": plan.nodes}


@given(demos(), st.data())
def test_a_lost_event_is_lost_to_each_of_its_receivers(demo: tuple[Plan, list[list[int]]], data: st.DataObject) -> None:
    """The loss is the number of deliveries that did not take place, and the summary says so."""
    plan, accepted = demo
    events = [(s, r, n) for s, row in enumerate(accepted) for r, count in enumerate(row) for n in range(count)]
    lost = data.draw(st.sets(st.sampled_from(events)) if events else st.just(set()))
    total = add_tallies(run(plan, accepted, lost))
    times = [
        receivers.count(event[1])
        for event in lost
        for node in range(plan.nodes)
        for receivers in receivers_of(plan, node)
    ]
    assert total.lost == sum(times)
    assert total.delivered + total.lost == total.expected
    summary = summarise("memory://", plan, total, SECOND)
    assert summary.flawless == (not total.lost)


def test_a_delivery_of_an_event_that_was_not_accepted_is_a_duplicate() -> None:
    plan = Plan("demo", 1, 1, 1.0)
    checker = Checker(plan.streams_to([0]))
    for number in range(3):
        checker.take(0, number, body_of(0, number))
    accepted = [[2] + [0] * (plan.receivers - 1)]
    tally = tally_node(plan, 0, [checker], accepted, last=0, latencies=LatencyHistogram(), refusals={}, notes={})
    assert (tally.expected, tally.delivered, tally.lost, tally.duplicated) == (2, 3, 0, 1)


def test_the_rate_is_taken_from_the_common_start_to_the_last_delivery() -> None:
    plan = Plan("demo", 2, 2, 1.0)
    accepted = [[10, 10] + [0] * (plan.receivers - 2)] * 2
    total = add_tallies(run(plan, accepted))
    summary = summarise("memory://user:secret@host", plan, total, SECOND)
    assert total.last == 3 * SECOND
    assert summary.events_per_second == 40 / 2
    assert summary.uri == "memory://user:***@host"


@given(durations, st.sampled_from([0.01, 0.5, 0.99, 1.0]))
def test_a_quantile_is_known_within_half_a_step(values: list[int], share: float) -> None:
    """The quantile of a histogram is that of its values, within half a step."""
    histogram = LatencyHistogram()
    for value in values:
        histogram.add(value)
    exact = sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
    found = histogram.quantile(share)
    assert found is not None
    assert abs(math.log2(found * 1e6 / exact)) * STEPS <= 0.5 + 1e-6


@given(st.lists(durations, min_size=1))
def test_histograms_add_up(parts: list[list[int]]) -> None:
    """The histograms of many nodes, sent as JSON and added, equal the histogram of all values."""
    every, total = LatencyHistogram(), LatencyHistogram()
    for values in parts:
        part = LatencyHistogram()
        for value in values:
            part.add(value)
            every.add(value)
        sent = msgspec.json.decode(msgspec.json.encode(dict(part.counts)), type=dict[int, int])
        total.include(LatencyHistogram(sent.items()))
    assert total.counts == every.counts


def test_an_empty_histogram_has_no_quantile() -> None:
    assert LatencyHistogram().quantile(0.5) is None
