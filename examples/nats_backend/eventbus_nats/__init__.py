"""An eventbus backend for core NATS: ``nats://host:4222``, and ``?directory=kv`` to find clients in JetStream."""

from eventbus_nats.transport import NatsTransport

__all__ = ("NatsTransport",)
