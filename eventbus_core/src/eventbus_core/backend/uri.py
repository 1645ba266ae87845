"""The URI that chooses a backend, parsed once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, Self
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

import attrs

from eventbus_core.errors import ConfigurationError, OptionError, shown

HIDDEN = "***"

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")


class Address(NamedTuple):
    """A host, and its port if the URI names one. ``str()`` is as in a URI, with an IPv6 address in brackets."""

    host: str = ""
    port: int | None = None

    def __str__(self) -> str:
        host = f"[{quote(self.host, safe=':')}]" if ":" in self.host else quote(self.host)
        return host if self.port is None else f"{host}:{self.port}"


def _frozen(options: Mapping[str, object]) -> Mapping[str, object]:
    return MappingProxyType(dict(options))


@attrs.frozen
class TransportURI:
    """
    Where to connect: ``scheme://user:password@host:port,host:port/path?options``.

    The password is in no repr, no str and no error. ``options`` holds what the query and the
    keyword arguments gave to the backend: text from the query, any object from a keyword.

    ``hosts`` is never empty: without any host it is one address, with an empty host.
    """

    scheme: str
    hosts: tuple[Address, ...] = (Address(),)
    path: str = ""
    username: str | None = None
    password: str | None = attrs.field(default=None, repr=False)
    namespace: str = "default"
    options: Mapping[str, object] = attrs.field(factory=dict, converter=_frozen, repr=False, hash=False)

    @classmethod
    def parse(cls, text: object) -> Self:
        """
        Parse *text*.

        Raises:
            ConfigurationError: it has no scheme, an empty host among several, a port that is no port, or a sign that
                must be escaped.
            OptionError: an option is given twice.
        """
        if not isinstance(text, str):
            raise ConfigurationError(f"a URI is text such as 'memory://', not {shown(text)}")
        if not text.isprintable():
            raise ConfigurationError("a URI holds printable characters only: write others as % and two digits")
        scheme, separator, rest = text.partition("://")
        if not separator or not _SCHEME.fullmatch(scheme):
            raise ConfigurationError(f"{_hidden(text)!r} is not a URI: it must begin with 'scheme://'{_meant(text)}")
        place, *after = re.split(r"([/?])", rest, maxsplit=1)
        if "#" in rest or "@" in "".join(after):
            raise ConfigurationError(
                f"{scheme}://... cannot be parsed: write / ? # in a password as %2F %3F %23, "
                f"and @ in a path or an option as %40"
            )
        # The login is cut off first: urllib takes a bracket in it for that of a host. Its error may quote the password.
        login, at, address = place.rpartition("@")
        username, colon, password = login.partition(":")
        if re.search("@.*,", login):
            raise ConfigurationError(
                f"{scheme}://... names a user twice, or has @ in a password: write user:password@ once, before the "
                f"first host, and @ in a password as %40"
            )
        try:
            places = [urlsplit(f"//{part}") for part in address.split(",")]
        except ValueError:
            raise ConfigurationError(f"bad host in {_hidden(text)!r}") from None
        hosts = tuple(_address(scheme, place) for place in places)
        parts = urlsplit("".join(("//", *after)))
        if len(hosts) > 1 and not all(known.host for known in hosts):
            raise ConfigurationError(f"a host is missing in {_hidden(text)!r}: write host:port,host:port")
        options: dict[str, object] = {}
        for name, value in parse_qsl(parts.query, keep_blank_values=True):
            if name in options:
                raise OptionError(f"option {name!r} is given twice")
            options[name] = value
        return cls(
            scheme=scheme.lower(),
            hosts=hosts,
            path=unquote(parts.path),
            username=unquote(username) if at else None,
            password=unquote(password) if colon else None,
            options=options,
        )

    def __str__(self) -> str:
        user = "" if self.username is None else quote(self.username, safe="")
        secret = "" if self.password is None else f":{HIDDEN}"
        at = "@" if user or secret else ""
        return f"{self.scheme}://{user}{secret}{at}{','.join(map(str, self.hosts))}{quote(self.path)}"

    @property
    def host(self) -> str:
        """
        The only host.

        Raises:
            ConfigurationError: there are several.
        """
        return self._only.host

    @property
    def port(self) -> int | None:
        """The port of the only host; raises as :attr:`host` does."""
        return self._only.port

    @property
    def _only(self) -> Address:
        if len(self.hosts) > 1:
            raise ConfigurationError(f"{self} names {len(self.hosts)} hosts; {self.scheme}:// takes one")
        return self.hosts[0]


def _address(scheme: str, parts: SplitResult) -> Address:
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        before = f"{scheme}://{parts.hostname or ''}:"
        raise ConfigurationError(f"bad port after {before!r}: it must be a number from 1 to 65535")
    return Address(unquote(parts.hostname or ""), port)


def _meant(text: str) -> str:
    """Return the question whether a URI with ``//`` was meant, if *text* has a scheme without."""
    scheme, colon, rest = text.partition(":")
    if not (colon and _SCHEME.fullmatch(scheme)) or rest[:1].isdigit():  # a host and its port
        return ""
    meant = _hidden(scheme + "://" + rest.lstrip("/"))
    return f"; did you mean {meant!r}?"


def _hidden(text: str) -> str:
    """*text* without its query, and without what may be a user's name and password."""
    before, at, after = text.rpartition("@")
    scheme, separator, _ = before.partition("://")
    return (f"{scheme}://" if separator else "") + (f"{HIDDEN}@" if at else "") + after.partition("?")[0]
