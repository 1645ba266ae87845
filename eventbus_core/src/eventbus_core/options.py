"""Options as attrs classes: filled from a URI's query and from keywords, converted and checked by their fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

import attrs
import msgspec

from eventbus_core.errors import EventBusError, OptionError
from eventbus_core.names import check_identifier

T = TypeVar("T")
Overflow: TypeAlias = Literal["drop_oldest", "drop_newest", "close"]
KIB = 1024
MIB = 1024 * KIB


def option(default: Any, help: str, *, least: float | None = None, most: float | None = None, **extra: Any) -> Any:
    """Return an attrs field for an option: its default, one sentence for the docs, and its bounds."""
    return attrs.field(default=default, kw_only=True, metadata={"help": help, "least": least, "most": most}, **extra)


@attrs.frozen
class BusOptions:
    """The options of a bus, whatever its backend. Sizes are in bytes, times in seconds."""

    node: str | None = option(None, "id of this node; made up if not given")
    namespace: str = option("default", "buses of one namespace see each other, others never")
    lanes: int = option(64, "topic lanes of the namespace, the same on every node", least=1, most=65_536)
    lease: float = option(10.0, "a node not heard of for so long is dead, its clients free", least=0.1, most=86_400)
    max_event_size: int = option(MIB, "largest event that may be sent", least=64)
    frame_size: int = option(128 * KIB, "a frame is closed once its events reach this size", least=KIB)
    outbox_size: int = option(128 * KIB, "events waiting for the broker, per partition, before senders wait", least=KIB)
    receive_budget: int = option(
        256 * KIB, "unhandled events that all remote senders together may have here", least=KIB
    )
    resend_size: int = option(32 * MIB, "frames kept to be sent again to who missed them, all sessions", least=0)
    resend_age: float = option(60.0, "how long frames are kept to be sent again", least=0.0)
    hold_back_size: int = option(4 * MIB, "frames held per session until a missing one came", least=KIB)
    mailbox_events: int = option(10_000, "events that a lagging client or handler may keep waiting", least=1)
    local_lead: int = option(125, "events that senders of the same node may be ahead of a receiver", least=1)
    mailbox_size: int = option(8 * MIB, "bytes that a lagging client or handler may keep waiting", least=KIB)
    overflow: Overflow = option(  # noqa: RUF009  # an alias hides from it that this is no mutable default
        "drop_oldest", "what is dropped if more waits, or that the client is closed then (a handler, never)"
    )
    laggard_timeout: float = option(2.0, "how long a slow receiver may hold up its senders", least=0.01)
    send_timeout: float = option(30.0, "how long a send may wait for room before it raises", least=0.01)
    close_timeout: float = option(5.0, "how long closing waits for what was accepted to be handled", least=0.0)
    presence: bool = option(False, "publish who joins, leaves, claims and releases to the topics `$sys.>`")
    wait_for_broker: bool = option(
        True, "raise if the broker is not there at the start; if not, start alone, join later"
    )
    owner_cache: int = option(100_000, "owners of remote clients that are remembered", least=1)
    max_clients: int = option(1_000_000, "clients that this node may hold at a time", least=1)
    max_subscriptions: int = option(10_000, "patterns that one client may be subscribed to", least=1)
    max_patterns: int = option(1_000_000, "patterns of all handlers and clients here, each per subscriber", least=1)
    max_requests: int = option(100_000, "requests that may wait for their answers at a time", least=1)

    def __attrs_post_init__(self) -> None:
        check_identifier("namespace", self.namespace)
        if self.node is not None:
            check_identifier("node", self.node)


def check_overflow(value: Overflow | None) -> Overflow | None:
    """
    Return *value*.

    Raises:
        OptionError: it is no such policy.
    """
    if value is not None and value not in get_args(Overflow):
        raise OptionError.bad_value("overflow", value, _expected(Overflow))
    return value


def check_seconds(name: str, value: object) -> None:
    """
    Do nothing if the argument *name* was given a number of seconds, or ``None``.

    Raises:
        OptionError: its *value* is negative, NaN, or of another type.
    """
    if value is not None and not (isinstance(value, int | float) and value >= 0):
        raise OptionError.bad_value(name, value, "a number of seconds, 0 or more")


def option_names(options: type[Any]) -> frozenset[str]:
    """Return the names that the attrs class *options* takes."""
    return frozenset(field.name for field in attrs.fields(options))


def parse_options(options: Callable[..., T], values: Mapping[str, object]) -> T:
    """
    Return an object of the attrs class *options* made of *values*; text is converted to each field's type.

    Raises:
        OptionError: a name is unknown, or a value is not of its type or out of its bounds.
    """
    fields = attrs.fields_dict(options)  # type: ignore[arg-type]
    hints = get_type_hints(options)
    for name in values:
        if name not in fields:
            raise OptionError.unknown(name, fields)
    converted = {name: _convert(fields[name], hints[name], value) for name, value in values.items()}
    try:
        return options(**converted)
    except EventBusError:
        raise
    except (TypeError, ValueError) as error:
        raise OptionError(str(error)) from error


def _convert(field: attrs.Attribute[Any], kind: Any, value: object) -> object:
    least, most = field.metadata.get("least"), field.metadata.get("most")
    expected = _expected(kind)
    if least is not None:
        expected += f" of at least {least:g}" + ("" if most is None else f" and at most {most:g}")
    try:
        result = msgspec.convert(value, kind, strict=not isinstance(value, str))
    except msgspec.ValidationError as error:
        raise OptionError.bad_value(field.name, _shown(field, value), expected) from error
    if least is not None and not least <= result <= (most if most is not None else float("inf")):
        raise OptionError.bad_value(field.name, _shown(field, value), expected)
    return result


def _expected(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(repr, get_args(kind)))
    return str(getattr(kind, "__name__", kind))


def _shown(field: attrs.Attribute[Any], value: object) -> object:
    return value if field.repr else "***"
