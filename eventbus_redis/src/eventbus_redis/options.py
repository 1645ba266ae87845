"""The options of the Redis backend."""

from __future__ import annotations

import re
from typing import Any, Final, Literal

import attrs

from eventbus_core import OptionError, option

_PREFIX: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def _check_prefix(_options: RedisOptions, _field: attrs.Attribute[Any], value: str) -> None:
    # A colon would let the keys of one prefix and namespace pass for those of another.
    if not _PREFIX.fullmatch(value):
        raise OptionError.bad_value("prefix", value, "1 to 64 of A-Z a-z 0-9 _ - .")


@attrs.frozen
class RedisOptions:
    """The options of a Redis transport. Times are in seconds; ``ssl_*`` are for ``rediss://``."""

    prefix: str = option("eventbus", "first part of the names of all keys and channels", validator=_check_prefix)
    db: int = option(0, "number of the database, where the path does not give it", least=0)
    connect_timeout: float = option(5.0, "how long a connection may take to be made", least=0.01)
    command_timeout: float = option(5.0, "how long the server may take to answer", least=0.01)
    probe_interval: float = option(2.0, "after so long without a frame, a probe is sent", least=0.01)
    probe_timeout: float = option(5.0, "if the probe is not back by then, connect anew", least=0.01)
    ssl_ca_certs: str | None = option(None, "file of the certificates to trust; the system's if not given")
    ssl_certfile: str | None = option(None, "file of the certificate to show to the server")
    ssl_keyfile: str | None = option(None, "file of that certificate's key")
    ssl_password: str | None = option(None, "password of that key", repr=False)
    ssl_check_hostname: bool = option(True, "whether the server's certificate must be for its host name")
    ssl_cert_reqs: Literal["required", "optional", "none"] = option("required", "what the server must show")
