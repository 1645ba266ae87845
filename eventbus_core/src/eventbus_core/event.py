"""An event: what is sent, and at the same time how it lies on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, TypeVar

import msgspec
from msgspec.structs import force_setattr, replace

from eventbus_core.errors import EventDataError, EventTooLarge, shown
from eventbus_core.names import NODE_SIGN, is_identifier

T = TypeVar("T")
Into: TypeAlias = type[T]

_encode = encode_unread = msgspec.msgpack.Encoder().encode
"""
What :func:`encode_event` does for an event whose data nobody has read, without a frame of Python's.

It takes a tuple, too, of the fields of an event up to the last one that has not its default, with the data itself in
the place of ``raw``; and raises one of ``UNSENDABLE`` if MessagePack cannot hold that.
"""
_decode = msgspec.msgpack.Decoder().decode
_FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
UNSENDABLE = (TypeError, ValueError, OverflowError, RecursionError)


class Event(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """
    One event, immutable.

    Events that reached a handler hold their data undecoded until someone reads it; what is
    read is this receiver's own copy and stays the same object for the life of the event.

    Attributes:
        type: what happened, a dot-separated name.
        source: who sent it: a client's name, or ``@node``. Stamped by the bus.
        target: whom it is for: a client's name, ``@node``, ``#topic`` or ``*``.
        id: unique in the namespace.
        raw: the data as MessagePack.
        headers: text that travels beside the data.
    """

    type: str
    source: str
    target: str
    id: str
    raw: msgspec.Raw
    headers: dict[str, str] | None = None
    epoch: int = 0  # of the claim that the sender believed in
    hops: int = 0  # how often it was forwarded
    origin: str | None = None  # the node that accepted it, once it was forwarded
    reply_to: str | None = None  # of a request: the address that awaits the answer
    answers: str | None = None  # of an answer: the id of its request
    expires: float | None = None  # seconds since 1970, by the sender's clock
    # Nothing but nil can come from the wire here: it keeps what `data` decoded.
    _data: None = None

    @property
    def data(self) -> Any:
        """
        The decoded data.

        Raises:
            EventDataError: the data is no MessagePack, which no sender of ours produces.
        """
        cached: Any = self._data
        if cached is not None:
            return cached[0]
        try:
            value = _decode(self.raw)
        except _FAULTS as error:
            raise _unreadable(self.type, error) from error
        force_setattr(self, "_data", (value,))
        return value

    @property
    def topic(self) -> str | None:
        """The topic that it was published to, if it was."""
        return self.target[1:] if self.target.startswith("#") else None

    def decode(self, into: Into[T]) -> T:
        """
        Return the data as an object of *into*: any that msgspec can decode, attrs and dataclasses included.

        Raises:
            EventDataError: the data is not of that type; the message says where.
        """
        return self.read(msgspec.msgpack.Decoder(into))

    def read(self, decoder: msgspec.msgpack.Decoder[T]) -> T:
        """Do what :meth:`decode` does with a decoder made before; if nobody has read ``data``, let it be the result."""
        try:
            value = decoder.decode(self.raw)
        except (*_FAULTS, TypeError) as error:  # such as of a set whose members cannot be hashed
            raise _unreadable(self.type, error) from error
        if self._data is None:
            force_setattr(self, "_data", (value,))
        return value

    def accepted_by(self, sender: str) -> str:
        """Return the node that accepted it: the one that it names, as it was forwarded, else its *sender*."""
        return self.origin if self.origin is not None and is_identifier(self.origin) else sender

    @property
    def asker(self) -> str | None:
        """The node that awaits the answer, if it is a request."""
        if self.reply_to is None or self.reply_to[:1] != NODE_SIGN or not is_identifier(self.reply_to[1:]):
            return None
        return self.reply_to[1:]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Event) and encode_event(self) == encode_event(other)

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"Event(type={self.type!r}, source={self.source!r}, target={self.target!r}, id={self.id!r})"


def encode_event(event: Event) -> bytes:
    """Return *event* as it lies in a frame."""
    decoded: Any = event._data
    return _encode(event if decoded is None else replace(event, _data=None))


def decode_event(encoded: bytes) -> Event:
    """Return the event that :func:`encode_event` encoded."""
    return msgspec.msgpack.decode(encoded, type=Event)


def encode_data(data: object, limit: int) -> bytes:
    """
    Return *data* as MessagePack.

    Raises:
        EventDataError: MessagePack cannot hold it; the message names the path to what it cannot.
        EventTooLarge: it takes more than *limit* bytes.
    """
    try:
        raw = _encode(data)
    except UNSENDABLE as error:
        path, value, reason = _find_fault(data, "data", error)
        raise EventDataError(
            f"{path} cannot be sent: {reason} ({_short(value)}); send text, numbers, bytes, None, dates, lists, "
            f"dicts, attrs classes, dataclasses or msgspec structs"
        ) from error
    if len(raw) > limit:
        raise EventTooLarge(len(raw), limit)
    return raw


def copy_event(event: Event) -> Event:
    """Return a copy of *event* that shares nothing with it which could be changed."""
    copied: Event = event.__copy__()  # type: ignore[attr-defined]  # a call of copy() would take twice as long
    if event.headers is not None:
        force_setattr(copied, "headers", dict(event.headers))
    return copied


def check_headers(headers: Mapping[Any, Any]) -> tuple[dict[str, str], int]:
    """
    Return *headers* as a dict of its own, and the bytes that they take.

    Raises:
        EventDataError: they are no mapping of text to text.
    """
    if not isinstance(headers, Mapping):
        raise EventDataError(f"headers are a dict of text to text, not {_short(headers)}")
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise EventDataError(f"header {shown(name)} is {_short(value)}; headers are text, put other data into data")
    own = dict(headers)
    try:
        return own, len(_encode(own))
    except (TypeError, UnicodeEncodeError) as error:
        raise EventDataError(f"headers {shown(own)} cannot be sent: {error}") from error


def _unreadable(type: str, error: Exception) -> EventDataError:
    return EventDataError(f"the data of the event {type!r} is not what was asked for: {error}")


def _find_fault(value: Any, path: str, error: Exception, depth: int = 32) -> tuple[str, Any, Exception]:
    """Follow *error* down to the smallest part of *value* that still raises."""
    if depth:
        for step, child in _children(value):
            try:
                _encode(child)
            except UNSENDABLE as cause:
                return _find_fault(child, f"{path}{step}", cause, depth - 1)
    return path, value, error


def _children(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [(f"[{shown(key)}]", child) for key, child in value.items()]
    if isinstance(value, list | tuple | set | frozenset):
        return [(f"[{index}]", child) for index, child in enumerate(value)]
    kind = type(value)  # the object itself may be one that does not like to be asked
    names = (
        getattr(kind, "__struct_fields__", None)
        or [field.name for field in getattr(kind, "__attrs_attrs__", ())]
        or list(getattr(kind, "__dataclass_fields__", ()))
    )
    return [(f".{name}", getattr(value, name)) for name in names if hasattr(value, name)]


def _short(value: object) -> str:
    return f"{type(value).__name__} {shown(value)}"
