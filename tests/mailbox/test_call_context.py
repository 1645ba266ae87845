"""Handlers share what their calls run in, if they were made in the same context."""

from __future__ import annotations

import asyncio
from contextvars import Context, ContextVar, copy_context
from functools import partial
from typing import Any

import eventbus
from eventbus import Event
from eventbus_core.mailbox.call_context import CallContext
from tests.support import until

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


def test_an_async_handler_keeps_its_task_while_it_sets_nothing() -> None:
    """Also on an event loop that anyio did not start: there the bus sets a variable of sniffio for each task."""
    used: list[asyncio.Task[Any] | None] = []

    async def handle(event: Event) -> None:
        used.append(asyncio.current_task())
        if event.data == "set":
            setting.set(len(used))

    async def main() -> None:
        async with eventbus.connect() as bus, bus.client("bob", handler=handle):
            for data in ("", "", "set", ""):
                await bus.send("bob", "n", data)
            await until(lambda: len(used) == 4)

    asyncio.run(main())
    assert used[0] is used[1] is used[2] is not used[3]


def test_an_async_handler_that_was_made_in_an_empty_context_is_called_in_one() -> None:
    seen: list[Any] = []

    async def handle(_: Event) -> None:
        seen.append(setting.get(None))

    async def main() -> None:
        setting.set("of the bus")
        async with eventbus.connect() as bus, Context().run(partial(bus.client, "bob", handler=handle)):
            await bus.send("bob", "n")
            await until(lambda: bool(seen))

    asyncio.run(main())
    assert seen == [None]
