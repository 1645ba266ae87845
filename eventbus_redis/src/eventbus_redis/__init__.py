"""The Redis backend of eventbus: one channel per partition, and a directory kept in Redis."""

from eventbus_redis.transport import RedisTransport

__all__ = ("RedisTransport",)
