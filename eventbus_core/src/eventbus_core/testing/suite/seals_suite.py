"""The contract of directories that keep seals, for namespaces with a secret."""

from __future__ import annotations

import attrs
import pytest

from eventbus_core.backend import Owner
from eventbus_core.errors import NamespaceMismatch
from eventbus_core.testing.simulation.bare_nodes import TERMS, BareNode, bare_nodes
from eventbus_core.testing.suite.directory_suite import granted, listed
from eventbus_core.testing.suite.fixtures import UnderTest
from eventbus_core.testing.suite.guarantees import scenario


class SealsSuite(UnderTest):
    """The contract of a directory with ``keeps_seals``; skipped for others."""

    @scenario()
    async def test_g12_a_seal_stays_with_its_claim(self, uri: str) -> None:
        """A directory that keeps seals shows the latest with the claim that it was attached to, and with no other."""
        async with bare_nodes(uri) as (one, two):
            if not one.directory.keeps_seals:
                pytest.skip("the backend keeps no seals")
            incarnation = await one.enter()
            await two.enter()
            alice, bob = granted(await one.directory.claim(["alice", "bob"], takeover=False))
            sealed = Owner("n0", incarnation, alice.epoch)
            for seal in ("Zm9v_-==", "x" * 600):
                await one.directory.attach([alice], [seal])
                sealed = attrs.evolve(sealed, seal=seal)
                plain = Owner("n0", incarnation, bob.epoch)
                assert await two.directory.locate(["alice", "bob"]) == [sealed, plain]
                assert await two.directory.claim(["alice"], takeover=False) == [sealed]
                assert await one.directory.confirm([alice, bob]) == [True, True]
            (later,) = granted(await two.directory.claim(["alice"], takeover=True))
            assert later.previous == sealed
            await one.directory.attach([alice], ["late"])
            (owner,) = await one.directory.locate(["alice"])
            assert owner is not None
            assert (owner.epoch, owner.seal) == (later.epoch, "")
            await one.directory.release([alice, bob])
            await one.directory.attach([bob], ["late"])
            assert await listed(one.directory) == ["alice"]

    @scenario()
    async def test_g12_seals_of_secrets_are_compared_at_entry(self, uri: str) -> None:
        """A directory that keeps seals refuses a node that lacks the one it keeps, and then keeps the node's first."""
        async with bare_nodes(uri) as (one, two):
            if not one.directory.keeps_seals:
                pytest.skip("the backend keeps no seals")
            assert not await is_refused(one, "a")
            assert await is_refused(two)
            assert await is_refused(two, "b")
            assert not await is_refused(two, "b", "a")
            await one.directory.leave()
            assert await is_refused(one, "a")
            assert not await is_refused(one, "b")


async def is_refused(member: BareNode, *seals: str) -> bool:
    """Have *member* enter with these seals; return whether it was refused."""
    try:
        await member.directory.enter(member.transport.node, 60.0, attrs.evolve(TERMS, seals=seals))
    except NamespaceMismatch:
        return True
    return False
