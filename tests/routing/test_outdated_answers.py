"""The directory answers, and a client is claimed before the answer arrives: the claim counts, not the answer."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest

from eventbus import Bus
from eventbus_core.backend import Owner
from tests.support import Hooked, Inbox, buses, fence, tasks, until


class Late:
    """Makes the next answer of the directory of *bus* wait, once it is there."""

    def __init__(self, bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked, self.goes_on = anyio.Event(), anyio.Event()
        directory = bus._node.directory
        locate = directory.locate

        async def late(clients: Sequence[str]) -> Sequence[Owner | None]:
            answers = await locate(clients)
            self.asked.set()
            await self.goes_on.wait()
            return answers

        monkeypatch.setattr(directory, "locate", late)
        monkeypatch.setattr(bus._node.locator._clients, "_call", late)


async def test_g5_an_event_for_a_client_that_is_claimed_meanwhile_is_handled(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came while no node held the client; it is not reported as ``client gone`` once this node holds it."""
    async with buses(uri, 2) as (a, b):
        lost = Hooked()
        a.on_undeliverable(lost)
        async with b.client("bob", handler=(first := Inbox())):
            await a.send("bob", "n", 1)
            await first.got(1)
        late = Late(b, monkeypatch)
        await a.send("bob", "n", 2)  # by the route that it knows
        await late.asked.wait()
        async with b.client("bob", handler=(second := Inbox())):
            late.goes_on.set()
            await second.got(1)
            await fence([a], [b])
        assert not lost
        assert second.data == [2]


async def test_a_send_to_a_client_that_is_claimed_here_meanwhile_finds_it(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look-up found no owner, but the client is here by now: ``ClientNotFound`` would be wrong."""
    async with buses(uri, 1) as (a,), tasks() as group:
        late = Late(a, monkeypatch)
        group.start_soon(a.send, "bob", "n", 1)
        await until(late.asked.is_set, "it is looked up")
        async with a.client("bob", handler=(inbox := Inbox())):
            late.goes_on.set()
            await inbox.got(1)
