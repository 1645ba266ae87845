"""The URI that chooses a backend, parsed once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Self
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import attrs

from eventbus_core.errors import ConfigurationError, OptionError, shown

HIDDEN = "***"

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")


def _frozen(options: Mapping[str, object]) -> Mapping[str, object]:
    return MappingProxyType(dict(options))


@attrs.frozen
class TransportURI:
    """
    Where to connect: ``scheme://user:password@host:port/path?options``.

    The password is in no repr, no str and no error. ``options`` holds what the query and the
    keyword arguments gave to the backend: text from the query, any object from a keyword.
    """

    scheme: str
    host: str = ""
    port: int | None = None
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
            ConfigurationError: it has no scheme, a port that is no port, or a sign that must be escaped.
            OptionError: an option is given twice.
        """
        if not isinstance(text, str):
            raise ConfigurationError(f"a URI is text such as 'memory://', not {shown(text)}")
        if not text.isprintable():
            raise ConfigurationError("a URI holds printable characters only: write others as % and two digits")
        scheme, separator, rest = text.partition("://")
        if not separator or not _SCHEME.fullmatch(scheme):
            raise ConfigurationError(f"{_hidden(text)!r} is not a URI: it must begin with 'scheme://'")
        if "#" in rest or "@" in "".join(re.split(r"([/?])", rest, maxsplit=1)[1:]):
            raise ConfigurationError(
                f"{scheme}://... cannot be parsed: write / ? # in a password as %2F %3F %23, "
                f"and @ in a path or an option as %40"
            )
        # Not chained to what urllib raises: that may quote the password.
        try:
            parts = urlsplit(f"//{rest}")
        except ValueError:
            raise ConfigurationError(f"bad host in {_hidden(text)!r}") from None
        try:
            port = parts.port
        except ValueError:
            port = 0
        if port == 0:
            before = f"{scheme}://{parts.hostname or ''}:"
            raise ConfigurationError(f"bad port after {before!r}: it must be a number from 1 to 65535")
        options: dict[str, object] = {}
        for name, value in parse_qsl(parts.query, keep_blank_values=True):
            if name in options:
                raise OptionError(f"option {name!r} is given twice")
            options[name] = value
        return cls(
            scheme=scheme.lower(),
            host=unquote(parts.hostname or ""),
            port=port,
            path=unquote(parts.path),
            username=_unquoted(parts.username),
            password=_unquoted(parts.password),
            options=options,
        )

    def __str__(self) -> str:
        user = "" if self.username is None else quote(self.username, safe="")
        secret = "" if self.password is None else f":{HIDDEN}"
        at = "@" if user or secret else ""
        host = f"[{quote(self.host, safe=':')}]" if ":" in self.host else quote(self.host)
        port = "" if self.port is None else f":{self.port}"
        return f"{self.scheme}://{user}{secret}{at}{host}{port}{quote(self.path)}"


def _unquoted(text: str | None) -> str | None:
    return None if text is None else unquote(text)


def _hidden(text: str) -> str:
    """*text* without its query, and without what may be a user's name and password."""
    before, at, after = text.rpartition("@")
    scheme, separator, _ = before.partition("://")
    return (f"{scheme}://" if separator else "") + (f"{HIDDEN}@" if at else "") + after.partition("?")[0]
