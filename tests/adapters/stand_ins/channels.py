"""Has the tests of channels_redis test our layer in the place of RedisChannelLayer, in a namespace for each test."""

import os
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import channels_redis.core
import channels_redis.pubsub
import pytest

from eventbus_core.integrations.channels import EventBusChannelLayer

_used: list[EventBusChannelLayer] = []
_namespace: list[str] = []


class StandIn(EventBusChannelLayer):
    """Takes the arguments of the classes that it replaces."""

    def __init__(self, hosts: object = None, **options: Any) -> None:
        super().__init__(f"{os.environ['EVENTBUS_URI']}?namespace={_namespace[-1]}", **options)
        _used.append(self)

    async def close_pools(self) -> None:
        """Do nothing: tests call it since connections of redis-py belong to one event loop."""


channels_redis.core.RedisChannelLayer = StandIn
channels_redis.pubsub.RedisPubSubChannelLayer = StandIn


@pytest.fixture(autouse=True)
def _layers() -> Iterator[None]:
    _namespace.append(uuid4().hex)
    yield
    for layer in _used:
        layer.close()
    _used.clear()
