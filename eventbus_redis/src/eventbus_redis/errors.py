"""The translation of redis-py's and the network's errors into those of eventbus; it happens here only."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Final

from redis import exceptions as redis

from eventbus_core.backend import Frame, TransportURI
from eventbus_core.errors import (
    ClaimsSuspended,
    ConfigurationError,
    EventBusError,
    PartitionRefused,
    TransportUnavailable,
)

HIDDEN: Final = "***"


def _unavailable(place: str, detail: str) -> EventBusError:
    return TransportUnavailable(f"{place} cannot be reached or does not serve now: {detail}")


def _suspended(place: str, detail: str) -> EventBusError:
    return ClaimsSuspended(f"{place} takes no writes now: {detail}")


def _not_primary(place: str, detail: str) -> EventBusError:
    return TransportUnavailable(f"{place} rejects writes now, as a replica does: {detail}")


def _login(place: str, detail: str) -> EventBusError:
    return ConfigurationError(
        f"{place} refuses the login: {detail}; give the right user and password in the URI: redis://user:password@host"
    )


def _permission(place: str, detail: str) -> EventBusError:
    return ConfigurationError(
        f"{place} denies this user a right that a node needs: {detail}; eventbus doctor names each missing right, "
        f"and eventbus acl prints those of a node or a command"
    )


def _command(place: str, detail: str) -> EventBusError:
    return ConfigurationError(
        f"{place} does not have a command that a node needs: {detail}; "
        f"take its rename-command out of the server's configuration, or use another server"
    )


def _protocol(place: str, detail: str) -> EventBusError:
    return ConfigurationError(f"the server at {place} does not speak the Redis protocol: {detail}")


def _too_large(place: str, detail: str) -> EventBusError:
    return ConfigurationError(
        f"{place} takes no frame of this size: {detail}; raise its proto-max-bulk-len to 16 MiB or more"
    )


def _cluster(place: str, detail: str) -> EventBusError:
    if "+cluster://" in place:
        return TransportUnavailable(f"{place} does not serve this slot now: {detail}")
    return ConfigurationError(
        f"{place} belongs to a cluster: {detail}; write redis+cluster://host1,host2 for a cluster"
    )


def _taken(place: str, detail: str) -> EventBusError:
    return ConfigurationError(f"another program uses our keys at {place}: {detail}; choose another prefix or namespace")


def _database(place: str, detail: str) -> EventBusError:
    return ConfigurationError(f"{place} names a database that the server does not have: {detail}")


def _tls(place: str, detail: str) -> EventBusError:
    hints = (hint for sign, hint in TLS_HINTS.items() if sign in detail.lower().replace("_", " "))
    return ConfigurationError(f"no TLS connection to {place}: {detail}; {next(hints, 'see the ssl_* options')}")


def _unexpected(place: str, detail: str) -> EventBusError:
    return EventBusError(f"{place} answered with an error: {detail}")


def _address(place: str, detail: str) -> EventBusError:
    return ConfigurationError(f"{place} names no possible address: {detail}")


Wording = Callable[[str, str], EventBusError]

# By class: the first match in the error's method resolution order counts.
WORDINGS: Final[Mapping[type[BaseException], Wording]] = MappingProxyType(
    {
        OSError: _unavailable,  # TimeoutError is one
        UnicodeError: _address,
        redis.ConnectionError: _unavailable,
        redis.TimeoutError: _unavailable,
        redis.OutOfMemoryError: _suspended,
        redis.ReadOnlyError: _not_primary,
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

# By the first word of an error reply.
CODES: Final[Mapping[str, Wording]] = MappingProxyType(
    {
        "BUSY": _unavailable,
        "CLUSTERDOWN": _unavailable,
        "LOADING": _unavailable,
        "MASTERDOWN": _unavailable,
        "MISCONF": _suspended,
        "NOREPLICAS": _not_primary,
        "OOM": _suspended,
        "READONLY": _not_primary,
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
    }
)

# By a part of an error reply without a code, in lower case.
PHRASES: Final[Mapping[str, Wording]] = MappingProxyType(
    {
        "max number of clients": _unavailable,
        "without any password configured": _login,
        "user executing the script can't": _permission,
        "acl failure in script": _permission,
        "no permissions": _permission,
        "unknown command": _command,  # within a script: "unknown redis command"
        "unknown redis command": _command,
        "invalid bulk length": _too_large,
        "db index is out of range": _database,
        "invalid db index": _database,
    }
)

TLS_HINTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "mismatch": "connect by a name that the server's certificate holds",
        "not valid for": "connect by a name that the server's certificate holds",
        "expired": "the server's certificate has expired: renew it",
        "certificate verify failed": "name the authority that signed the server's certificate with ssl_ca_certs",
        "certificate required": "the server asks for a certificate: give ssl_certfile and ssl_keyfile",
        "handshake failure": "if the server asks for a certificate, give ssl_certfile and ssl_keyfile",
        "unknown ca": "the server does not trust the authority that signed the certificate in ssl_certfile",
        "wrong version number": "the server does not speak TLS on this port",
    }
)

CUT: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
CAUGHT: Final = (OSError, redis.RedisError, redis.RedisClusterException, UnicodeError, BufferError, OverflowError)


class redis_errors:
    """Raises errors of redis-py and of the network from within as ours, without the password of *uri*."""

    __slots__ = ("_uri",)

    def __init__(self, uri: TransportURI) -> None:
        self._uri = uri

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, CAUGHT) and not isinstance(error, EventBusError):  # some of ours are OSErrors
            ours, hid = translate(self._uri, error)
            raise ours from (None if hid else error)


def translate(uri: TransportURI, error: BaseException) -> tuple[EventBusError, bool]:
    """Return our error for *error*, and whether a password was removed from its text."""
    text = str(error).removeprefix("ERR ").rstrip(".") or f"no answer in time ({type(error).__name__})"
    detail = text.replace(uri.password, HIDDEN) if uri.password else text
    return _wording(error, text)(str(uri), detail), detail != text


def denies_writes(error: redis.ResponseError) -> bool:
    """Return whether *error* says that the server takes no writes because of its part in replication."""
    return CODES.get(_code(str(error))) is _not_primary


def frame_refusal(uri: TransportURI, reply: redis.ResponseError) -> ConfigurationError:
    """
    Return the error of a frame that the server at *uri* refuses for its channel or its size.

    Raises:
        EventBusError: *reply* concerns publishing as such.
    """
    error, _ = translate(uri, reply)
    text = str(reply).lower()
    if isinstance(error, ConfigurationError) and ("channel" in text or "bulk length" in text):
        return error
    raise error from reply


def frames_refused(frames: Sequence[Frame], counts: Sequence[int], why: EventBusError) -> PartitionRefused:
    """Return the error of a call in which the server took all *frames* but those whose count is -1."""
    partitions = [frame.partition for frame, count in zip(frames, counts, strict=True) if count < 0]
    return PartitionRefused(f"cannot publish to {', '.join(dict.fromkeys(partitions))}: {why}", partitions, counts)


def _wording(error: BaseException, text: str) -> Wording:
    if isinstance(error, ssl.SSLError) and not isinstance(error, CUT):
        return _tls
    found = next((WORDINGS[kind] for kind in type(error).__mro__ if kind in WORDINGS), _unexpected)
    if found is not _unexpected:
        return found
    if (code := _code(text)) in CODES:
        return CODES[code]
    return next((wording for phrase, wording in PHRASES.items() if phrase in text.lower()), _unexpected)


def _code(text: str) -> str:
    return text.partition(" ")[0]
