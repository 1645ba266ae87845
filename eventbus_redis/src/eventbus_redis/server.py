"""The address of the server, and how to connect to it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from copy import copy
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Final, NamedTuple, Self
from weakref import WeakSet

import anyio
import attrs
from redis.exceptions import InvalidResponse, ResponseError

from eventbus_core.backend import Address, TransportURI
from eventbus_core.errors import ConfigurationError, TransportUnavailable
from eventbus_redis.connection import HUNG_UP, Connection
from eventbus_redis.errors import redis_errors
from eventbus_redis.options import MAX_DATABASE, RedisOptions
from eventbus_redis.packing import pack

OLDEST_MAJOR: Final = 7
DEFAULT_PORT: Final = 6379
PRIMARY: Final = ("master", "primary")
FIRST_DROP_PAUSE: Final = 5.0
LONGEST_DROP_PAUSE: Final = 60.0
"""Seconds from one :meth:`Server.drop` to the next, while a server that says it is a primary rejects writes."""
HELLO: Final = pack("HELLO")
ROLE: Final = pack("ROLE")
STANDALONE: Final = "standalone"
CLUSTER: Final = "cluster"
SENTINEL: Final = "sentinel"


class Hello(NamedTuple):
    """What a server says of itself; *role* is empty for a sentinel."""

    server: str
    version: str
    mode: str
    role: str

    @classmethod
    def parse(cls, reply: Any) -> Self:
        """
        Return what the *reply* to HELLO says.

        Raises:
            ResponseError: the server answered with this error.
            InvalidResponse: the reply is not one to HELLO.
        """
        if isinstance(reply, ResponseError):
            raise reply
        try:
            facts = dict(zip(reply[::2], reply[1::2], strict=True)) if isinstance(reply, list) else reply
            told = (facts[b"server"], facts[b"version"], facts[b"mode"], facts.get(b"role", b""))
            return cls(*(fact.decode() for fact in told))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InvalidResponse(f"HELLO was answered with {reply!r:.80}") from error

    @property
    def major(self) -> int:
        """The first number of the version; 0 if it does not begin with a number."""
        number = self.version.partition(".")[0]
        return int(number) if number.isdecimal() else 0


class Server:
    """
    One Redis or Valkey server, and the connections to it.

    Attributes:
        uri: the server's URI, for errors.
        database: number of the database in use.
        connected: how many connections were made so far.
        replicas: how many replicas the server had when it was asked last.
    """

    def __init__(
        self, uri: TransportURI, options: RedisOptions, *, any_role: bool = False, mode: str = STANDALONE
    ) -> None:
        self.uri = uri
        self.database = _database(uri, options)
        self.connected = self.replicas = 0
        self._timeout = options.connect_timeout
        self._any_role = any_role
        self._mode = mode
        self._path = _socket_path(uri)
        self._tls = _tls_context(uri, options)
        self._connections: WeakSet[Connection] = WeakSet()
        self._drop_pause = FIRST_DROP_PAUSE
        self._dropped_at = -LONGEST_DROP_PAUSE

    @property
    def address(self) -> Address:
        """The address of the server; of the first one, if its URI names several."""
        return self.uri.hosts[0]

    def at(self, address: Address) -> Server:
        """Return another server of the same kind, at *address*."""
        other = copy(self)
        other.uri = attrs.evolve(self.uri, hosts=(address,))
        other.connected, other.replicas, other._connections = 0, 0, WeakSet()
        return other

    async def connect(self, patience: float, *, hello: bytes = HELLO) -> Connection:
        """
        Return a new connection, logged in, to a primary of a usable version and mode; it never reconnects by itself.

        Args:
            patience: see :class:`Connection`.
            hello: the command HELLO, which may choose the version of the protocol.

        Raises:
            TransportUnavailable, ConfigurationError: see :meth:`Transport.open`.
        """
        try:
            with redis_errors(self.uri):
                async with asyncio.timeout(self._timeout):
                    connection = await self._open(patience)
                    self._connections.add(connection)
                    try:
                        await self._log_in(connection, hello)
                    except BaseException:
                        connection.close()
                        raise
        except TransportUnavailable as error:
            if hint := self._hint(error):
                raise TransportUnavailable(f"{error}; {hint}") from error.__cause__
            raise
        self.connected += 1
        return connection

    async def pause(self, seconds: float) -> None:
        """Wait before another attempt to connect."""
        await anyio.sleep(seconds)

    def drop(self, reason: str) -> None:
        """
        Close every connection: the server has rejected a write, and so may not be the primary any more.

        A server that goes on to reject writes, and says that it is a primary, loses its connections more and more
        rarely.
        """
        since = monotonic() - self._dropped_at
        if since < self._drop_pause:
            return
        self._drop_pause = (
            min(2 * self._drop_pause, LONGEST_DROP_PAUSE) if since < 3 * self._drop_pause else FIRST_DROP_PAUSE
        )
        self._dropped_at = monotonic()
        self.close(reason)

    def close(self, reason: str) -> None:
        """Close every connection."""
        for connection in list(self._connections):
            connection.close(reason)

    def check_primary(self, role: str) -> None:
        """
        Do nothing if *role*, from the reply to HELLO, is that of a primary.

        Raises:
            TransportUnavailable: it is not.
        """
        if role not in PRIMARY:
            raise TransportUnavailable(
                f"{self.uri} is a replica and rejects writes; waiting until it, or the server behind this address, "
                f"is the primary"
            )

    async def _open(self, patience: float) -> Connection:
        loop = asyncio.get_running_loop()
        make = partial(Connection, patience)
        if self._path is not None:
            _, connection = await loop.create_unix_connection(make, self._path)
            return connection
        host, port = self.uri.host or "localhost", self.uri.port or DEFAULT_PORT
        transport, connection = await loop.create_connection(make, host, port, ssl=self._tls)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return connection

    async def _log_in(self, connection: Connection, hello: bytes) -> None:
        commands: list[bytes] = []
        if self.uri.username is not None or self.uri.password is not None:
            user = [self.uri.username] if self.uri.username else []
            commands.append(pack("AUTH", *user, self.uri.password or ""))
        if self.database:
            commands.append(pack("SELECT", self.database))
        connection.write([*commands, hello])
        replies = await connection.read_replies(len(commands) + 1)
        for reply in replies[: len(commands)]:
            if isinstance(reply, ResponseError):
                raise reply
        self._check(replies[-1])

    def _check(self, reply: object) -> None:
        """Check the *reply* to HELLO: version, mode and role."""
        if isinstance(reply, ResponseError) and "unknown command" in str(reply).lower():
            raise self._too_old("before 6.0, or one without the command HELLO") from reply
        hello = Hello.parse(reply)
        if hello.major < OLDEST_MAJOR:
            raise self._too_old(hello.version)
        if hello.mode != self._mode:
            raise ConfigurationError(
                f"{self.uri} is a Redis in {hello.mode} mode, not in {self._mode} mode: write "
                f"redis://host for a single server, redis+cluster://host1,host2 for a cluster, and "
                f"redis+sentinel://host1,host2,host3/service for sentinels"
            )
        if not self._any_role:
            self.check_primary(hello.role)

    def _too_old(self, version: str) -> ConfigurationError:
        return ConfigurationError(
            f"{self.uri} is a Redis {version}; eventbus needs {OLDEST_MAJOR}.0 or later, or Valkey"
        )

    def _hint(self, error: TransportUnavailable) -> str:
        """Return a hint if the two sides may disagree about TLS; else an empty string."""
        cause = error.__cause__
        if self.uri.scheme.startswith("rediss") and isinstance(cause, TimeoutError):
            return "check that the server speaks TLS on this port"
        # With TLS 1.3 the reset may overtake the alert that says so.
        if self.uri.scheme.startswith("rediss") and isinstance(cause, ConnectionResetError):
            return "if the server asks for a certificate, give ssl_certfile and ssl_keyfile"
        # A TLS server hangs up on a client that does not begin with a handshake.
        if (
            not self.uri.scheme.startswith("rediss")
            and isinstance(cause, ConnectionResetError)
            and HUNG_UP in str(cause)
        ):
            return "if it speaks TLS on this port, write rediss://"
        return ""


def replicas_of(reply: object) -> int:
    """Return how many replicas the *reply* to ROLE lists; none if the user may not ask."""
    match reply:
        case [_, _, [*replicas]]:
            return len(replicas)
    return 0


def _socket_path(uri: TransportURI) -> str | None:
    if uri.scheme != "unix":
        return None
    if uri.host or uri.port or not uri.path:
        raise ConfigurationError(f"{uri} names no socket; write unix:///path/to/redis.sock")
    return uri.path


def _database(uri: TransportURI, options: RedisOptions) -> int:
    path = "" if uri.scheme == "unix" else uri.path.removeprefix("/")
    if not path:
        return options.db
    if not (path.isascii() and path.isdigit() and len(path) < 20 and int(path) <= MAX_DATABASE):
        raise ConfigurationError(f"{path!r} in {uri} is not a database number; write {uri.scheme}://host:port/0")
    if options.db not in (0, int(path)):
        raise ConfigurationError(f"{uri} names database {path}, but option 'db' is {options.db}; give only one of them")
    return int(path)


def _tls_context(uri: TransportURI, options: RedisOptions) -> ssl.SSLContext | None:
    if not uri.scheme.startswith("rediss"):
        if unused := [name for name in uri.options if name.startswith("ssl_")]:
            raise ConfigurationError(f"option {unused[0]!r} needs TLS, which {uri} does not use; write rediss://")
        return None
    for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        file = getattr(options, name)
        if file is not None and not Path(file).is_file():
            raise ConfigurationError(f"option {name!r}: there is no file {file!r}")
    if options.ssl_certfile is None and options.ssl_keyfile is not None:
        raise ConfigurationError("option 'ssl_keyfile' is given without 'ssl_certfile', the certificate of that key")
    try:
        context = ssl.create_default_context(cafile=options.ssl_ca_certs)
        context.check_hostname = options.ssl_check_hostname and options.ssl_cert_reqs != "none"
        context.verify_mode = getattr(ssl, f"CERT_{options.ssl_cert_reqs.upper()}")
        if options.ssl_certfile is not None:
            # An empty password, else OpenSSL asks at the terminal for the one of an encrypted key.
            context.load_cert_chain(options.ssl_certfile, options.ssl_keyfile, options.ssl_password or "")
    except (ssl.SSLError, OSError, ValueError) as error:
        raise ConfigurationError(f"the files of the ssl_* options cannot be used: {error}") from error
    return context
