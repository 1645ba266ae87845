"""The sides, by name; each is imported only when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Final

from tests.benchmarks.peers.base import Peer

MODULES: Final = {
    "eventbus": "bus:RedisBus",
    "eventbus-memory": "bus:MemoryBus",
    "redis-py": "redis_py:RedisPy",
    "redis-py-batched": "redis_batched:BatchedRedisPy",
    "broadcaster": "broadcaster:Broadcaster",
    "litestar": "litestar:LitestarChannels",
    "channels-pubsub": "channels:PubSubLayer",
    "channels-core": "channels:CoreLayer",
    "broadcaster-eventbus": "broadcaster:BroadcasterOnBus",
    "litestar-eventbus": "litestar:LitestarOnBus",
    "channels-eventbus": "channels:BusLayer",
    "socketio": "socketio:SocketioOnRedis",
    "socketio-eventbus": "socketio:SocketioOnBus",
    "raw-protocol": "raw_protocol:RawProtocol",
    "prototype": "prototype:Prototype",
    "nats": "nats:NatsCore",
    "nothing": "nothing:Nothing",
}

MODULE_NAMES: Final = [f"{__name__}.{module.partition(':')[0]}" for module in MODULES.values()]


def load_peer(name: str) -> type[Peer]:
    """
    Return the adapter of that *name*.

    Raises:
        ImportError: its library is not installed.
    """
    module, _, attribute = MODULES[name].partition(":")
    peer: type[Peer] = getattr(import_module(f"{__name__}.{module}"), attribute)
    return peer
