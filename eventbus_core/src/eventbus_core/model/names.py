"""
The rules of names, checked once in the public interface.

An *address* is the source or target of an event: the name of a client, or one of ``@node``,
``#topic`` and ``*`` (everyone). The first characters keep the kinds apart, so a client cannot
pass for a node, and :meth:`Bus.send` accepts every ``event.source``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from eventbus_core.errors import InvalidName

MAX_NAME: Final = 255
MAX_IDENTIFIER: Final = 64
MAX_TOPICS: Final = 64
"""Topics to which one event may be published at once."""
EVERYONE: Final = "*"
NODE_SIGN: Final = "@"
TOPIC_SIGN: Final = "#"
RESERVED: Final = "$"
TOPIC: Final = "topic or event type"
"""The kind of both in errors: they have the same rules."""

_IDENTIFIER = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")


def check_client(name: object, kind: str = "client") -> str:
    """
    Return *name* if it is a valid name of a client, or of another *kind* with the same rules: ``name`` or
    ``tenant/name``.

    Raises:
        InvalidName: it is empty, over 255 bytes, has unprintable characters, spaces or
            wildcards, begins with one of ``@ # $``, or has more than one slash.
    """
    name = _check_characters(kind, name)
    if name[0] in "@#$":
        raise InvalidName(kind, name, "the first character may not be one of @ # $")
    parts = name.split("/")
    if len(parts) > 2 or not all(parts):
        raise InvalidName(kind, name, "it must be 'name' or 'tenant/name'")
    return name


def is_client(address: str) -> bool:
    """Return whether *address* is a client, and not a node, a topic or everyone."""
    return address[:1] not in (NODE_SIGN, TOPIC_SIGN, EVERYONE)


def is_identifier(name: object) -> bool:
    """Return whether *name* follows the rule of :func:`check_identifier`."""
    return isinstance(name, str) and len(name) <= MAX_IDENTIFIER and _IDENTIFIER.fullmatch(name) is not None


@lru_cache(maxsize=4096)
def is_known_identifier(name: str) -> bool:
    """Return what :func:`is_identifier` does; the answers for recent names are cached."""
    return is_identifier(name)


def is_other_node(name: object, own: str) -> bool:
    """Return whether *name*, from a frame that may be forged, is a valid node id other than *own*."""
    return name != own and is_identifier(name)


def check_identifier(kind: str, name: object) -> str:
    """
    Return *name* if it is a valid id of a node or namespace: tokens of ``A-Z a-z 0-9 _ -`` joined by dots.

    Raises:
        InvalidName: it has other characters, an empty token, or over 64 characters.
    """
    if not isinstance(name, str) or not is_identifier(name):
        raise InvalidName(kind, name, f"1 to {MAX_IDENTIFIER} of A-Z a-z 0-9 _ - and single dots between")
    return str.__str__(name)


def check_address(address: object) -> str:
    """
    Return *address* if it is valid for a send: a client's name, or ``@node``.

    Raises:
        InvalidName: see :func:`check_client` and :func:`check_identifier`.
    """
    if isinstance(address, str) and address.startswith(NODE_SIGN):
        return NODE_SIGN + check_identifier("node", address[1:])
    if isinstance(address, str) and address.startswith(TOPIC_SIGN):
        raise InvalidName("client", address, f"it is the address of a topic; publish to {address[1:]!r} instead")
    if address == EVERYONE:
        raise InvalidName("client", address, "it is the address of everyone; use broadcast instead")
    return check_client(address)


def check_topic(topic: str) -> str:
    """
    Return *topic* if applications may publish to it, or use it as the type of an event.

    Raises:
        InvalidName: it is empty, over 255 bytes, has an empty token, unprintable characters,
            spaces or wildcards, or begins with ``$`` (reserved for the bus itself).
    """
    try:
        return known_topic(topic)
    except TypeError:
        raise _no_text(TOPIC, topic) from None


def check_topics(topics: object) -> list[str]:
    """
    Return *topics*, each once, if applications may publish to all of them at once.

    Raises:
        InvalidName: they are no sequence of texts, none, or over ``MAX_TOPICS``, or one breaks the rules of
            :func:`check_topic`.
    """
    if not isinstance(topics, Sequence) or isinstance(topics, bytes):
        raise InvalidName("topic", topics, f"it is {type(topics).__name__}, not str or a list of str")
    checked = list(dict.fromkeys(map(check_topic, topics)))
    if not 1 <= len(checked) <= MAX_TOPICS:
        raise InvalidName("list of topics", topics, f"it must have 1 to {MAX_TOPICS} topics, and has {len(checked)}")
    return checked


@lru_cache(maxsize=4096)
def known_topic(topic: str) -> str:
    """Return *topic*, checked as by :func:`check_topic`; topics that were checked recently are cached."""
    topic = _check_characters(TOPIC, topic)
    if topic[0] == RESERVED:
        raise InvalidName(TOPIC, topic, "those that begin with $ are reserved for the bus")
    if "" in topic.split("."):
        raise InvalidName(TOPIC, topic, "no token between the dots may be empty")
    return topic


def check_pattern(pattern: str) -> str:
    """
    Return *pattern* if it is valid for a subscription: a topic in which a token may be ``*``, and the last ``>``.

    Raises:
        InvalidName: a wildcard is only part of a token, ``>`` is not the last token, or a rule of topics is broken.
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


def check_text(kind: str, name: object) -> str:
    """
    Return *name* if it is a text.

    Raises:
        InvalidName: it is of another type.
    """
    if not isinstance(name, str):
        raise _no_text(kind, name)
    return name


def node_address(node: str) -> str:
    """Return the address of *node*, ``@node``."""
    return NODE_SIGN + node


def topic_address(topic: str) -> str:
    """Return the address of *topic*, ``#topic``."""
    return TOPIC_SIGN + topic


def _check_characters(kind: str, name: object, *, wildcards: bool = False) -> str:
    name = check_text(kind, name)
    if not name:
        raise InvalidName(kind, name, "it is empty")
    if not name.isprintable() or " " in name:
        raise InvalidName(kind, name, "only printable characters and no spaces")
    if len(name.encode()) > MAX_NAME:
        raise InvalidName(kind, name, f"it takes over {MAX_NAME} bytes")
    if not wildcards and ("*" in name or ">" in name):
        raise InvalidName(kind, name, "the wildcards * and > belong in patterns")
    return str.__str__(name)  # MessagePack encodes no subclasses of str


def _no_text(kind: str, name: object) -> InvalidName:
    return InvalidName(kind, name, f"it is {type(name).__name__}, not str")
