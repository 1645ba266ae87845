"""The URI of the server that an existing client of redis-py uses."""

from __future__ import annotations

from collections.abc import Mapping
from ssl import CERT_NONE, CERT_OPTIONAL, CERT_REQUIRED
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote, urlencode

from eventbus_core.backend import Address
from eventbus_core.errors import ConfigurationError

TLS_OPTIONS: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_password", "ssl_check_hostname")
CERT_REQS: Final[Mapping[object, str]] = MappingProxyType(
    {CERT_NONE: "none", CERT_OPTIONAL: "optional", CERT_REQUIRED: "required"}
)


def uri_of(client: Any) -> str:
    """
    Return the URI of the server, database, user and TLS settings of *client*, a client or connection pool of redis-py.

    So ``eventbus.connect(uri_of(client))`` needs no settings of its own; it makes connections of its own, and leaves
    *client* alone. The URI contains the password.

    Raises:
        ConfigurationError: *client* is of another kind, or gets its address or password from elsewhere, as those of
            Sentinel, of a cluster, and with a credential provider do; or has TLS settings that no URI can hold.
    """
    pool = getattr(client, "connection_pool", client)
    settings = getattr(pool, "connection_kwargs", None)
    if not isinstance(settings, dict) or hasattr(pool, "sentinel_manager"):
        raise ConfigurationError(
            f"{type(client).__name__} is no client or pool of one Redis server; give connect the URI instead"
        )
    if settings.get("credential_provider") is not None:
        raise ConfigurationError("the client has a credential provider; give connect a URI with user and password")
    user, password = settings.get("username"), settings.get("password")
    login = "" if user is None else quote(user, safe="")
    if password is not None:
        login += f":{quote(password, safe='')}"
    login += "@" if login else ""
    path = settings.get("path")
    options: dict[str, object] = {}
    if path is not None:
        place, options["db"] = f"unix://{login}{quote(path)}", settings.get("db") or 0
    else:
        tls = any(kind.__name__ == "SSLConnection" for kind in pool.connection_class.__mro__)
        address = Address(settings.get("host", "localhost"), int(settings.get("port", 6379)))
        place = f"{'rediss' if tls else 'redis'}://{login}{address}/{settings.get('db') or 0}"
        options |= _tls_options(settings) if tls else {}
    return f"{place}?{urlencode(options)}" if options else place


def _tls_options(settings: Mapping[str, Any]) -> dict[str, object]:
    options = {name: settings[name] for name in TLS_OPTIONS if settings.get(name) is not None}
    known = {*TLS_OPTIONS, "ssl_cert_reqs"}
    if other := sorted(name for name in settings.keys() - known if name.startswith("ssl_") and settings[name]):
        raise ConfigurationError(
            f"no URI can hold the client's {', '.join(other)}; give connect a URI with {', '.join(sorted(known))}"
        )
    if (required := settings.get("ssl_cert_reqs")) is not None:
        options["ssl_cert_reqs"] = CERT_REQS.get(required, required)
    return options
