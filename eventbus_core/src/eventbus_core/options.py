"""Options as attrs classes: filled from a URI's query and from keywords, converted and checked by their fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Final, Literal, TypeAlias, TypeVar, Union, cast, get_args, get_origin, get_type_hints
from urllib.parse import quote, urlencode

import attrs
import msgspec

from eventbus_core.errors import EventBusError, OptionError
from eventbus_core.model.names import check_identifier
from eventbus_core.model.retention import RetainedClients, RetainedPatterns, RetainedQueues
from eventbus_core.model.secrets import Secrets

T = TypeVar("T")
Overflow: TypeAlias = Literal["drop_oldest", "drop_newest", "close"]
KIB = 1024
MIB = 1024 * KIB
_IN_WORDS: Final[Mapping[object, str]] = MappingProxyType(
    {str: "text", int: "a whole number", float: "a number", bool: "true or false", NoneType: "None"}
)


def option(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    parse: Callable[[object], Any] | None = None,
    **extra: Any,
) -> Any:
    """Return an attrs field for an option: its default, one sentence for the docs, its bounds, and its own parser."""
    metadata = {"help": help, "minimum": minimum, "maximum": maximum, "parse": parse}
    return attrs.field(default=default, kw_only=True, metadata=metadata, **extra)


@attrs.frozen
class BusOptions:
    """The options of a bus, whatever its backend. Sizes are in bytes, times in seconds."""

    node: str | None = option(None, "id of this node; generated if not given")
    namespace: str = option("default", "only buses in the same namespace see each other")
    lanes: int = option(64, "number of topic lanes; must be the same on every node", minimum=1, maximum=65_536)
    lease: float = option(
        10.0, "a node that does not renew for this long is dead and its clients are free", minimum=0.1, maximum=86_400
    )
    max_event_size: int = option(MIB, "maximum size of an event", minimum=64)
    frame_size: int = option(128 * KIB, "a frame is closed once its events reach this size", minimum=KIB)
    outbox_size: int = option(
        128 * KIB, "events that may wait for the broker, per partition, before senders wait", minimum=KIB
    )
    receive_budget: int = option(
        MIB,
        "unhandled events that all remote senders together may have sent to this node; small ones use a quarter of it",
        minimum=KIB,
    )
    resend_size: int = option(32 * MIB, "sent frames kept for retransmission, over all sessions", minimum=0)
    resend_age: float = option(60.0, "how long sent frames are kept for retransmission", minimum=0.0)
    hold_back_size: int = option(4 * MIB, "frames held per session while an earlier frame is missing", minimum=KIB)
    mailbox_events: int = option(10_000, "events that may wait for one slow client or handler", minimum=1)
    local_backlog: int = option(
        125, "events that may wait for a receiver before senders on the same node wait", minimum=1
    )
    mailbox_size: int = option(8 * MIB, "bytes that may wait for one slow client or handler", minimum=KIB)
    overflow: Overflow = option(  # noqa: RUF009  # an alias hides from it that this is no mutable default
        "drop_oldest",
        "what to do when a mailbox is full: drop the oldest event, drop the newest, or close the client "
        "(never a handler)",
    )
    slow_consumer_timeout: float = option(
        1.0, "how long one slow receiver may delay its senders before its mailbox bounds apply", minimum=0.01
    )
    send_timeout: float = option(30.0, "how long a send may wait for room before it raises", minimum=0.01)
    close_timeout: float = option(5.0, "how long closing waits until accepted events are handled", minimum=0.0)
    presence: bool = option(False, "publish nodes and clients that come and go to the topics `$sys.>`")
    wait_for_broker: bool = option(
        True, "raise if the broker is unavailable at the start; if false, start alone and join later"
    )
    retain: RetainedPatterns = option(  # noqa: RUF009
        RetainedPatterns(),
        "topics whose latest events the broker keeps, see [missed events](missed-events.md); must be the same on every "
        "node",
        parse=RetainedPatterns.parse,
    )
    retain_clients: RetainedClients = option(  # noqa: RUF009
        RetainedClients(),
        "clients for whom the broker keeps the latest events that are sent to them, by names such as `acme/*`; must be "
        "the same on every node",
        parse=RetainedClients.parse,
    )
    retain_queues: RetainedQueues = option(  # noqa: RUF009
        RetainedQueues(),
        "[queues](queues.md#retain-a-queue) whose events the broker keeps until they are handled, by names such as "
        "`jobs`; must be the same on every node",
        parse=RetainedQueues.parse,
    )
    max_retained_topics: int = option(
        10_000,
        "retained topics, clients and queues that this node may publish or send to within their retention",
        minimum=1,
    )
    secret: Secrets = option(  # noqa: RUF009
        Secrets(),
        "secret that all nodes share, or several, of which the first seals: what other programs write is rejected, see "
        "[security](security.md)",
        parse=Secrets.parse,
        repr=False,
    )
    secret_file: str | None = option(None, "path of a file to read the option `secret` from")
    encrypt: bool = option(False, "encrypt too what is sealed; needs `eventbus[crypto]`; the same on every node")
    owner_cache: int = option(100_000, "owners of remote clients that are cached", minimum=1)
    max_clients: int = option(1_000_000, "clients that this node may hold at a time", minimum=1)
    max_subscriptions: int = option(10_000, "patterns that one client may be subscribed to", minimum=1)
    max_patterns: int = option(
        1_000_000, "patterns of all handlers and clients of this node, counted per subscriber", minimum=1
    )
    max_requests: int = option(100_000, "requests that may be pending at a time", minimum=1)

    @property
    def retained(self) -> str:
        """All that is retained, as options in the query of a URI; empty if nothing is."""
        kept = [(each.option, str(each)) for each in (self.retain, self.retain_clients, self.retain_queues) if each]
        return urlencode(kept, safe="/*>=,", quote_via=quote)

    def __attrs_post_init__(self) -> None:
        check_identifier("namespace", self.namespace)
        if self.node is not None:
            check_identifier("node", self.node)
        if self.encrypt and not self.secret:
            raise OptionError("option 'encrypt' needs a secret: give secret=, secret_file= or EVENTBUS_SECRET")


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
    if (parse := field.metadata.get("parse")) is not None:
        return cast("object", parse(value))
    minimum, maximum = field.metadata.get("minimum"), field.metadata.get("maximum")
    expected = _expected(kind)
    if minimum is not None:
        expected += f" of at least {minimum:.10g}" + ("" if maximum is None else f" and at most {maximum:.10g}")
    try:
        result = msgspec.convert(value, kind, strict=not isinstance(value, str))
    except msgspec.ValidationError as error:
        raise OptionError.bad_value(field.name, _shown(field, value), expected) from error
    if minimum is not None and not minimum <= result <= (maximum if maximum is not None else float("inf")):
        raise OptionError.bad_value(field.name, _shown(field, value), expected)
    return result


def _expected(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(repr, get_args(kind)))
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(map(_expected, get_args(kind)))
    return _IN_WORDS.get(kind) or str(getattr(kind, "__name__", kind))


def _shown(field: attrs.Attribute[Any], value: object) -> object:
    return value if field.repr else "***"
