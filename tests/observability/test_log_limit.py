"""Logs of what happens again and again: one record of each kind in a period, and few kinds."""

from __future__ import annotations

import pytest

from eventbus_core.observability import log
from eventbus_core.observability.log import MOST_TOLD, LogLimit


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time; change it in place."""
    time = [100.0]
    monkeypatch.setattr(log, "monotonic", lambda: time[0])
    return time


def test_a_kind_is_logged_once_in_a_period(clock: list[float]) -> None:
    limit = LogLimit(60.0)
    assert [limit.allows("a"), limit.allows("a"), limit.allows("b")] == [True, False, True]
    clock[0] += 59.9
    assert not limit.allows("a")
    clock[0] += 0.1
    assert [limit.allows("a"), limit.allows("a")] == [True, False]


def test_without_a_period_a_kind_is_logged_once_until_the_reset(clock: list[float]) -> None:
    limit = LogLimit()
    assert [limit.allows("a"), limit.allows("a")] == [True, False]
    clock[0] += 1e9
    assert not limit.allows("a")
    limit.reset()
    assert limit.allows("a")


def test_kinds_that_others_make_up_do_not_fill_the_log_or_the_memory(clock: list[float]) -> None:
    limit = LogLimit(60.0)
    assert sum(limit.allows(str(number)) for number in range(1000)) == MOST_TOLD
    clock[0] += 60.0
    assert limit.allows("another")
    assert len(limit._next_at) == 1
