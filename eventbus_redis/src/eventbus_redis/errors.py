"""The one place where the errors of redis-py and of the network become those of eventbus."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from types import MappingProxyType, TracebackType
from typing import Final

from redis import exceptions as redis

from eventbus_core import ConfigurationError, EventBusError, TransportUnavailable, TransportURI

HIDDEN: Final = "***"


def _unavailable(place: str, detail: str) -> EventBusError:
    return TransportUnavailable(f"{place} cannot be reached or does not serve now: {detail}")


def _login(place: str, detail: str) -> EventBusError:
    return ConfigurationError(
        f"{place} refuses the login: {detail}; give the right user and password in the URI: redis://user:password@host"
    )


def _permission(place: str, detail: str) -> EventBusError:
    return ConfigurationError(
        f"{place} does not let this user do what a node needs: {detail}; "
        f"with the default prefix: ACL SETUSER <user> ~eventbus:* &eventbus* +@all -@admin -@dangerous"
    )


def _protocol(place: str, detail: str) -> EventBusError:
    return ConfigurationError(f"what answers at {place} does not speak the Redis protocol: {detail}")


def _cluster(place: str, detail: str) -> EventBusError:
    return ConfigurationError(f"{place} belongs to a cluster, which this backend cannot use: {detail}; use one server")


def _taken(place: str, detail: str) -> EventBusError:
    return ConfigurationError(f"somebody else uses our keys at {place}: {detail}; choose another prefix or namespace")


def _database(place: str, detail: str) -> EventBusError:
    return ConfigurationError(f"{place} names a database that the server does not have: {detail}")


def _tls(place: str, detail: str) -> EventBusError:
    return ConfigurationError(f"no TLS connection to {place}: {detail}; see the ssl_* options, or use redis://")


def _unexpected(place: str, detail: str) -> EventBusError:
    return EventBusError(f"{place} answered with an error: {detail}")


Wording = Callable[[str, str], EventBusError]

# By class; the nearest in an error's method resolution order counts.
WORDINGS: Final[Mapping[type[BaseException], Wording]] = MappingProxyType(
    {
        OSError: _unavailable,  # TimeoutError is one
        redis.ConnectionError: _unavailable,
        redis.TimeoutError: _unavailable,
        redis.OutOfMemoryError: _unavailable,
        redis.ReadOnlyError: _unavailable,
        redis.TryAgainError: _unavailable,
        redis.ClusterDownError: _unavailable,
        redis.AuthenticationError: _login,
        redis.AuthorizationError: _login,
        redis.AuthenticationWrongNumberOfArgsError: _login,
        redis.NoPermissionError: _permission,
        redis.InvalidResponse: _protocol,
        redis.AskError: _cluster,
        redis.ClusterError: _cluster,
        redis.ClusterCrossSlotError: _cluster,
        redis.RedisClusterException: _cluster,
        redis.ResponseError: _unexpected,
        redis.DataError: _unexpected,
        redis.PubSubError: _unexpected,
        redis.WatchError: _unexpected,
        redis.LockError: _unexpected,
    }
)

# By the first word of an error reply, for those that redis-py has no class for, or that it did not parse.
CODES: Final[Mapping[str, Wording]] = MappingProxyType(
    {
        "BUSY": _unavailable,
        "CLUSTERDOWN": _unavailable,
        "LOADING": _unavailable,
        "MASTERDOWN": _unavailable,
        "MISCONF": _unavailable,
        "NOREPLICAS": _unavailable,
        "OOM": _unavailable,
        "READONLY": _unavailable,
        "TRYAGAIN": _unavailable,
        "UNKILLABLE": _unavailable,
        "NOAUTH": _login,
        "WRONGPASS": _login,
        "DENIED": _login,
        "NOPERM": _permission,
        "ASK": _cluster,
        "MOVED": _cluster,
        "CROSSSLOT": _cluster,
        "WRONGTYPE": _taken,
        "DB": _database,  # ERR DB index is out of range
    }
)

CUT: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
CAUGHT: Final = (OSError, redis.RedisError, redis.RedisClusterException)


class redis_errors:
    """Raises the errors of redis-py and of the network that come up within as ours, without the password of *uri*."""

    __slots__ = ("_uri",)

    def __init__(self, uri: TransportURI) -> None:
        self._uri = uri

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, CAUGHT) and not isinstance(error, EventBusError):  # some of ours are OSErrors too
            ours, hid = translate(self._uri, error)
            raise ours from (None if hid else error)


def translate(uri: TransportURI, error: BaseException) -> tuple[EventBusError, bool]:
    """Return our error for *error*, and whether a password had to be taken out of its text."""
    text = " ".join(map(str, error.args)).rstrip(".") or f"no answer in time ({type(error).__name__})"
    detail = text.replace(uri.password, HIDDEN) if uri.password else text
    return _wording(error, text)(str(uri), detail), detail != text


def _wording(error: BaseException, text: str) -> Wording:
    # redis-py wraps what the ssl module raises in the same error as a refused connection.
    if any(isinstance(fault, ssl.SSLError) and not isinstance(fault, CUT) for fault in (error, error.__context__)):
        return _tls
    found = next((WORDINGS[kind] for kind in type(error).__mro__ if kind in WORDINGS), _unexpected)
    return CODES.get(text.partition(" ")[0], found) if found is _unexpected else found
