"""The history in Redis: two keys for each retained stream, and two Lua scripts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from eventbus_core.backend import PAGE_SIZE, POSITION_LIFE, Entry, History, NewEntry, Page, Position, new_epoch
from eventbus_redis.commands import Commands
from eventbus_redis.packing import Script, load_script, pack

CALLS: Final = 500
"""Streams in one write to the server."""


class Shelf(NamedTuple):
    """Where a stream is kept: the connection to its server, and the beginning of the names of its keys."""

    commands: Commands
    name: str


class RedisHistory(History):
    """
    Keeps each stream in a Redis stream, and its position in a hash.

    Their names hold a digest of the stream's name, so that they tell no topic. Both keys expire: the entries with the
    last of them, the position a day later.

    Args:
        shelf: returns where the stream with a digest is kept.
    """

    def __init__(self, shelf: Callable[[str], Shelf]) -> None:
        self._shelf = shelf

    async def append(self, entries: Sequence[NewEntry]) -> Sequence[Position]:
        script = load_script("append", "")
        calls = [
            (commands, script.call(keys, new_epoch(), *_arguments(entry)))
            for entry in entries
            for commands, keys in [self._keys(entry.stream)]
        ]
        answers = await _run(calls, script)
        return [Position(epoch.decode(), int(last), int(fingerprint)) for epoch, last, fingerprint in answers]

    async def read(self, starts: Sequence[tuple[str, int]]) -> Sequence[Page | None]:
        script = load_script("read", "")
        calls = [
            (commands, script.call(keys, offset, PAGE_SIZE))
            for stream, offset in starts
            for commands, keys in [self._keys(stream)]
        ]
        return [*map(_page, await _run(calls, script))]

    async def positions(self, streams: Sequence[str]) -> Sequence[Position | None]:
        calls = [
            (commands, pack("HMGET", keys[0], "epoch", "top", "fingerprint"))
            for stream in streams
            for commands, keys in [self._keys(stream)]
        ]
        facts = await _run(calls)
        return [None if None in row else Position(row[0].decode(), int(row[1]), int(row[2])) for row in facts]

    def _keys(self, stream: str) -> tuple[Commands, tuple[str, str]]:
        commands, name = self._shelf(blake2b(stream.encode(), digest_size=12).hexdigest())
        return commands, (f"{name}:p", f"{name}:e")


async def _run(calls: Sequence[tuple[Commands, bytes]], script: Script | None = None) -> list[Any]:
    """
    Return the replies to *calls*, of *script* if that is given; several servers work at the same time.

    Raises:
        EventBusError: the first failure. All servers have answered or failed by then: to cancel a call closes its
            connection.
    """
    places: dict[Commands, list[int]] = {}
    for place, (commands, _) in enumerate(calls):
        places.setdefault(commands, []).append(place)
    replies: list[Any] = [None] * len(calls)

    async def ask(commands: Commands, mine: Sequence[int]) -> None:
        for part in (mine[start : start + CALLS] for start in range(0, len(mine), CALLS)):
            packed = [calls[place][1] for place in part]
            answers = await (commands.run(script, packed) if script else commands.call(*packed))
            for place, answer in zip(part, answers, strict=True):
                replies[place] = answer

    asked = [ask(commands, mine) for commands, mine in places.items()]
    if len(asked) == 1:
        await asked[0]
        return replies
    for failure in await asyncio.gather(*asked, return_exceptions=True):
        if failure is not None:
            raise failure
    return replies


def _arguments(entry: NewEntry) -> tuple[str | bytes | int, ...]:
    retention, lifetime = entry.retention, int(entry.retention.seconds * 1000)
    after = -1 if entry.after is None else entry.after
    bounds = (retention.events, retention.bytes, lifetime, lifetime + POSITION_LIFE * 1000)
    return entry.fingerprint, entry.events, entry.body, *bounds, after


def _page(answer: list[Any] | None) -> Page | None:
    if answer is None:
        return None
    epoch, top, fingerprint, *rest = answer
    rows = zip(rest[::4], rest[1::4], rest[2::4], rest[3::4], strict=True)
    entries = [Entry(int(last), int(print_), int(events), body) for last, print_, events, body in rows]
    return Page(Position(epoch.decode(), int(top), int(fingerprint)), entries)
