"""Events: the value that applications send and receive, and its form on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, Generic, TypeAlias, overload

import msgspec
from msgspec.structs import force_setattr, replace

from eventbus_core.errors import EventDataError, EventTooLarge, shown
from eventbus_core.model.decodable import dumped, validated
from eventbus_core.model.names import NODE_SIGN, TOPIC_SIGN, is_identifier
from eventbus_core.model.object_keys import REFUSED, decode_object_keys

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # that of the standard library has no defaults before Python 3.13

    Data_co = TypeVar("Data_co", covariant=True, default=Any)
else:
    from typing import TypeVar

    Data_co = TypeVar("Data_co", covariant=True)

T = TypeVar("T")
Into: TypeAlias = type[T]

_encode = encode_unread = msgspec.msgpack.Encoder(enc_hook=dumped).encode
"""
:func:`encode_event` for an event whose data was not read, without the cost of a Python call.

It also takes a tuple of an event's fields, up to the last one that differs from its default, with the data itself in
the place of ``raw``. It raises one of ``UNSENDABLE`` if MessagePack cannot hold the value.
"""
_decode = msgspec.msgpack.Decoder().decode
check_encoded = msgspec.msgpack.Decoder(msgspec.Raw).decode
"""
Raise one of ``UNREADABLE`` if bytes are not one value of MessagePack, whose parts it skips: an encoder passes on what
data holds of ``msgspec.Raw`` as it is, and in a frame such bytes would take the events after them along.
"""
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError)
"""The errors of a decoder for bytes that it cannot read; ``TypeError`` for a set whose members cannot be hashed."""
MAX_HEADERS: Final = 64
"""Headers of an event: a frame of events with thousands each would stop its receiver."""
UNSENDABLE = (TypeError, ValueError, OverflowError, RecursionError)
"""The errors of an encoder for values that MessagePack cannot hold."""


class Event(msgspec.Struct, Generic[Data_co], frozen=True, array_like=True, gc=False):
    """
    One event, immutable; to type checkers, ``Event[T]`` is one whose ``data`` is a ``T``.

    The data of a received event is decoded when it is first read. The result is this receiver's
    own copy, and the same object each time it is read.

    Attributes:
        type: the kind of event, a dot-separated name.
        source: the address of the sender: a client's name, or ``@node``. Stamped by the bus.
        target: the address of the receivers: a client's name, ``@node``, ``#topic`` or ``*``.
        id: unique in the namespace.
        raw: the data as MessagePack.
        headers: text that travels beside the data.
    """

    type: str
    source: str
    target: str
    id: str
    raw: msgspec.Raw
    headers: Annotated[dict[str, str], msgspec.Meta(max_length=MAX_HEADERS)] | None = None
    epoch: int = 0  # the epoch of the claim that the sender knew
    hops: int = 0  # how often it was forwarded
    origin: str | None = None  # the node that accepted it, if it was forwarded
    reply_to: str | None = None  # of a request: the address that waits for the answer
    answers: str | None = None  # of an answer: the id of its request
    expires: float | None = None  # seconds since 1970, by the sender's clock
    # The result of `data`; on the wire this field can only be nil.
    _data: None = None

    @property
    def data(self) -> Data_co:
        """
        The decoded data.

        Raises:
            EventDataError: the data is not MessagePack; no sender of this library produces that.
        """
        cached: Any = self._data
        if cached is not None:
            return cached[0]  # type: ignore[no-any-return]
        try:
            try:
                value = _decode(self.raw)
            except REFUSED:
                value = decode_object_keys(self.raw)
        except UNREADABLE as error:
            raise _unreadable(self.type, error) from error
        force_setattr(self, "_data", (value,))
        return value  # type: ignore[no-any-return]

    @property
    def position(self) -> str | None:
        """
        The place of the event in its retained stream, to resume from; ``None`` if the event is not retained.

        Under 64 characters of ``0-9 a-z : -``, safe in a URL or a header. See :meth:`Client.subscribe`.
        """
        return None

    @property
    def topic(self) -> str | None:
        """
        The topic to which the event was published; ``None`` if it was not published.

        Of several, the first to which this receiver is subscribed; ``target`` names the ones before it as well.
        """
        return self.target[1:].partition(" ")[0] if self.target.startswith(TOPIC_SIGN) else None

    @overload
    def decode(self, into: Into[T]) -> T: ...

    @overload
    def decode(self, into: Any) -> Any: ...  # a union, say

    def decode(self, into: Any) -> Any:
        """
        Return the data as an object of type *into*.

        That is any type that msgspec can decode, also attrs classes and dataclasses, or a model of pydantic.

        Raises:
            EventDataError: the data does not fit the type; the message says where.
        """
        return self.read(msgspec.msgpack.Decoder(into, dec_hook=validated))

    def read(self, decoder: msgspec.msgpack.Decoder[T]) -> T:
        """Return the data as *decoder* decodes it; ``data`` keeps the result if it was not read before."""
        try:
            value = decoder.decode(self.raw)
        except UNREADABLE as error:
            raise _unreadable(self.type, error) from error
        if self._data is None:
            force_setattr(self, "_data", (value,))
        return value

    def accepted_by(self, sender: str) -> str:
        """Return the node that accepted the event: its origin if it was forwarded, else its *sender*."""
        return self.origin if self.origin is not None and is_identifier(self.origin) else sender

    @property
    def asker(self) -> str | None:
        """The node that waits for the answer, if this is a request."""
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
    """Return *event* as it is written into a frame."""
    decoded: Any = event._data
    return _encode(event if decoded is None else replace(event, _data=None))


def encode_data(data: object, limit: int) -> bytes:
    """
    Return *data* as MessagePack.

    Raises:
        EventDataError: MessagePack cannot hold it; the message names the path to the part that fails.
        EventTooLarge: it takes more than *limit* bytes.
    """
    try:
        raw = _encoded(data)
        if data.__class__ is msgspec.Raw:
            decode_object_keys(raw)
    except (*UNSENDABLE, *UNREADABLE) as error:
        path, value, reason = _find_fault(data, "data", error)
        raise EventDataError(
            f"{path} cannot be sent: {reason} ({_short(value)}); send text, numbers, bytes, None, dates, lists, dicts, "
            f"attrs classes, dataclasses, msgspec structs or models of pydantic"
        ) from error
    if len(raw) > limit:
        raise EventTooLarge(len(raw), limit)
    return raw


def _encoded(data: object) -> bytes:
    raw = _encode(data)
    check_encoded(raw)
    return raw


def copy_event(event: Event) -> Event:
    """Return a copy of *event* that shares no mutable object with it."""
    copied: Event = event.__copy__()  # type: ignore[attr-defined]  # a call of copy() would take twice as long
    if event.headers is not None:
        force_setattr(copied, "headers", dict(event.headers))
    return copied


def check_headers(headers: Mapping[Any, Any]) -> tuple[dict[str, str], int]:
    """
    Return a copy of *headers* as a dict, and their size in bytes.

    Raises:
        EventDataError: *headers* is not a mapping of text to text, or has more than ``MAX_HEADERS``.
    """
    if not isinstance(headers, Mapping):
        raise EventDataError(f"headers are a dict of text to text, not {_short(headers)}")
    if len(headers) > MAX_HEADERS:
        raise EventDataError(f"an event has at most {MAX_HEADERS} headers, not {len(headers)}; put the rest into data")
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise EventDataError(f"header {shown(name)} is {_short(value)}; headers are text, put other data into data")
    own = dict(headers)
    try:
        return own, len(_encode(own))
    except (TypeError, UnicodeEncodeError) as error:
        raise EventDataError(f"headers {shown(own)} cannot be sent: {error}") from error


def _unreadable(type: str, error: Exception) -> EventDataError:
    return EventDataError(f"the data of the event {type!r} does not fit the requested type: {error}")


def _find_fault(value: Any, path: str, error: Exception, depth: int = 32) -> tuple[str, Any, Exception]:
    """Follow *error* down to the smallest part of *value* that still raises."""
    if depth:
        for step, child in _children(value):
            try:
                _encoded(child)
            except (*UNSENDABLE, *UNREADABLE) as cause:
                return _find_fault(child, f"{path}{step}", cause, depth - 1)
    return path, value, error


def _children(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [(f"[{shown(key)}]", child) for key, child in value.items()]
    if isinstance(value, list | tuple | set | frozenset):
        return [(f"[{index}]", child) for index, child in enumerate(value)]
    kind = type(value)  # the class: asking the object may run its code
    names = (
        getattr(kind, "__struct_fields__", None)
        or [field.name for field in getattr(kind, "__attrs_attrs__", ())]
        or list(getattr(kind, "__dataclass_fields__", ()))
    )
    return [(f".{name}", getattr(value, name)) for name in names if hasattr(value, name)]


def _short(value: object) -> str:
    return f"{type(value).__name__} {shown(value)}"
