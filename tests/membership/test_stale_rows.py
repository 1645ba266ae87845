"""Directories that lost their last changes, in a fail-over or a restart from a snapshot: the later claim stays."""

from __future__ import annotations

import pytest

from eventbus import Bus, Client
from eventbus_core.backend import Owner
from eventbus_memory.directory import MemoryDirectory
from eventbus_redis.directory import RedisDirectory
from eventbus_redis.packing import pack
from tests.support import buses, take, until

SHORT = 4.5


async def restore(bus: Bus, client: str, owner: Owner | None) -> None:
    """Put the row of *client* back to what it was: *owner*."""
    directory = bus._node.directory
    if isinstance(directory, MemoryDirectory):
        directory._hub.owners.pop(client, None)
        if owner is not None:
            directory._hub.owners[client] = owner
    elif isinstance(directory, RedisDirectory):
        row = None if owner is None else f"{owner.epoch} {owner.incarnation} {owner.node}"
        key = directory._keys.owners
        await directory._commands.call(pack("HDEL", key, client) if row is None else pack("HSET", key, client, row))
    else:
        raise TypeError(directory)


def is_open(client: Client) -> bool:
    return client._held.ended is None


async def test_g8_a_client_stays_where_it_moved_before_the_directory_forgot_it(uri: str) -> None:
    """The row names the former owner, which knows of the takeover: the node that took the client over keeps it."""
    async with buses(uri, 2, lease=SHORT) as (a, b), a.client("bob"):
        row = await b.locate("bob")
        async with b.client("bob") as bob:
            before = bob.epoch
            await restore(a, "bob", row)
            await until(lambda: bob.epoch > before or not is_open(bob), "the row is found to be stale")
            assert is_open(bob)
            owner = await a.locate("bob")
            assert owner is not None
            assert (owner.node, owner.epoch) == ("n1", bob.epoch)
            for bus in (a, b):
                await bus.send("bob", "n", bus.node)
            assert sorted(event.data for event in await take(bob, 2)) == ["n0", "n1"]


@pytest.mark.parametrize("row", ["earlier", "later", "none"])
async def test_g8_of_two_live_handles_the_later_stays_whatever_the_row_says(
    uri: str, monkeypatch: pytest.MonkeyPatch, row: str
) -> None:
    """The former owner never heard of the takeover, and the directory may have forgotten it: one handle stays."""
    async with buses(uri, 2, lease=SHORT) as (a, b), a.client("bob") as old:
        rows = {"earlier": await b.locate("bob"), "none": None}
        with monkeypatch.context() as deaf:
            deaf.setattr(a._node.ownership, "supersede", lambda *_: None)
            new = await b.client("bob").__aenter__()
            rows["later"] = await b.locate("bob")
        await restore(a, "bob", rows[row])

        async def one_is_left() -> bool:
            owner = await a.locate("bob")
            names = [(name, one.epoch) for name, one in (("n0", old), ("n1", new)) if is_open(one)]
            return owner is not None and names == [(owner.node, owner.epoch)]

        await until(one_is_left, "one handle is left, the one that the directory names")
        if row != "none":  # else either node may find out first that there is no row
            assert is_open(new)
