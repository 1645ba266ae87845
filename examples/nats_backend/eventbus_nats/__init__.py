"""An eventbus backend for core NATS: ``nats://host:4222``."""

from eventbus_nats.transport import NatsTransport

__all__ = ("NatsTransport",)
