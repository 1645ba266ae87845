"""What adapters for channels share, without the frameworks."""

from __future__ import annotations

import pytest

import eventbus
from eventbus import Client, EventBusError
from eventbus_core.integrations.channel_feed import ChannelFeed
from tests.support import fresh_namespace


async def test_a_feed_that_cannot_claim_its_client_closes_its_own_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_: Client) -> Client:
        raise EventBusError("refused")

    uri = f"memory://?namespace={fresh_namespace()}"
    feed = ChannelFeed(uri, "feed")
    with monkeypatch.context() as patch:
        patch.setattr(Client, "open", fail)
        with pytest.raises(EventBusError):
            await feed.open()
    async with eventbus.connect(uri) as bus:
        assert [node.id for node in await bus.nodes()] == [bus.node]
    await feed.open()
    await feed.aclose()
