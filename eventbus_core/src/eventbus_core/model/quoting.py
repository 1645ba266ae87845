"""Any text as a part of a name: of a client, a tenant, or a token of a topic."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import Final
from urllib.parse import quote as percent_encode
from urllib.parse import unquote as percent_decode

from eventbus_core.errors import InvalidName

MAX_QUOTED: Final = 120
"""So that a name of two quoted parts is valid."""
DIGEST_SIZE: Final = 16
EMPTY: Final = "%"
CUT: Final = "%%"
"""Stands before the digest of a text that was too long; no other quoted text contains it."""


def quote(text: str) -> str:
    """
    Return *text* as a valid part of a name, at most 120 characters; different texts give different parts.

    Letters, digits, ``_``, ``-`` and ``~`` of ASCII stay; of every other character each byte of its UTF-8 becomes
    ``%`` and two digits. Empty text becomes ``%``. The part of a client's name is ``quote(user)``, of a topic
    ``f"room.{quote(room)}"``.

    :func:`unquote` reverses it, unless the result would take over 120 characters: then it is the beginning and a digest
    of 128 bits, the same in every process.
    """
    return _quote_short(text) if len(text) <= MAX_QUOTED else _quote(text)


def _quote(text: str) -> str:
    encoded = text.encode("utf-8", "surrogatepass")
    quoted = percent_encode(encoded, safe="").replace(".", "%2E") or EMPTY
    if len(quoted) <= MAX_QUOTED:
        return quoted
    digest = CUT + blake2b(encoded, digest_size=DIGEST_SIZE).hexdigest()
    return quoted[: MAX_QUOTED - len(digest)] + digest


_quote_short: Final = lru_cache(maxsize=4096)(_quote)


def unquote(name: str) -> str:
    """
    Return the text that :func:`quote` made into *name*.

    Raises:
        InvalidName: it was too long to be kept: *name* contains a digest of it.
    """
    if CUT in name:
        raise InvalidName("quoted text", name, "it contains a digest of a text that was too long; keep that text")
    return "" if name == EMPTY else percent_decode(name, errors="surrogatepass")
