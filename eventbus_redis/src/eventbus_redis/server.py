"""Where the server is, and how a connection to it is made."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from redis.asyncio import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import AuthenticationError, ConnectionError, ResponseError

from eventbus_core import ConfigurationError, TransportUnavailable, TransportURI
from eventbus_redis.errors import redis_errors
from eventbus_redis.options import RedisOptions

AnyConnection: TypeAlias = Connection | UnixDomainSocketConnection

_CONNECTIONS: Final[Mapping[str, Callable[..., AnyConnection]]] = MappingProxyType(
    {"rediss": SSLConnection, "unix": UnixDomainSocketConnection}
)
OLDEST_MAJOR: Final = 7
DEFAULT_PORT: Final = 6379
CONNECTING: Final = " connecting to "
"""In redis-py's error for a connection that could not be made."""


class Server:
    """
    One Redis or Valkey server.

    Attributes:
        uri: of the server, for errors.
        database: the number of the database in use.
    """

    def __init__(self, uri: TransportURI, options: RedisOptions) -> None:
        self.uri = uri
        self.database = _database(uri, options)
        self._timeout = options.connect_timeout
        self._settings: dict[str, Any] = {
            "db": self.database,
            "username": uri.username,
            "password": uri.password,
            # Calls have deadlines of their own; redis-py's would cost a timer for each reply.
            "socket_timeout": None,
            "socket_connect_timeout": options.connect_timeout,
            "protocol": 2,
            **_address(uri),
            **_tls(uri, options),
        }
        self._make = _CONNECTIONS.get(uri.scheme, Connection)

    async def connect(self) -> AnyConnection:
        """
        Return a new connection to a server that can serve us; it never connects anew by itself.

        Raises:
            TransportUnavailable, ConfigurationError: see :meth:`Transport.open`.
        """
        connection = self._make(**self._settings)
        try:
            with redis_errors(self.uri):
                try:
                    async with asyncio.timeout(self._timeout):
                        await connection.connect()  # type: ignore[no-untyped-call]
                        await self._check(connection)
                except BaseException:
                    await connection.disconnect(nowait=True)
                    raise
        except TransportUnavailable as error:
            if hint := self._hint(error):
                raise TransportUnavailable(f"{error}; {hint}") from error.__cause__
            raise
        return connection

    def _hint(self, error: TransportUnavailable) -> str:
        """Return what else may be wrong, if one side may speak TLS and the other not."""
        cause = error.__cause__
        if self.uri.scheme == "rediss" and isinstance(cause, TimeoutError):
            return "if it does not speak TLS on this port, write redis://"
        # A server of TLS hangs up on who does not begin with a handshake.
        if self.uri.scheme == "redis" and isinstance(cause, ConnectionError) and CONNECTING not in str(cause):
            return "if it speaks TLS on this port, write rediss://"
        return ""

    async def _check(self, connection: AnyConnection) -> None:
        await connection.send_command("HELLO", check_health=False)
        try:
            reply = await connection.read_response()
        except AuthenticationError:
            raise
        except ResponseError as error:  # there is no such command before 6.0
            raise self._too_old("before 6.0") from error
        facts = dict(zip(reply[::2], reply[1::2], strict=True))
        version = facts[b"version"].decode()
        if int(version.partition(".")[0]) < OLDEST_MAJOR:
            raise self._too_old(version)
        if (mode := facts[b"mode"].decode()) != "standalone":
            raise ConfigurationError(f"{self.uri} is a Redis in {mode} mode; this backend needs a single server")

    def _too_old(self, version: str) -> ConfigurationError:
        return ConfigurationError(
            f"{self.uri} is a Redis {version}; eventbus needs {OLDEST_MAJOR}.0 or later, or Valkey"
        )


def _address(uri: TransportURI) -> dict[str, Any]:
    if uri.scheme != "unix":
        return {"host": uri.host or "localhost", "port": uri.port or DEFAULT_PORT, "socket_keepalive": True}
    if uri.host or uri.port or not uri.path:
        raise ConfigurationError(f"{uri} names no socket; write unix:///path/to/redis.sock")
    return {"path": uri.path}


def _database(uri: TransportURI, options: RedisOptions) -> int:
    path = "" if uri.scheme == "unix" else uri.path.removeprefix("/")
    if not path:
        return options.db
    if not (path.isascii() and path.isdigit()):
        raise ConfigurationError(f"{path!r} in {uri} is not the number of a database; write {uri.scheme}://host:port/0")
    if options.db not in (0, int(path)):
        raise ConfigurationError(f"{uri} names database {path}, the option 'db' says {options.db}; give one of the two")
    return int(path)


def _tls(uri: TransportURI, options: RedisOptions) -> dict[str, Any]:
    given = {
        "ssl_ca_certs": options.ssl_ca_certs,
        "ssl_certfile": options.ssl_certfile,
        "ssl_keyfile": options.ssl_keyfile,
    }
    if uri.scheme != "rediss":
        if unused := [name for name in uri.options if name.startswith("ssl_")]:
            raise ConfigurationError(f"{unused[0]!r} is for TLS, and {uri} does not use it; write rediss://")
        return {}
    for name, file in given.items():
        if file is not None and not Path(file).is_file():
            raise ConfigurationError(f"option {name!r}: there is no file {file!r}")
    if options.ssl_password is not None:  # which not every redis-py that we allow knows
        given["ssl_password"] = options.ssl_password
    return {
        **given,
        "ssl_check_hostname": options.ssl_check_hostname,
        "ssl_cert_reqs": options.ssl_cert_reqs,
    }
