"""Handlers share what their calls run in, if they were made in the same context."""

from __future__ import annotations

from contextvars import ContextVar, copy_context
from typing import Any

from eventbus_core.mailbox.call_context import CallContext

setting: ContextVar[Any] = ContextVar("setting")
other: ContextVar[Any] = ContextVar("other")


def made_with(**values: Any) -> CallContext:
    context = copy_context()
    for name, value in values.items():
        context.run({"setting": setting, "other": other}[name].set, value)
    return CallContext(context)


def test_only_the_same_values_are_held_and_not_equal_ones() -> None:
    value: list[int] = []
    mine = made_with(setting=value)
    assert mine.holds(made_with(setting=value).made_in)
    assert not mine.holds(made_with(setting=[]).made_in), "what is put into one list must not appear in the other"
    assert not mine.holds(made_with(other=value).made_in)
    assert not mine.holds(made_with(setting=value, other=1).made_in)
    assert not mine.holds(made_with().made_in)


def test_one_copy_serves_until_something_was_set_in_it() -> None:
    mine = made_with(setting=1)
    copy = mine.copy()
    assert mine.copy() is copy
    copy.run(setting.set, 2)
    mine.spoil()
    assert mine.copy()[setting] == 1
