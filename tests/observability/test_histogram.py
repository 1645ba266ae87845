"""Histograms hold what was counted, and guess no worse than their buckets allow."""

from __future__ import annotations

from functools import reduce
from math import inf
from operator import add

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from eventbus_core.observability.histogram import BUCKETS, SHORTEST, Histogram, Spread

TIMES = st.lists(st.floats(0, 1000) | st.sampled_from([SHORTEST * 2**i for i in range(BUCKETS + 1)]), max_size=50)


def of(values: list[float], first: float = SHORTEST) -> Histogram:
    spread = Spread(first)
    for value in values:
        spread.add(value)
    return spread.histogram()


@given(TIMES)
def test_each_bucket_holds_values_up_to_its_bound(values: list[float]) -> None:
    histogram = of(values)
    bounds = [*(SHORTEST * 2**i for i in range(BUCKETS)), inf]
    assert list(histogram.cumulative()) == [(bound, sum(value <= bound for value in values)) for bound in bounds]
    assert (histogram.count, histogram.total) == (len(values), reduce(add, values, 0.0))  # sum() may round less


def test_counts_have_whole_bounds() -> None:
    histogram = of([1, 2, 3, 4, 5, 9], first=1)
    assert histogram.counts == (1, 1, 2, 1, 1)
    assert list(histogram.cumulative())[:5] == [(1, 1), (2, 2), (4, 4), (8, 5), (16, 6)]


@given(TIMES.filter(bool), st.floats(0, 1))
def test_a_quantile_lies_in_the_bucket_of_the_value_that_it_stands_for(values: list[float], part: float) -> None:
    guess = of(values).quantile(part)
    assert guess is not None
    rank = max(sum(number < part * len(values) for number in range(1, len(values) + 1)), 0)
    true = sorted(values)[min(rank, len(values) - 1)]
    largest = SHORTEST * 2 ** (BUCKETS - 1)
    assert guess <= max(2 * true, SHORTEST) * (1 + 1e-9)
    assert guess >= min(true, largest) / 2 * (1 - 1e-9) or true <= SHORTEST


def test_of_nothing_there_is_no_quantile() -> None:
    assert of([]).quantile(0.5) is None


@given(TIMES, TIMES)
def test_the_difference_of_two_histograms_holds_the_values_between(before: list[float], after: list[float]) -> None:
    assert of(before + after).since(of(before)).counts == of(after).counts


@given(TIMES)
def test_it_travels(values: list[float]) -> None:
    histogram = of(values)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(histogram), type=Histogram) == histogram
