"""Claims in doubt: the holder and the claimer settle them against the directory, whatever messages were lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio
import pytest

import eventbus
from eventbus import Bus, Client, ClientTakenOver, TransportUnavailable
from eventbus_core.backend import Claim, Directory, Owner
from eventbus_core.membership import confirmation
from tests.support import DEADLINE, Hooked, Inbox, buses, take, tasks, until

ASKING = True
SHORT = 4.5
"""Seconds of a lease, if a test waits for renewals."""


def directory_of(bus: Bus) -> Directory:
    return bus._node.directory


def is_open(client: Client) -> bool:
    return client._held.ended is None


async def owner_node(bus: Bus, client: str) -> str | None:
    owner = await bus.locate(client)
    return None if owner is None else owner.node


class LostAnswer:
    """The claims of a bus are carried out and then raise, as if the connection broke before the answer."""

    def __init__(
        self,
        bus: Bus,
        monkeypatch: pytest.MonkeyPatch,
        *,
        granted: bool = True,
        locates: bool = True,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        directory = directory_of(bus)
        claim, locate = directory.claim, directory.locate

        async def broken(clients: Sequence[str], takeover: bool) -> Sequence[Claim | Owner]:
            monkeypatch.setattr(directory, "claim", claim)
            if not locates:
                monkeypatch.setattr(directory, "locate", out_of_reach)
            if granted:
                await claim(clients, takeover)
            meanwhile()
            raise TransportUnavailable("the answer was lost")

        async def out_of_reach(clients: Sequence[str]) -> Sequence[Owner | None]:
            monkeypatch.setattr(directory, "locate", locate)
            raise TransportUnavailable("out of reach")

        monkeypatch.setattr(directory, "claim", broken)


async def test_g8_a_holder_finds_a_takeover_of_which_it_was_never_told(uri: str) -> None:
    """The claimer dies right after its claim, so no message comes: a renewal of the holder ends its handle."""
    async with (
        buses(uri, 1, lease=SHORT) as (a,),
        eventbus.connect(uri, node="n1", namespace=a.namespace, lease=DEADLINE) as b,  # it must not end meanwhile
        a.client("bob") as bob,
        a.client("carol") as carol,
    ):
        await directory_of(b).claim(["bob"], True)
        await until(lambda: not is_open(bob), "the holder finds out")
        with pytest.raises(ClientTakenOver, match="node 'n1' took over client 'bob'"):
            await bob.receive()
        await b.send("carol", "n")
        await take(carol, 1)


async def test_g8_a_holder_claims_again_what_the_directory_gives_to_no_node(uri: str) -> None:
    """The claimer took the client and its lease ended, or the row was lost: the handle that is open owns it again."""
    async with buses(uri, 2, lease=SHORT) as (a, b), a.client("bob") as bob:
        before = bob.epoch
        await directory_of(a).release([Claim("bob", before)])
        await until(lambda: bob.epoch > before, "it is claimed again, by a larger epoch")
        owner = await b.locate("bob")
        assert owner is not None
        assert (owner.node, owner.epoch) == ("n0", bob.epoch)
        await b.send("bob", "n", 1)
        assert [event.data for event in await take(bob, 1)] == [1]


async def test_g8_a_claim_whose_answer_was_lost_is_adopted(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The claim succeeds, the former handle ends before it returns, and what waited there comes first."""
    async with buses(uri, 3, lease=DEADLINE) as (a, b, c), a.client("bob") as old:
        await c.send("bob", "n", 1)
        await until(lambda: old._held.mailbox.count == 1)
        LostAnswer(b, monkeypatch)
        async with b.client("bob") as new:
            assert not is_open(old)
            for number, bus in enumerate((a, b, c), 2):
                await bus.send("bob", "n", number)
            events = [event.data for event in await take(new, 4)]
            assert (events[0], sorted(events)) == (1, [1, 2, 3, 4])
            owner = await c.locate("bob")
            assert owner is not None
            assert (owner.node, owner.epoch) == ("n1", new.epoch)
        assert await c.locate("bob") is None


async def test_g8_a_claim_that_was_lost_on_its_way_changes_nothing(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with buses(uri, 2, lease=DEADLINE) as (a, b), a.client("bob") as bob:
        LostAnswer(b, monkeypatch, granted=False)
        with pytest.raises(TransportUnavailable, match="the answer was lost"):
            await b.client("bob").__aenter__()
        await b.send("bob", "n", 1)
        assert [event.data for event in await take(bob, 1)] == [1]


async def test_g8_a_claim_that_is_given_up_in_doubt_leaves_one_owner_or_none(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory is out of reach when the answer is lost: afterwards the former holder has the client, or knows."""
    async with buses(uri, 2, lease=SHORT) as (a, b), a.client("bob") as bob:
        LostAnswer(b, monkeypatch, locates=False)
        with pytest.raises(TransportUnavailable):
            await b.client("bob").__aenter__()

        async def settled() -> bool:
            return await owner_node(b, "bob") == ("n0" if is_open(bob) else None)

        await until(settled, "the holder and the directory agree")


async def test_g8_a_claim_in_doubt_of_a_client_that_this_node_holds_counts(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handle that is open is held by the later claim, so that its release frees the client."""
    async with buses(uri, 2, lease=SHORT) as (a, b):
        async with b.client("bob") as bob:
            before = bob.epoch
            LostAnswer(b, monkeypatch, locates=False)
            with pytest.raises(TransportUnavailable):
                await b.client("bob").__aenter__()
            await until(lambda: bob.epoch > before, "its epoch is that of the later claim")
        assert await a.locate("bob") is None


@pytest.mark.parametrize("locates", [True, False])
async def test_a_claim_in_doubt_that_is_cancelled_is_released(
    uri: str, monkeypatch: pytest.MonkeyPatch, *, locates: bool
) -> None:
    async with buses(uri, 2, lease=SHORT) as (a, b):
        with anyio.CancelScope() as scope:
            LostAnswer(b, monkeypatch, locates=locates, meanwhile=scope.cancel)
            await b.client("bob").__aenter__()
        assert scope.cancelled_caught

        async def released() -> bool:
            return await a.locate("bob") is None and not b._node.ownership.claiming

        await until(released, "it is released")
        assert b.stats().clients == 0


async def test_a_row_of_a_node_that_does_not_hold_the_client_is_removed(uri: str) -> None:
    """After a restart from an older snapshot, say: the first event for the client is reported, and starts the look."""
    async with buses(uri, 2, lease=SHORT) as (a, b):
        a.on_undeliverable(lost := Hooked())
        await directory_of(b).claim(["bob"], True)
        await a.send("bob", "n")
        await until(lambda: [fate.reason for fate in lost] == ["client gone"])

        async def removed() -> bool:
            return await a.locate("bob") is None

        await until(removed, "the row is removed")


async def test_g5_one_batch_of_claims_does_not_fail_for_another(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Claims with and without ``takeover`` are two calls: what the one granted is kept when the other fails."""
    async with buses(uri, 2, lease=DEADLINE) as (a, b), tasks() as group:
        directory = directory_of(b)
        claim, first = directory.claim, Hooked()

        async def one_fails(clients: Sequence[str], takeover: bool) -> Sequence[Claim | Owner]:
            first((tuple(clients), takeover))
            if not takeover:
                raise TransportUnavailable("not without a takeover")
            return await claim(clients, takeover)

        monkeypatch.setattr(directory, "claim", one_fails)
        errors: list[Exception] = []

        async def refused() -> None:
            try:
                await b.client("carol", takeover=False).__aenter__()
            except TransportUnavailable as error:
                errors.append(error)

        group.start_soon(refused)
        async with b.client("bob", handler=(inbox := Inbox())):
            await until(lambda: bool(errors))
            assert len(first) <= 2
            await a.send("bob", "n", 1)
            await inbox.got(1)


@pytest.mark.parametrize("uri", ["memory"], indirect=True)
async def test_every_client_is_confirmed_within_two_leases(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A renewal asks for a share of the clients, and the next one goes on where it ended."""
    monkeypatch.setattr(confirmation, "PART", 2)
    async with buses(uri, 1, lease=60.0) as (bus,):
        names = [f"c{number}" for number in range(20)]
        for name in names:
            await bus.client(name).__aenter__()
        directory, asked = directory_of(bus), list[str]()
        confirm = directory.confirm

        async def watched(claims: Sequence[Claim]) -> Sequence[bool]:
            asked.extend(claim.client for claim in claims)
            return await confirm(claims)

        monkeypatch.setattr(directory, "confirm", watched)
        shares = []
        for _ in range(confirmation.RENEWALS):
            before = len(asked)
            await bus._node.confirmation.confirm_share()
            shares.append(len(asked) - before)
        assert set(asked) == set(names)
        assert max(shares) <= 4


async def test_g8_an_earlier_takeover_that_is_heard_of_during_a_claim_of_ours_does_not_end_it(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message of a former claimer comes late: the claim that this node is making has a larger epoch."""
    async with buses(uri, 1, lease=DEADLINE) as (bus,), bus.client("bob") as bob:
        directory, before = directory_of(bus), bob.epoch
        claim = directory.claim

        async def told_meanwhile(clients: Sequence[str], takeover: bool) -> Sequence[Claim | Owner]:
            answers = await claim(clients, takeover)
            bus._node.ownership.supersede("bob", answers[0].epoch, "n1")
            return answers

        await directory.release([Claim("bob", before)])
        monkeypatch.setattr(directory, "claim", told_meanwhile)
        bus._node.lease.hurry()
        await until(lambda: bob.epoch > before or not is_open(bob), "it is claimed again")
        assert is_open(bob)
        assert await owner_node(bus, "bob") == "n0"


async def test_g8_a_claim_that_is_being_answered_is_not_released_as_unknown(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client is in doubt, as a claim before failed: the row that the look finds is that of the next claim."""
    async with buses(uri, 1, lease=DEADLINE) as (bus,):
        directory = directory_of(bus)
        claim = directory.claim

        async def looked_at_meanwhile(clients: Sequence[str], takeover: bool) -> Sequence[Claim | Owner]:
            answers = await claim(clients, takeover)
            await bus._node.confirmation.settle_doubts()
            return answers

        monkeypatch.setattr(directory, "claim", looked_at_meanwhile)
        bus._node.ownership.doubt("bob")
        async with bus.client("bob") as bob:
            owner = await bus.locate("bob")
            assert owner is not None
            assert (owner.node, owner.epoch) == ("n0", bob.epoch)
