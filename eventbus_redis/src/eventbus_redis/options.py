"""The options of the Redis backend."""

from __future__ import annotations

import re
from typing import Any, Final, Literal

import attrs

from eventbus_core.backend import option
from eventbus_core.errors import OptionError

MAX_DATABASE: Final = 2**31 - 1
DAY: Final = 86_400

_PREFIX: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def _check_prefix(_options: RedisOptions, _field: attrs.Attribute[Any], value: str) -> None:
    # With a colon, one prefix and namespace could have the same keys as another.
    if not _PREFIX.fullmatch(value):
        raise OptionError.bad_value("prefix", value, "1 to 64 of A-Z a-z 0-9 _ - .")


@attrs.frozen
class RedisOptions:
    """The options of a Redis transport. Times are in seconds; ``ssl_*`` are for ``rediss://``."""

    prefix: str = option("eventbus", "first part of every key and channel name", validator=_check_prefix)
    db: int = option(0, "database number, if the path has none", minimum=0, maximum=MAX_DATABASE)
    connect_timeout: float = option(5.0, "seconds until an attempt to connect fails", minimum=0.01, maximum=DAY)
    command_timeout: float = option(5.0, "seconds until a command without an answer fails", minimum=0.01, maximum=DAY)
    probe_interval: float = option(2.0, "seconds without a frame until a probe is sent", minimum=0.01, maximum=DAY)
    probe_timeout: float = option(
        5.0, "seconds until a probe that does not return: reconnect", minimum=0.01, maximum=DAY
    )
    ssl_ca_certs: str | None = option(None, "file of trusted CA certificates; default: those of the system")
    ssl_certfile: str | None = option(None, "file of this client's certificate")
    ssl_keyfile: str | None = option(None, "file of the key of that certificate")
    ssl_password: str | None = option(None, "password of that key", repr=False)
    ssl_check_hostname: bool = option(True, "whether the server's certificate must name its host")
    ssl_cert_reqs: Literal["required", "optional", "none"] = option("required", "must the server show a certificate")


@attrs.frozen
class SentinelOptions(RedisOptions):
    """The options of a transport whose server is named by sentinels; ``user:password@`` in the URI is the server's."""

    sentinel_username: str | None = option(None, "user of the sentinels; those of the servers are in the URI")
    sentinel_password: str | None = option(None, "password of the sentinels", repr=False)
