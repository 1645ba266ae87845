"""The contract of :class:`Directory`, one clause for each test; skipped for a backend without a directory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import anyio
import attrs
import pytest

from eventbus_core.backend import Claim, Directory, Owner
from eventbus_core.errors import NamespaceMismatch, NodeAlreadyPresent
from eventbus_core.testing.hosts import fresh_namespace
from eventbus_core.testing.simulation.bare_nodes import TERMS, BareNode, bare_nodes, cancelled_after
from eventbus_core.testing.suite.fixtures import UnderTest
from eventbus_core.testing.suite.guarantees import scenario
from eventbus_core.testing.waiting import until

BRIEF_LEASE = 2.5
"""Seconds that a test waits for the end of a lease, and that a loaded machine may stand still before."""
ODD_NAMES = (
    "alice", "Alice", "alíce", "acme/alice", "acme", "a.b", "a:b", "a", "b", "0", "-1", "nil", "None", "{a}", "{b}",
    "[a-z]", "?", "%", "%s", "$a", "#a", "'; DROP TABLE owners; --".replace(" ", ""), '"', "\\", "\\n", "n0", "all",
    "l:7", "n:n0", "日本", "x" * 255,
)  # fmt: skip


class DirectorySuite(UnderTest):
    """The contract of a directory."""

    @scenario()
    async def test_g8_the_latest_claim_owns(self, uri: str) -> None:
        """Each claim of a client has a larger epoch than any before, and names the previous owner."""
        async with bare_nodes(uri, "n0", "n1", "n2") as members:
            incarnations = [await each.enter() for each in members]
            epochs = [0]
            previous: Owner | None = None
            for turn in range(12):
                one, incarnation = members[turn % 3], incarnations[turn % 3]
                (claim,) = granted(await one.directory.claim(["acme/alice"], takeover=True))
                assert claim.epoch > max(epochs), f"the epochs are {[*epochs, claim.epoch]}"
                assert claim.previous == previous
                epochs.append(claim.epoch)
                previous = Owner(one.transport.node, incarnation, claim.epoch)
                assert await members[(turn + 1) % 3].directory.locate(["acme/alice"]) == [previous]

    @scenario()
    async def test_g8_epochs_grow_over_releases_and_entries(self, uri: str) -> None:
        """Neither a release nor a new entry of the node resets the epoch."""
        async with bare_nodes(uri) as (one, two):
            await two.enter()
            epochs = []
            for _ in range(3):
                await one.enter()
                for _ in range(3):
                    (claim,) = granted(await one.directory.claim(["alice"], takeover=False))
                    epochs.append(claim.epoch)
                    await one.directory.release([claim])
                await one.directory.leave()
            assert epochs == sorted(set(epochs)), f"the epochs are {epochs}"

    @scenario()
    async def test_g8_without_takeover_one_of_many_gets_the_client(self, uri: str) -> None:
        """Of concurrent claims without takeover one is granted; the other nodes get its owner."""
        names = [f"client-{number}" for number in range(20)]
        async with bare_nodes(uri, "n0", "n1", "n2") as members:
            answers = await claimed_at_once(members, names, takeover=False)
            for index, name in enumerate(names):
                column = {node: answer[index] for node, answer in answers.items()}
                winners = [node for node, answer in column.items() if isinstance(answer, Claim)]
                assert len(winners) == 1, f"{name!r} was granted to {winners}"
                (owner,) = await members[0].directory.locate([name])
                assert owner is not None
                assert owner.node == winners[0]
                assert all(answer == owner for node, answer in column.items() if node != winners[0]), column

    @scenario()
    async def test_g8_concurrent_takeovers_form_a_chain(self, uri: str) -> None:
        """Of concurrent takeovers, each takes the client from the one before; the last one owns."""
        names = [f"client-{number}" for number in range(20)]
        async with bare_nodes(uri, "n0", "n1", "n2") as members:
            answers = await claimed_at_once(members, names, takeover=True)
            for index, name in enumerate(names):
                claims = sorted(granted([answer[index] for answer in answers.values()]), key=lambda claim: claim.epoch)
                chain = [claim.previous.epoch if claim.previous else 0 for claim in claims]
                assert chain == [0, *(claim.epoch for claim in claims[:-1])], f"not a chain: {claims}"
                (owner,) = await members[0].directory.locate([name])
                assert owner is not None
                assert owner.epoch == claims[-1].epoch, f"{name!r} belongs to {owner}, the claims are {claims}"

    @scenario()
    async def test_g8_a_refused_claim_changes_nothing(self, uri: str) -> None:
        """Without takeover a client keeps its owner, also if that is us; other claims in the same call are granted."""
        async with bare_nodes(uri) as (one, two):
            incarnation = await one.enter()
            await two.enter()
            (claim,) = granted(await one.directory.claim(["alice"], takeover=False))
            owner = Owner("n0", incarnation, claim.epoch)
            for member in (one, two):
                first, second = await member.directory.claim(["alice", f"of {member.transport.node}"], takeover=False)
                assert first == owner
                assert isinstance(second, Claim)
            assert await two.directory.locate(["alice"]) == [owner]

    @scenario()
    async def test_g8_a_directory_that_knows_the_last_loss_tells_each(self, uri: str) -> None:
        """After a renewal ``last_loss`` is another exactly if other nodes have taken clients since the one before."""
        async with bare_nodes(uri) as (one, two):
            await one.enter()
            await two.enter()

            async def loss() -> int | None:
                assert await one.directory.renew()
                return one.directory.last_loss

            await one.directory.claim(["acme/alice", "acme/bob", "acme/carol"], takeover=True)
            if (first := await loss()) is None:
                return
            assert first == 0, f"no client was taken, and last_loss is {first}"
            await two.directory.claim(["acme/alice", "acme/dave"], takeover=False)
            assert await loss() == 0, "a refused claim took no client"
            losses = [first]
            for client in ("acme/alice", "acme/bob"):
                await two.directory.claim([client], takeover=True)
                assert await loss() not in losses, f"{client} was taken, and last_loss is one of {losses}"
                losses.append(await loss() or 0)
            await one.directory.claim(["acme/alice", "acme/carol"], takeover=True)
            await two.directory.release(granted(await two.directory.claim(["acme/erin"], takeover=True)))
            assert await loss() == losses[-1], "no client was taken since"

    @scenario()
    async def test_g8_a_release_keeps_the_claims_of_other_nodes(self, uri: str) -> None:
        """A release ends exactly the claims with its epochs: not those taken over, nor those that we repeated."""
        async with bare_nodes(uri) as (one, two):
            await one.enter()
            await two.enter()
            old = granted(await one.directory.claim(["alice", "bob", "carol"], takeover=True))
            await two.directory.claim(["alice"], takeover=True)
            await one.directory.claim(["bob"], takeover=True)
            await one.directory.release(old)
            owners = await two.directory.locate(["alice", "bob", "carol"])
            assert [owner and owner.node for owner in owners] == ["n1", "n0", None], "a release ended another claim"
            await one.directory.release(old)
            assert await two.directory.locate(["alice", "bob", "carol"]) == owners

    @scenario()
    async def test_g9_incarnations_grow(self, uri: str) -> None:
        """No two entries into a namespace share an incarnation, and later ones are larger."""
        async with bare_nodes(uri, "n0", "n1", "n2") as members:
            seen = [0]
            for _ in range(3):
                seen.extend([await member.enter() for member in members])
                for member in members[1:]:
                    await member.directory.leave()
                    await member.directory.leave()
                seen.append(await members[0].enter())
                await members[0].directory.leave()
            assert seen == sorted(set(seen)), f"the incarnations are {seen}"

    @scenario()
    async def test_g9_an_entry_whose_answer_was_lost_can_be_repeated(self, uri: str) -> None:
        """An ``enter`` may be cancelled at every await, also after it took effect: the same directory can enter."""
        async with bare_nodes(uri) as (one, two):
            last = await two.enter()
            for turns in range(12):
                await cancelled_after(turns, one.enter)
                try:
                    incarnation = await one.enter()
                except NodeAlreadyPresent as error:
                    raise AssertionError(f"an entry cancelled after {turns} turns keeps its own node out") from error
                assert incarnation > last, f"the incarnations are {last} and {incarnation}"
                last = incarnation
                assert await one.directory.renew(), "the lease of a repeated entry has ended"
                assert {node.id for node in await two.directory.nodes()} == {"n0", "n1"}
                await one.directory.leave()

    @scenario()
    async def test_g9_a_leave_frees_the_clients(self, uri: str) -> None:
        """When ``leave`` returns, the node is off the list, its clients are free, and its id may be used again."""
        async with bare_nodes(uri, "n0", "n1", "n1") as (one, two, other):
            await one.enter()
            await two.enter()
            await two.directory.claim(["alice"], takeover=True)
            assert [node.id for node in await one.directory.nodes()] == ["n0", "n1"]
            await two.directory.leave()
            assert [node.id for node in await one.directory.nodes()] == ["n0"]
            assert await one.directory.locate(["alice"]) == [None]
            assert await listed(one.directory) == []
            assert not await two.directory.renew()
            await other.enter()
            granted(await one.directory.claim(["alice"], takeover=False))

    @scenario()
    async def test_g9_the_clients_of_a_dead_node_are_free_within_its_lease(self, uri: str) -> None:
        """Once the lease of a node has ended, it is off the list, its clients are free, and ``renew`` returns False."""
        async with bare_nodes(uri) as (one, two):
            await one.enter()
            await two.enter(BRIEF_LEASE)
            (old,) = granted(await two.directory.claim(["alice"], takeover=True))
            began = anyio.current_time()
            assert await two.directory.renew()
            await until(lambda: is_free(one.directory, "alice"), "the clients of a dead node are free")
            assert anyio.current_time() - began > BRIEF_LEASE / 2, "the lease ended too early"
            assert [node.id for node in await one.directory.nodes()] == ["n0"], "a dead node is on the list"
            assert await listed(one.directory) == []
            (claim,) = granted(await one.directory.claim(["alice"], takeover=False))
            assert claim.epoch > old.epoch
            assert not await two.directory.renew(), "a node that lost its lease was not told"
            await two.directory.leave()
            await two.directory.release([old])
            (owner,) = await one.directory.locate(["alice"])
            assert owner is not None
            assert owner.node == "n0"

    @scenario()
    async def test_g9_many_nodes_may_clean_up_after_a_dead_one_at_once(self, uri: str) -> None:
        """While many renewals remove the clients of a dead node, claims made meanwhile are kept."""
        names = [f"client-{number}" for number in range(1200)]
        taken = names[::7]

        async def renew(member: BareNode) -> None:
            for _ in range(6):
                assert await member.directory.renew(), "a lease that was renewed in time has ended"

        async with bare_nodes(uri, "n0", "n1", "n2", "n3") as (dead, *members):
            for each in members:
                await each.enter()
            await dead.enter(BRIEF_LEASE)
            await dead.directory.claim(names, takeover=True)
            await until(lambda: is_free(members[0].directory, names[0]), "the clients of a dead node are free")
            async with anyio.create_task_group() as group:
                for each in members:
                    group.start_soon(renew, each)
                granted(await members[1].directory.claim(taken, takeover=False))
            assert await listed(members[0].directory) == sorted(taken)
            assert await listed(members[2].directory, "n2") == sorted(taken)
            owners = await members[0].directory.locate(names)
            assert [name for name, owner in zip(names, owners, strict=True) if owner] == taken

    @scenario()
    async def test_g9_a_node_that_renews_keeps_its_clients(self, uri: str) -> None:
        """A lease that is renewed holds, and ``lease_left`` says for how long."""
        async with bare_nodes(uri) as (one, two):
            await one.enter()
            await two.enter(BRIEF_LEASE)
            await two.directory.claim(["alice"], takeover=True)
            end = anyio.current_time() + 1.5 * BRIEF_LEASE
            while anyio.current_time() < end:
                assert await two.directory.renew(), "a lease that was renewed in time has ended"
                left = {node.id: node.lease_left for node in await one.directory.nodes()}
                assert 0 < left["n1"] <= BRIEF_LEASE + 0.01
                assert await one.directory.locate(["alice"]) != [None]
                await anyio.sleep(BRIEF_LEASE / 8)

    @scenario()
    async def test_g9_an_id_belongs_to_one_live_node(self, uri: str) -> None:
        """No node can enter with the id of a live one; it can with the id of a dead one, and again with its own."""
        async with bare_nodes(uri, "n0", "n0") as (one, two):
            first = await one.enter()
            with pytest.raises(NodeAlreadyPresent):
                await two.enter()
            assert await one.enter(BRIEF_LEASE) > first
            await until(lambda: no_nodes(two.directory), "a dead node is off the list")
            assert await two.enter() > first

    @scenario()
    async def test_g12_a_node_with_other_terms_is_refused(self, uri: str) -> None:
        """A node with another lane count or wire version gets NamespaceMismatch, and changes nothing."""
        async with bare_nodes(uri) as (one, two):
            await one.enter()
            for terms in (attrs.evolve(TERMS, lanes=TERMS.lanes + 1), attrs.evolve(TERMS, wire_version=2)):
                with pytest.raises(NamespaceMismatch):
                    await two.directory.enter("n1", 60.0, terms)
            assert [node.id for node in await two.directory.nodes()] == ["n0"]
            await two.enter()

    @scenario()
    async def test_g12_odd_names_are_kept_apart(self, uri: str) -> None:
        """Whatever characters a client's name has, it names that client alone."""
        async with bare_nodes(uri) as (one, two):
            await one.enter()
            await two.enter()
            for name in ODD_NAMES:
                assert await two.directory.locate([name]) == [None], f"{name!r} is taken for another client"
                granted(await one.directory.claim([name], takeover=False))
            assert await listed(two.directory) == sorted(ODD_NAMES)
            claims = granted(await two.directory.claim(ODD_NAMES[::2], takeover=True))
            await two.directory.release(claims)
            assert await listed(two.directory) == sorted(ODD_NAMES[1::2])

    @scenario()
    async def test_g12_clients_of_full_length_are_kept_apart(self, uri: str) -> None:
        """In a namespace and on nodes of 64 characters, clients of 255 bytes differ by their last character."""
        space = fresh_namespace().ljust(64, "x")
        names = [f"acme/{'c' * 249}{end}" for end in "12"]
        async with bare_nodes(uri, "n" * 63 + "1", "n" * 63 + "2", namespace=space) as members:
            for member, name in zip(members, names, strict=True):
                await member.enter()
                granted(await member.directory.claim([name], takeover=False))
            owners = await members[0].directory.locate(names)
            assert [owner and owner.node for owner in owners] == [member.transport.node for member in members]
            assert await listed(members[1].directory) == names
            assert await listed(members[1].directory, members[0].transport.node) == names[:1]

    @scenario()
    async def test_g12_namespaces_have_directories_of_their_own(self, uri: str) -> None:
        """The same ids and names in two namespaces are independent of each other."""
        space = fresh_namespace()
        async with (
            bare_nodes(uri, "n0", namespace=space) as (one,),
            bare_nodes(uri, "n0", namespace=f"{space}.a") as (other,),
        ):
            await one.enter()
            await other.enter()
            await one.directory.claim(["alice"], takeover=True)
            assert await other.directory.locate(["alice"]) == [None]
            granted(await other.directory.claim(["alice"], takeover=False))
            await one.directory.leave()
            assert [node.id for node in await other.directory.nodes()] == ["n0"]
            assert await listed(other.directory) == ["alice"]

    @scenario()
    async def test_g6_many_clients_in_one_call(self, uri: str) -> None:
        """Bulk calls answer in the order of their arguments, and lists have every client once."""
        names = [f"client-{number}" for number in range(1500)]
        async with bare_nodes(uri) as (one, two):
            await one.enter()
            incarnation = await two.enter()
            claims = granted(await two.directory.claim(names, takeover=True))
            assert [claim.client for claim in claims] == names
            await one.directory.claim(["other"], takeover=True)
            assert await listed(one.directory) == sorted([*names, "other"])
            assert await listed(one.directory, "n1") == sorted(names)
            assert await listed(one.directory, "absent") == []
            asked = [name for pair in zip(names, names[::-1], strict=True) for name in (*pair, "unknown")]
            owners = {claim.client: Owner("n1", incarnation, claim.epoch) for claim in claims}
            assert await one.directory.locate(asked) == [owners.get(name) for name in asked]
            await two.directory.release(claims[1:])
            assert await listed(one.directory) == sorted([names[0], "other"])


def granted(answers: Sequence[Claim | Owner]) -> list[Claim]:
    """Return *answers*; fail if a claim was refused."""
    refused = [answer for answer in answers if not isinstance(answer, Claim)]
    assert not refused, f"claims were refused: {refused}"
    return [answer for answer in answers if isinstance(answer, Claim)]


async def claimed_at_once(
    members: Sequence[BareNode], names: Sequence[str], *, takeover: bool
) -> dict[str, Sequence[Claim | Owner]]:
    """Have all *members* enter, and then claim *names* concurrently; return the answer to each."""
    answers: dict[str, Sequence[Claim | Owner]] = {}

    async def claim(member: BareNode) -> None:
        answers[member.transport.node] = await member.directory.claim(names, takeover=takeover)

    for member in members:
        await member.enter()
    async with anyio.create_task_group() as group:
        for member in members:
            group.start_soon(partial(claim, member))
    return answers


async def listed(directory: Directory, node: str | None = None) -> list[str]:
    """Return the clients of *node*, or all, sorted."""
    return sorted([client async for client in directory.clients(node)])


async def is_free(directory: Directory, client: str) -> bool:
    """Return whether no node owns *client*."""
    return await directory.locate([client]) == [None]


async def no_nodes(directory: Directory) -> bool:
    """Return whether no node is alive."""
    return not await directory.nodes()
