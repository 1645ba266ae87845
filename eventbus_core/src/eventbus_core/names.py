"""
The rules of names, checked once at the edge.

An *address* is what an event is sent to or comes from: the name of a client, or one of
``@node``, ``#topic`` and ``*`` (everyone). The signs keep the kinds apart, so that a client
can never pass for a node, and :meth:`Bus.send` can answer whatever ``event.source`` says.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from eventbus_core.errors import InvalidName

MAX_NAME: Final = 255
MAX_IDENTIFIER: Final = 64
EVERYONE: Final = "*"
NODE_SIGN: Final = "@"
TOPIC_SIGN: Final = "#"
RESERVED: Final = "$"

_IDENTIFIER = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")


def check_client(name: object) -> str:
    """
    Return *name* if it can be a client's: ``name`` or ``tenant/name``.

    Raises:
        InvalidName: it is empty, over 255 bytes, has unprintable characters, spaces or
            wildcards, begins with one of ``@ # $``, or has more than one slash.
    """
    name = _check_characters("client", name)
    if name[0] in "@#$":
        raise InvalidName("client", name, "the first character may not be one of @ # $")
    parts = name.split("/")
    if len(parts) > 2 or not all(parts):
        raise InvalidName("client", name, "it must be 'name' or 'tenant/name'")
    return name


def is_client(address: str) -> bool:
    """Return whether *address* is a client's, and no node's, no topic's and not everyone's."""
    return address[:1] not in (NODE_SIGN, TOPIC_SIGN, EVERYONE)


def is_identifier(name: object) -> bool:
    """Return whether *name* follows the rule of :func:`check_identifier`."""
    return isinstance(name, str) and len(name) <= MAX_IDENTIFIER and _IDENTIFIER.fullmatch(name) is not None


def is_other_node(name: object, own: str) -> bool:
    """Return whether *name*, as a frame has it, which may be forged, can be that of another node than *own*."""
    return name != own and is_identifier(name)


def check_identifier(kind: str, name: object) -> str:
    """
    Return *name* if it can name a node or a namespace: tokens of ``A-Z a-z 0-9 _ -`` joined by dots.

    Raises:
        InvalidName: it has other characters, an empty token, or over 64 characters.
    """
    if not isinstance(name, str) or not is_identifier(name):
        raise InvalidName(kind, name, f"1 to {MAX_IDENTIFIER} of A-Z a-z 0-9 _ - and single dots between")
    return str.__str__(name)


def check_address(address: object) -> str:
    """
    Return *address* if something can be sent to it: a client's name, or ``@node``.

    Raises:
        InvalidName: see :func:`check_client` and :func:`check_identifier`.
    """
    if isinstance(address, str) and address.startswith(NODE_SIGN):
        return NODE_SIGN + check_identifier("node", address[1:])
    return check_client(address)


def check_topic(topic: str) -> str:
    """
    Return *topic* if an application may publish to it, or use it as an event's type.

    Raises:
        InvalidName: it is empty, over 255 bytes, has an empty token, unprintable characters,
            spaces or wildcards, or begins with ``$`` (reserved for the bus itself).
    """
    try:
        return known_topic(topic)
    except TypeError:
        raise _no_text("topic", topic) from None


@lru_cache(maxsize=4096)
def known_topic(topic: str) -> str:
    """Do what :func:`check_topic` does with a text; those checked lately cost nothing."""
    topic = _check_characters("topic", topic)
    if topic[0] == RESERVED:
        raise InvalidName("topic", topic, "topics that begin with $ belong to the bus")
    if "" in topic.split("."):
        raise InvalidName("topic", topic, "no token between the dots may be empty")
    return topic


def check_pattern(pattern: str) -> str:
    """
    Return *pattern* if one can subscribe to it: a topic in which a token may be ``*``, and the last ``>``.

    Raises:
        InvalidName: a wildcard is only a part of a token, ``>`` is not the last, or a rule of topics is broken.
    """
    pattern = _check_characters("pattern", pattern, wildcards=True)
    tokens = pattern.split(".")
    if "" in tokens:
        raise InvalidName("pattern", pattern, "no token between the dots may be empty")
    for token in tokens:
        if len(token) > 1 and ("*" in token or ">" in token):
            raise InvalidName("pattern", pattern, "a wildcard must be a whole token")
    if ">" in tokens[:-1]:
        raise InvalidName("pattern", pattern, "'>' may only be the last token")
    return pattern


def node_address(node: str) -> str:
    """Return the address of *node*, ``@node``."""
    return NODE_SIGN + node


def topic_address(topic: str) -> str:
    """Return the address of *topic*, ``#topic``."""
    return TOPIC_SIGN + topic


def _check_characters(kind: str, name: object, *, wildcards: bool = False) -> str:
    if not isinstance(name, str):
        raise _no_text(kind, name)
    if not name:
        raise InvalidName(kind, name, "it is empty")
    if not name.isprintable() or " " in name:
        raise InvalidName(kind, name, "only printable characters and no spaces")
    if len(name.encode()) > MAX_NAME:
        raise InvalidName(kind, name, f"it takes over {MAX_NAME} bytes")
    if not wildcards and ("*" in name or ">" in name):
        raise InvalidName(kind, name, "the wildcards * and > belong in patterns")
    return str.__str__(name)  # MessagePack knows no subclasses of str


def _no_text(kind: str, name: object) -> InvalidName:
    return InvalidName(kind, name, f"it is {type(name).__name__}, not str")
