"""Which types the data of an event can be decoded into."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec.inspect import CustomType, Type, type_info

from eventbus_core.errors import EventDataError, shown


def decoder_into(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    """
    Return a decoder into *kind*, which may be or contain models of pydantic.

    Raises:
        EventDataError: msgspec cannot decode into *kind* or a part of it; the message says what to do.
    """
    try:
        decoder = msgspec.msgpack.Decoder(kind, dec_hook=validated)
        parts = list(_parts(type_info(kind), set()))
    except (TypeError, NameError) as error:
        raise EventDataError(f"data={shown(kind)} is no type that msgspec can decode: {error}") from error
    for part in parts:
        if isinstance(part, CustomType) and not hasattr(part.cls, "model_validate"):
            raise EventDataError(
                f"msgspec cannot decode data into {part.cls.__name__!r}; use an attrs class, a dataclass, a msgspec "
                f"struct, a TypedDict or a model of pydantic, or leave out data="
            )
    return decoder


def dumped(value: Any) -> object:
    """
    Return what MessagePack is to hold of *value*, a model of pydantic or one like it.

    Raises:
        TypeError: it is none.
    """
    if not hasattr(type(value), "model_dump"):
        raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")
    result: object = value.model_dump()
    return result


def validated(kind: type[Any], value: object) -> object:
    """
    Return *value*, which MessagePack held, as a *kind*, a model of pydantic or one like it.

    Raises:
        TypeError: it is none.
        ValueError: *value* does not fit.
    """
    if not hasattr(kind, "model_validate"):
        raise TypeError(f"msgspec cannot decode data into {kind.__name__!r}")
    result: object = kind.model_validate(value)
    return result


def _parts(value: Any, seen: set[int]) -> Iterator[Type]:
    """Yield each type that *value*, a description by msgspec, consists of; such descriptions may be recursive."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, tuple):
        children = value
    elif isinstance(value, msgspec.Struct):
        children = tuple(getattr(value, name) for name in value.__struct_fields__)
    else:
        return
    if isinstance(value, Type):
        yield value
    for child in children:
        yield from _parts(child, seen)
