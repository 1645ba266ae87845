"""The Redis backend of eventbus: one channel per partition, and a directory kept in Redis."""

from eventbus_redis.cluster.transport import RedisClusterTransport
from eventbus_redis.existing_client import uri_of
from eventbus_redis.sentinel.transport import SentinelTransport
from eventbus_redis.shards.transport import RedisShardsTransport
from eventbus_redis.transport import RedisTransport

__all__ = ("RedisClusterTransport", "RedisShardsTransport", "RedisTransport", "SentinelTransport", "uri_of")
