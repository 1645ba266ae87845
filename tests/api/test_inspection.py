"""What one can ask about the namespace: owners, counters, clients."""

from __future__ import annotations

import pytest

from eventbus import ClientNotFound
from eventbus_core.backend import node_partition
from tests.support import DEADLINE, Inbox, buses

ASKING = True


async def test_explain_names_the_owner_in_the_directory_and_in_the_cache(uri: str) -> None:
    """By the directory's word and by this node's memory, before and after a move."""
    async with buses(uri, 3) as (a, b, c):
        nothing = await a.explain("bob")
        assert (nothing.local, nothing.owner, nothing.partition, nothing.cached) == (False, None, None, None)
        async with b.client("bob", handler=Inbox()) as bob:
            here, there = await b.explain("bob"), await a.explain("bob")
            assert (here.local, here.partition) == (True, None)
            assert there.owner == here.owner
            assert there.owner is not None
            assert (there.owner.node, there.owner.epoch) == ("n1", bob.epoch)
            assert there.partition == node_partition("n1")
            assert there.lease_left is not None
            assert 0 < there.lease_left <= 10
            assert there.cached is None
            await a.send("bob", "n")
            assert (await a.explain("bob")).cached == there.owner
            async with c.client("bob"):
                moved = await a.explain("bob")
                assert moved.owner is not None
                assert moved.owner.node == "n2"
                # Without a directory every node is asked about a claim, and so hears of it. With one, the asking node
                # hears of the new owner only if the handover takes long.
                assert moved.cached in ([moved.owner] if a._node.peers else [there.owner, moved.owner])


async def test_a_node_returns_the_counters_of_another(uri: str) -> None:
    """Any node can ask any other for its counters."""
    async with buses(uri, 2) as (a, b), b.client("bob"):
        theirs = await a.node_stats("n1", timeout=DEADLINE)
        assert (theirs.node, theirs.clients) == ("n1", 1)
        assert (await b.node_stats("n1")).node == "n1"
        with pytest.raises(ClientNotFound):
            await a.node_stats("nowhere")


async def test_clients_by_prefix(uri: str) -> None:
    """``clients(prefix=...)`` yields those of one tenant."""
    async with buses(uri, 2) as (a, b), b.client("acme/bob"), a.client("acme/alice"), a.client("other/eve"):
        assert sorted([name async for name in a.clients(prefix="acme/")]) == ["acme/alice", "acme/bob"]
        assert [name async for name in a.clients("n1", prefix="acme/")] == ["acme/bob"]
