"""The requests on one reading line, and what the server's answers mean. No I/O."""

from __future__ import annotations

from collections import deque
from enum import Enum, auto
from typing import Any, NamedTuple

import hiredis
from redis.exceptions import InvalidResponse, ResponseError

from eventbus_redis.packing import pack
from eventbus_redis.server import HELLO


class Kind(Enum):
    """What a command asks for, or what an answer says."""

    JOIN = auto()
    LEAVE = auto()
    PROBE = auto()
    ENDED = auto()
    """The server has ended the subscription by itself: the slot has moved, or the server is no primary any more."""


class Answer(NamedTuple):
    """The answer to a request about *name*, a channel or the key of a probe; *error* if it was refused."""

    kind: Kind
    name: bytes
    error: ResponseError | None = None


class LineRequests:
    """
    The commands without an answer on one line, which the server answers in their order.

    The answer to a subscription is a push that names the channel; an error names nothing, so it belongs to the first
    request without an answer.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[Kind, bytes]] = deque()

    def join(self, name: bytes) -> bytes:
        """Return the command that subscribes to the channel *name*, to be sent at once."""
        return self._ask(Kind.JOIN, "SSUBSCRIBE", name)

    def leave(self, name: bytes) -> bytes:
        """
        Return the command that unsubscribes from the channel *name*, to be sent at once.

        Its answer may be a push like that for a subscription which the server ended, or an error. So a HELLO, whose
        answer looks like no other, tells where the answers end.
        """
        return self._ask(Kind.LEAVE, "SUNSUBSCRIBE", name) + HELLO

    def probe(self, key: bytes) -> bytes:
        """Return the command that reads *key*: only the primary of its slot answers without a redirection."""
        return self._ask(Kind.PROBE, "GET", key)

    def take(self, reply: Any) -> Answer | None:
        """
        Return what *reply*, which is no message, says; ``None`` if nothing that matters.

        Raises:
            InvalidResponse: it answers no request.
        """
        if isinstance(reply, hiredis.PushNotification):
            return self._take_push(*reply[:2])
        if not self._waiting:
            raise InvalidResponse(f"the server sent {reply!r:.80}, which answers nothing")
        kind, name = self._waiting[0]
        if kind is Kind.LEAVE and isinstance(reply, ResponseError):
            return None  # the slot has moved; the answer to HELLO follows
        self._waiting.popleft()
        if kind is Kind.LEAVE:
            return None
        return Answer(kind, name, reply if isinstance(reply, ResponseError) else None)

    def _take_push(self, push: bytes, name: bytes) -> Answer | None:
        left = (Kind.LEAVE, name) in self._waiting  # a channel that will be left is not joined for good
        if push == b"ssubscribe" and self._waiting and self._waiting[0] == (Kind.JOIN, name):
            self._waiting.popleft()
            return None if left else Answer(Kind.JOIN, name)
        return Answer(Kind.ENDED, name) if push == b"sunsubscribe" and not left else None

    def _ask(self, kind: Kind, command: str, name: bytes) -> bytes:
        self._waiting.append((kind, name))
        return pack(command, name)
