"""Which of several reports of sentinels counts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eventbus_core.backend import Address
from eventbus_redis.sentinel.watch import Choice, Report, choose

choices = st.builds(Choice, st.integers(0, 3), st.sampled_from([Address("a", 1), Address("b", 1), Address("a", 2)]))
reports = st.lists(choices.map(lambda choice: Report(choice, {})), max_size=5)
MAJORITY = 3


@given(reports, st.none() | choices)
def test_no_report_changes_nothing_and_any_other_choice_was_reported(
    found: list[Report], before: Choice | None
) -> None:
    chosen = choose(found, before, MAJORITY)
    assert chosen in [before, *(report.choice for report in found)]
    assert found or chosen == before
    assert chosen is not None or not found


@given(reports, choices)
def test_only_a_majority_goes_back_to_an_older_choice(found: list[Report], before: Choice) -> None:
    chosen = choose(found, before, MAJORITY)
    assert chosen is not None
    votes = [report.choice for report in found].count(chosen)
    assert chosen.epoch >= before.epoch or votes >= MAJORITY


@given(reports, st.none() | choices)
def test_the_latest_choice_counts_however_few_report_it(found: list[Report], before: Choice | None) -> None:
    chosen = choose(found, before, MAJORITY)
    latest = max((report.choice.epoch for report in found), default=-1)
    assert chosen is None or chosen.epoch >= latest


@given(reports, choices)
def test_the_order_of_reports_does_not_count_and_an_even_vote_changes_nothing(
    found: list[Report], before: Choice
) -> None:
    even = [report for report in found if report.choice.epoch == before.epoch]
    votes = [report.choice for report in even].count(before)
    most = max(([report.choice for report in even].count(report.choice) for report in even), default=0)
    if votes == most and all(report.choice.epoch <= before.epoch for report in found) and even:
        assert choose(found, before, MAJORITY) == before
        assert choose(found[::-1], before, MAJORITY) == before
