"""A budget: what is done for one peer in a second is bounded, whatever the others ask."""

from __future__ import annotations

from eventbus_core.concurrency import budget
from eventbus_core.concurrency.budget import Budget


def test_each_key_has_its_own_budget_every_second() -> None:
    limited = Budget(3)
    assert [limited.allows("a", 0.0) for _ in range(5)] == [True, True, True, False, False]
    assert limited.allows("b", 0.5)
    assert limited.allows("a", 1.0)


def test_units_are_taken_until_the_budget_is_used_up() -> None:
    limited = Budget(10)
    assert [limited.allows("a", 0.0, 8) for _ in range(3)] == [True, True, False]
    assert not limited.allows("a", 0.0, 0)


def test_all_keys_together_have_a_budget_too() -> None:
    """Names can be forged without end."""
    limited = Budget(3)
    assert sum(limited.allows(f"k{number}", 0.0) for number in range(1000)) == 3 * budget.KEYS_AT_LIMIT
    assert limited.allows("a", 1.0)


def test_keys_beyond_the_most_share_one_budget() -> None:
    limited = Budget(2000)
    assert all(limited.allows(f"k{number}", 0.0) for number in range(budget.MAX_KEYS))
    assert sum(limited.allows(f"more{number}", 0.0) for number in range(3000)) == 2000
    assert len(limited._used) <= budget.MAX_KEYS + 1
